//! The RFB handshake of a viewer, answered in the display's place; and ours with the display.
//!
//! The display has no password: only agentd reaches its socket. So the gate says who comes in: a browser by the ticket
//! that brought it here, a native viewer by VNC authentication. After that the display waits for ClientInit, which is
//! the first thing of the viewer's that reaches it.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::vnc_auth::{CHALLENGE_BYTES, is_right};

/// What both sides begin with: the newest version of the protocol.
const VERSION: &[u8; 12] = b"RFB 003.008\n";
const VERSION_BYTES: usize = VERSION.len();
const VERSION_PREFIX: &[u8] = b"RFB 003.";
const SECURITY_NONE: u8 = 1;
const SECURITY_VNC: u8 = 2;
const WRONG: &str = "the password is wrong";
/// Nobody asked for a password.
const COME_IN: Step = Step::In { rest: Vec::new(), by: 0 };

/// A viewer that is not in yet. Bytes in, bytes out: no I/O.
#[derive(Debug)]
pub struct Door {
    /// Any of these lets it in; none: it is let in without.
    passwords: Option<Vec<String>>,
    challenge: [u8; CHALLENGE_BYTES],
    /// Came in and is not understood yet; never more than one message of the handshake.
    unread: Vec<u8>,
    at: At,
    /// Newest version of the protocol that it speaks: 3.3, 3.7 or 3.8.
    minor: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Version,
    /// It chooses how to prove who it is.
    Choice,
    Answer,
}

/// What the handshake came to with the bytes so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// More is needed.
    More,
    /// It is in: what follows is for the display.
    In {
        /// What it sent beyond the handshake.
        rest: Vec<u8>,
        /// Which of the passwords it knows; 0 where none was asked for.
        by: usize,
    },
    /// It knows no password.
    Wrong,
    /// It speaks something else.
    Foreign,
}

impl Door {
    /// A door, and what the viewer is sent first. One with an empty list of passwords lets nobody in, and does not say so.
    pub fn open(passwords: Option<Vec<String>>) -> io::Result<(Self, &'static [u8])> {
        let mut challenge = [0; CHALLENGE_BYTES];
        getrandom::fill(&mut challenge).map_err(io::Error::other)?;
        let door = Self { passwords, challenge, unread: Vec::new(), at: At::Version, minor: 0 };
        Ok((door, VERSION))
    }

    /// Takes what the viewer sent; what it is to be sent goes behind `reply`.
    pub fn take(&mut self, bytes: &[u8], reply: &mut Vec<u8>) -> Step {
        self.unread.extend_from_slice(bytes);
        loop {
            let step = match self.at {
                At::Version => self.version(reply),
                At::Choice => self.choice(reply),
                At::Answer => self.answer(reply),
            };
            match step {
                Some(Step::More) => {}
                Some(Step::In { by, .. }) => return Step::In { rest: std::mem::take(&mut self.unread), by },
                Some(step) => return step,
                None => return Step::More,
            }
        }
    }

    /// None: more bytes are needed. `More`: on to the next message.
    fn version(&mut self, reply: &mut Vec<u8>) -> Option<Step> {
        // Told at once: whoever speaks something else may wait for us to speak.
        if self.unread.iter().zip(VERSION_PREFIX).any(|(said, meant)| said != meant) {
            return Some(Step::Foreign);
        }
        let line = self.next(VERSION_BYTES)?;
        let minor = line.strip_prefix(VERSION_PREFIX).and_then(|rest| rest.strip_suffix(b"\n"));
        match minor.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()) {
            Some(minor) if minor >= 3 => self.minor = minor,
            _ => return Some(Step::Foreign),
        }
        let security = if self.passwords.is_some() { SECURITY_VNC } else { SECURITY_NONE };
        if self.minor >= 7 {
            reply.extend([1, security]);
            self.at = At::Choice;
            return Some(Step::More);
        }
        // The oldest is told what it has to do.
        reply.extend(u32::from(security).to_be_bytes());
        if self.passwords.is_none() {
            return Some(COME_IN);
        }
        reply.extend(self.challenge);
        self.at = At::Answer;
        Some(Step::More)
    }

    fn choice(&mut self, reply: &mut Vec<u8>) -> Option<Step> {
        let chosen = self.next(1)?[0];
        match (chosen, &self.passwords) {
            (SECURITY_NONE, None) => {
                // Before 3.8 that was no result to be told.
                if self.minor >= 8 {
                    reply.extend(0_u32.to_be_bytes());
                }
                Some(COME_IN)
            }
            (SECURITY_VNC, Some(_)) => {
                reply.extend(self.challenge);
                self.at = At::Answer;
                Some(Step::More)
            }
            _ => Some(Step::Foreign),
        }
    }

    fn answer(&mut self, reply: &mut Vec<u8>) -> Option<Step> {
        let response: [u8; CHALLENGE_BYTES] = self.next(CHALLENGE_BYTES)?.try_into().ok()?;
        // All are tried, so that the time taken says nothing.
        let passwords = self.passwords.iter().flatten().enumerate();
        let right = passwords.filter(|(_, password)| is_right(password, &self.challenge, &response)).map(|(by, _)| by);
        let by = right.fold(None, |first, by| first.or(Some(by)));
        reply.extend(u32::from(by.is_none()).to_be_bytes());
        if let Some(by) = by {
            return Some(Step::In { rest: Vec::new(), by });
        }
        if self.minor >= 8 {
            reply.extend((WRONG.len() as u32).to_be_bytes());
            reply.extend(WRONG.as_bytes());
        }
        Some(Step::Wrong)
    }

    fn next(&mut self, bytes: usize) -> Option<Vec<u8>> {
        (self.unread.len() >= bytes).then(|| self.unread.drain(..bytes).collect())
    }
}

