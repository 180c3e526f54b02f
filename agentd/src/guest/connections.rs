//! Clients of `guest.sock`: non-blocking connections that are read line by line.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;

use super::wire::{Answer, MAX_LINE_BYTES, Request, line};

/// A subscriber that does not read what happened is cut off: it connects again and gets the state.
const MAX_UNSENT_BYTES: usize = 4 * MAX_LINE_BYTES;

pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) stream: UnixStream,
    pub(super) subscribed: bool,
    received: Vec<u8>,
    unsent: Vec<u8>,
    broken: bool,
}

impl Connection {
    /// Takes a client that has connected. None if it is another user's.
    pub(super) fn accept(id: u64, stream: UnixStream) -> io::Result<Option<Self>> {
        let peer = socket_peercred(&stream)?;
        if peer.uid != geteuid() && !peer.uid.is_root() {
            return Ok(None);
        }
        stream.set_nonblocking(true)?;
        Ok(Some(Self { id, stream, subscribed: false, received: Vec::new(), unsent: Vec::new(), broken: false }))
    }

    /// Requests that have arrived. A line that is not one breaks the connection.
    pub(super) fn requests(&mut self) -> Vec<Request> {
        let mut bytes = [0_u8; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => self.broken = true,
                Ok(count) => {
                    self.received.extend_from_slice(&bytes[..count]);
                    if self.received.len() <= MAX_LINE_BYTES {
                        continue;
                    }
                    self.broken = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => self.broken |= error.kind() != io::ErrorKind::WouldBlock,
            }
            break;
        }
        let mut requests = Vec::new();
        while let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
            let text: Vec<u8> = self.received.drain(..=end).collect();
            match serde_json::from_slice(&text) {
                Ok(request) => requests.push(request),
                Err(error) => {
                    self.send(&Answer::Failed { reason: format!("not a request: {error}") });
                    self.broken = true;
                    break;
                }
            }
        }
        if self.received.is_empty() {
            // An idle subscriber keeps no buffer.
            self.received = Vec::new();
        }
        requests
    }

    pub(super) fn send(&mut self, answer: &Answer) {
        match line(answer) {
            Ok(line) => self.unsent.extend_from_slice(&line),
            Err(_) => self.broken = true,
        }
        self.flush();
        self.broken |= self.unsent.len() > MAX_UNSENT_BYTES;
    }

    /// Sends what the client can take now.
    pub(super) fn flush(&mut self) {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) => {
                    self.unsent.drain(..count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.broken |= error.kind() != io::ErrorKind::WouldBlock;
                    return;
                }
            }
        }
        self.unsent = Vec::new();
    }

    pub(super) fn wants_to_write(&self) -> bool {
        !self.unsent.is_empty()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }
}
