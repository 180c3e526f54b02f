//! The head of what an agent says, for a server behind a proxy: that finds it by the name in the request, and an agent knows
//! nothing but the address of its forward.
//!
//! Only the first request of a connection is looked at, so a request that keeps no connection for itself (an upgrade) is told
//! to be the last one: the agent opens another connection for the next. Whatever is no request is passed on as it is.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// No request of an agent begins with more.
const MAX_BYTES: usize = 16 * 1024;
/// From connecting to the end of the head.
const PATIENCE: Duration = Duration::from_secs(30);
const END: &[u8] = b"\r\n\r\n";

/// What the agent says first: with luck a whole head, and perhaps something of what follows it.
pub(super) async fn read(agent: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(1024);
    let whole = async {
        while head.len() < MAX_BYTES && end_of(&head).is_none() && agent.read_buf(&mut head).await? > 0 {}
        io::Result::Ok(())
    };
    tokio::time::timeout(PATIENCE, whole).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    Ok(head)
}

/// The same, said to `host`.
pub(super) fn said_to(head: Vec<u8>, host: &str) -> Vec<u8> {
    let Some((lines, rest)) = end_of(&head).and_then(|end| {
        let lines = std::str::from_utf8(&head[..end]).ok()?;
        Some((lines, &head[end + END.len()..]))
    }) else {
        return head;
    };
    let mut lines = lines.split("\r\n");
    let Some(request) = lines.next().filter(|line| line.ends_with(" HTTP/1.1")) else { return head };
    let mut text = format!("{request}\r\nHost: {host}\r\n");
    let mut upgrades = false;
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let has = |word: &str| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word));
        if name.eq_ignore_ascii_case("host") {
            continue;
        }
        if name.eq_ignore_ascii_case("connection") {
            if !has("upgrade") {
                continue;
            }
            upgrades = true;
        }
        text.push_str(line);
        text.push_str("\r\n");
    }
    text.push_str(if upgrades { "\r\n" } else { "Connection: close\r\n\r\n" });
    [text.as_bytes(), rest].concat()
}

fn end_of(head: &[u8]) -> Option<usize> {
    head.windows(END.len()).position(|window| window == END)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(head: &str) -> String {
        String::from_utf8(said_to(head.as_bytes().to_vec(), "helix.example.org")).expect("text")
    }

    #[test]
    fn a_request_names_the_server_and_is_the_last_one_unless_it_takes_the_connection() {
        let upgrade = "GET /api/v1/external-agents/sync?session_id=s HTTP/1.1\r\nhost: 127.0.0.1\r\n\
                       connection: keep-alive, Upgrade\r\nauthorization: Bearer t\r\n\r\nframe";
        assert_eq!(
            said(upgrade),
            "GET /api/v1/external-agents/sync?session_id=s HTTP/1.1\r\nHost: helix.example.org\r\n\
             connection: keep-alive, Upgrade\r\nauthorization: Bearer t\r\n\r\nframe"
        );
        let plain =
            "POST /x HTTP/1.1\r\nHost: 127.0.0.1:41234\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nbody";
        assert_eq!(
            said(plain),
            "POST /x HTTP/1.1\r\nHost: helix.example.org\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
        );
    }

    #[test]
    fn what_is_no_request_is_passed_on_as_it_is() {
        for other in ["", "GET / HTTP/1.1\r\nHost: x\r\n", "hello\r\n\r\n", "GET / HTTP/1.0\r\nHost: x\r\n\r\n"] {
            assert_eq!(said(other), other);
        }
        let bytes = b"GET /\xff HTTP/1.1\r\n\r\n".to_vec();
        assert_eq!(said_to(bytes.clone(), "x"), bytes);
    }

    #[tokio::test]
    async fn reading_ends_with_the_head_or_with_patience() {
        let (mut ours, theirs) = tokio::io::duplex(64);
        let writing = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt as _;
            let mut theirs = theirs;
            for part in ["GET / HT", "TP/1.1\r\n\r", "\nmore"] {
                theirs.write_all(part.as_bytes()).await.expect("written");
                tokio::task::yield_now().await;
            }
            theirs
        });
        let head = read(&mut ours).await.expect("a head");
        assert!(head.starts_with(b"GET / HTTP/1.1\r\n\r\n"), "{head:?}");
        drop(writing.await.expect("written"));
    }
}
