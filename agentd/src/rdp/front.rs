//! The first message of an RDP client, read before anything of the session's sees a byte: X.224's connection request
//! (MS-RDPBCGR 2.2.1.1).
//!
//! xrdp does not look at the user's name, so it is checked here, as far as clients say it beforehand: the cookie
//! `mstshash`, at most nine characters. That is a matter of manners; what lets in is the password, at the gate. What is no
//! connection request is closed without a word.

use std::time::Duration;

use helix_protocol::external_agents::RDP_USER;

use crate::gate::line::Hear;

/// For the whole request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest request; those of clients have less than 60 bytes.
const MAX_BYTES: usize = 512;
/// TPKT header: version, reserved, length of all.
const TPKT_BYTES: usize = 4;
const TPKT_VERSION: u8 = 3;
/// X.224 header of a connection request: length of what follows itself, code, two references, class.
const X224_BYTES: usize = 7;
const CONNECTION_REQUEST: u8 = 0xe0;
const COOKIE: &[u8] = b"Cookie: mstshash=";
/// Most characters of the name in a cookie: clients cut it there.
const MAX_NAME_CHARS: usize = 9;
/// RDP negotiation request: type, flags, length, protocols.
const NEGOTIATION: (u8, usize) = (1, 8);
/// RDP correlation info, which may follow it.
const CORRELATION: (u8, usize) = (6, 36);

/// First byte of every RDP client: by it one is told from a VNC viewer, which waits.
pub const FIRST_BYTE: u8 = TPKT_VERSION;

/// Connection confirm with a negotiation failure. No code is about names; INCONSISTENT_FLAGS (4) is the one at which
/// clients do not try again in another way.
const REFUSED: &[u8] = &[3, 0, 0, 19, 14, 0xd0, 0, 0, 0, 0, 0, 3, 0, 8, 0, 4, 0, 0, 0];

/// Why a client is sent away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrontError {
    /// Another protocol, or a message that no client sends.
    #[error("the client does not begin as RDP does")]
    NotRdp,
    /// It said nothing, or not all.
    #[error("the client did not say all of its connection request in time")]
    Late,
    /// No user, or another one.
    #[error("the RDP user is {RDP_USER}, and the client names another one or none")]
    User,
}

impl FrontError {
    /// What it is told in its own protocol.
    pub fn answer(self) -> Option<&'static [u8]> {
        (self == Self::User).then_some(REFUSED)
    }
}

/// Reads the request, and answers all bytes that came: they are for xrdp.
pub async fn request(hear: &mut impl Hear) -> Result<Vec<u8>, FrontError> {
    let read = async {
        let mut bytes = Vec::new();
        loop {
            match look(&bytes)? {
                Look::More => {}
                Look::Good => return Ok(bytes),
            }
            bytes.extend_from_slice(&hear.hear().await.ok_or(FrontError::Late)?);
        }
    };
    tokio::time::timeout(REQUEST_TIMEOUT, read).await.unwrap_or(Err(FrontError::Late))
}

/// What the bytes so far are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// The beginning of a request.
    More,
    /// A whole one of the right user, and perhaps what follows.
    Good,
}

fn look(bytes: &[u8]) -> Result<Look, FrontError> {
    // Told at once: whoever speaks something else may wait for us.
    if bytes.first().is_some_and(|first| *first != TPKT_VERSION) {
        return Err(FrontError::NotRdp);
    }
    let Some(head) = bytes.get(..TPKT_BYTES) else { return Ok(Look::More) };
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    if !(TPKT_BYTES + X224_BYTES..=MAX_BYTES).contains(&length) {
        return Err(FrontError::NotRdp);
    }
    let Some(request) = bytes.get(TPKT_BYTES..length) else { return Ok(Look::More) };
    let (header, rest) = request.split_at(X224_BYTES);
    // A request is as long as both headers say, of class 0, and has no credit.
    if usize::from(header[0]) + 1 != request.len() || header[1] != CONNECTION_REQUEST || header[6] != 0 {
        return Err(FrontError::NotRdp);
    }
    let Some(rest) = rest.strip_prefix(COOKIE) else {
        // A load balancer's token stands where the name would.
        return Err(if negotiates(rest) || rest.starts_with(b"Cookie: msts=") {
            FrontError::User
        } else {
            FrontError::NotRdp
        });
    };
    let end = rest.windows(2).take(MAX_NAME_CHARS + 1).position(|end| end == b"\r\n").ok_or(FrontError::NotRdp)?;
    let (name, rest) = (&rest[..end], &rest[end + 2..]);
    if !negotiates(rest) {
        return Err(FrontError::NotRdp);
    }
    if name == RDP_USER.as_bytes() { Ok(Look::Good) } else { Err(FrontError::User) }
}

