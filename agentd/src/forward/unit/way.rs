//! One direction of a connection.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::{Errno, read};
use rustix::net::{SendFlags, Shutdown, send, shutdown};

/// Rounds before the other connections have their turn.
const ROUNDS: usize = 16;

/// What was read on one side and not taken by the other.
#[derive(Debug, Default)]
pub(super) struct Way {
    held: Vec<u8>,
    /// How much of it has been taken.
    taken: usize,
    /// The one side says nothing more, and the other has been told so.
    over: bool,
}

impl Way {
    /// True once everything has been passed on, the end included.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn wants_to_read(&self) -> bool {
        !self.over && self.held.is_empty()
    }

    pub(super) fn wants_to_write(&self) -> bool {
        !self.held.is_empty()
    }

    /// Passes on what there is, without waiting. An error ends the connection.
    pub(super) fn advance(&mut self, from: &OwnedFd, to: &OwnedFd, buffer: &mut [u8]) -> io::Result<()> {
        for _ in 0..ROUNDS {
            if !self.held.is_empty() {
                self.taken += write_some(to, &self.held[self.taken..])?;
                if self.taken < self.held.len() {
                    return Ok(());
                }
                (self.held, self.taken) = (Vec::new(), 0);
            }
            if self.over {
                return Ok(());
            }
            match read(from, &mut *buffer) {
                Ok(0) => {
                    shutdown(to, Shutdown::Write)?;
                    self.over = true;
                }
                Ok(count) => {
                    let written = write_some(to, &buffer[..count])?;
                    self.held.extend_from_slice(&buffer[written..count]);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// How many of the bytes were taken.
fn write_some(to: &OwnedFd, mut bytes: &[u8]) -> io::Result<usize> {
    let all = bytes.len();
    while !bytes.is_empty() {
        match send(to, bytes, SendFlags::NOSIGNAL) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(all - bytes.len())
}