/// Our handshake with the display, up to ClientInit, which the viewer says.
pub async fn greet_display(display: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    let foreign = || io::Error::other("it does not speak RFB as our displays do");
    let mut version = [0; VERSION_BYTES];
    display.read_exact(&mut version).await?;
    if !version.starts_with(b"RFB 003.008") {
        return Err(foreign());
    }
    display.write_all(VERSION).await?;
    let mut offered = vec![0; usize::from(display.read_u8().await?)];
    display.read_exact(&mut offered).await?;
    if !offered.contains(&SECURITY_NONE) {
        return Err(foreign());
    }
    display.write_u8(SECURITY_NONE).await?;
    if display.read_u32().await? == 0 { Ok(()) } else { Err(foreign()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(password: Option<&str>) -> Door {
        let passwords = password.map(|password| vec!["another1".to_owned(), password.to_owned()]);
        let (door, greeting) = Door::open(passwords).expect("random bytes");
        assert_eq!(greeting, VERSION);
        door
    }

    /// The step after all bytes came one by one, and all that was said.
    fn slowly(door: &mut Door, bytes: &[u8]) -> (Step, Vec<u8>) {
        let mut reply = Vec::new();
        for byte in bytes {
            match door.take(&[*byte], &mut reply) {
                Step::More => {}
                step => return (step, reply),
            }
        }
        (Step::More, reply)
    }

    #[test]
    fn a_browser_comes_in_by_its_ticket_in_every_version() {
        assert_eq!(slowly(&mut door(None), b"RFB 003.008\n\x01"), (COME_IN, vec![1, 1, 0, 0, 0, 0]));
        assert_eq!(slowly(&mut door(None), b"RFB 003.003\n"), (COME_IN, vec![0, 0, 0, 1]));
        let mut reply = Vec::new();
        let at_once = door(None).take(b"RFB 003.008\n\x01\x01more", &mut reply);
        let rest = b"\x01more".to_vec();
        assert_eq!(at_once, Step::In { rest, by: 0 }, "what follows is for the display");
    }

    #[test]
    fn a_native_viewer_must_know_the_password() {
        for (version, head) in [(&b"RFB 003.008\n\x02"[..], 2), (b"RFB 003.003\n", 4)] {
            let mut right = door(Some("hunter22"));
            let (step, reply) = slowly(&mut right, version);
            assert_eq!((step, reply.len()), (Step::More, head + CHALLENGE_BYTES));
            let (step, reply) = slowly(&mut right, &[0; CHALLENGE_BYTES]);
            assert_eq!(step, Step::Wrong);
            assert_eq!(reply[..4], [0, 0, 0, 1]);
            assert_eq!(String::from_utf8_lossy(&reply).contains(WRONG), head == 2);
        }
        // One that would rather prove nothing.
        assert_eq!(slowly(&mut door(Some("hunter22")), b"RFB 003.008\n\x01").0, Step::Foreign);
    }

    #[test]
    fn any_of_the_passwords_lets_in_and_it_is_known_which() {
        use super::super::vnc_auth::answer;
        for (password, by) in [("another1", Some(0)), ("hunter22", Some(1)), ("hunter23", None), ("", None)] {
            let mut door = door(Some("hunter22"));
            slowly(&mut door, b"RFB 003.008\n\x02");
            let response = answer(password, &door.challenge);
            let expected = by.map_or(Step::Wrong, |by| Step::In { rest: Vec::new(), by });
            assert_eq!(slowly(&mut door, &response).0, expected, "{password}");
        }
        let (mut nobody, _) = Door::open(Some(Vec::new())).expect("random bytes");
        slowly(&mut nobody, b"RFB 003.008\n\x02");
        let response = answer("", &nobody.challenge);
        assert_eq!(slowly(&mut nobody, &response).0, Step::Wrong, "no grants let nobody in");
    }

    #[test]
    fn what_is_no_viewer_is_refused() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"RFB 003.002\n", b"RFB 00x.008\n", b"\x03"] {
            assert_eq!(slowly(&mut door(None), bytes).0, Step::Foreign, "{bytes:?}");
        }
    }
}