/// Nothing, or a negotiation request, or one with correlation info.
fn negotiates(mut rest: &[u8]) -> bool {
    for (kind, bytes) in [NEGOTIATION, CORRELATION] {
        if rest.is_empty() {
            return true;
        }
        let fits =
            rest.len() >= bytes && rest[0] == kind && usize::from(u16::from_le_bytes([rest[2], rest[3]])) == bytes;
        if !fits {
            return false;
        }
        rest = &rest[bytes..];
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A request as `xfreerdp` sends it, with this between the headers and the negotiation.
    fn message(cookie: &[u8], negotiation: &[u8]) -> Vec<u8> {
        let rest = [cookie, negotiation].concat();
        let length = TPKT_BYTES + X224_BYTES + rest.len();
        let mut bytes = vec![3, 0];
        bytes.extend((length as u16).to_be_bytes());
        bytes.extend([(length - TPKT_BYTES - 1) as u8, 0xe0, 0, 0, 0, 0, 0]);
        bytes.extend(rest);
        bytes
    }

    const ASKS: &[u8] = &[1, 0, 8, 0, 3, 0, 0, 0];

    #[test]
    fn clients_of_the_right_user_are_let_through() {
        let zed = b"Cookie: mstshash=zed\r\n";
        let correlation = [ASKS, &[6, 0, 36, 0], &[7; 32]].concat();
        for good in [message(zed, ASKS), message(zed, &[]), message(zed, &correlation)] {
            assert_eq!(look(&good), Ok(Look::Good));
            assert_eq!(look(&[&good[..], b"more"].concat()), Ok(Look::Good), "what follows is for xrdp");
            for end in 0..good.len() {
                assert_eq!(look(&good[..end]), Ok(Look::More), "{end} bytes of it");
            }
        }
    }

    #[test]
    fn others_are_told_or_closed() {
        for named in [
            message(b"Cookie: mstshash=ann\r\n", ASKS),
            message(b"Cookie: mstshash=\r\n", ASKS),
            message(b"Cookie: mstshash=zedd\r\n", ASKS),
            message(b"Cookie: mstshash=ZED\r\n", ASKS),
            message(b"Cookie: msts=3640205228.15629.0000\r\n", ASKS),
            message(b"", ASKS),
            message(b"", b""),
        ] {
            assert_eq!(look(&named), Err(FrontError::User), "{:?}", String::from_utf8_lossy(&named));
        }
        assert!(FrontError::User.answer().is_some_and(|answer| answer[3] as usize == answer.len()));
        let zed: &[u8] = b"Cookie: mstshash=zed\r\n";
        let good = message(zed, ASKS);
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        for bad in [
            b"RFB 003.008\n".to_vec(),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            changed(2, 255),
            changed(3, 5),
            changed(4, 9),
            changed(5, 0xd0),
            changed(10, 2),
            message(b"Cookie: mstshash=zed", ASKS),
            message(b"Cookie: mstshash=0123456789\r\n", ASKS),
            message(zed, &ASKS[..7]),
            message(zed, &[2, 0, 8, 0, 3, 0, 0, 0]),
            message(zed, &[ASKS, ASKS].concat()),
        ] {
            assert_eq!(look(&bad), Err(FrontError::NotRdp), "{bad:?}");
        }
    }

    proptest! {
        /// Whatever comes, in whatever pieces: it is decided on, never beyond the longest request.
        #[test]
        fn anything_is_decided_on(mut bytes in proptest::collection::vec(any::<u8>(), 0..700), real: bool) {
            if real && bytes.len() > 4 {
                bytes[0] = 3;
                bytes[1] = 0;
            }
            let whole = look(&bytes);
            prop_assert!(whole != Ok(Look::More) || bytes.len() < MAX_BYTES);
            for end in 0..bytes.len() {
                match look(&bytes[..end]) {
                    Ok(Look::More) => {}
                    decided => {
                        prop_assert_eq!(decided, whole, "what follows changes what was decided");
                        break;
                    }
                }
            }
        }

        /// One byte of a good request is another: it is refused, waited for, or as good.
        #[test]
        fn a_changed_request_breaks_nothing(at in 0_usize..41, byte: u8) {
            let mut bytes = message(b"Cookie: mstshash=zed\r\n", ASKS);
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = look(&bytes);
        }
    }
}
