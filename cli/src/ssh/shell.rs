//! One root shell per connection: `sh -s` in one channel, commands one after the other, each in a frame.
//!
//! A login's start-up files cost up to a quarter of a second per command, which is why there is one shell and not one
//! channel per command. Root: directly, by `sudo -n`, or by `sudo -S` with a password. Output is bounded, waiting too.
//! A frame ends with a line that only this connection knows, on both streams, so that neither is cut short.

use std::time::Duration;

use russh::client::Msg;
use russh::{Channel, ChannelMsg};
use tokio::time::{Instant, timeout_at};

use super::prompts::Prompts;
use super::{Connection, LOST};
use crate::error::{CliError, Kind, Result};

/// Most that a command may print on either stream.
const MAX_OUTPUT: usize = 1 << 20;
/// Until the shell has greeted, sudo's own slowness included.
pub(super) const GREETING_WITHIN: Duration = Duration::from_secs(30);
/// What is said of a host that does not answer.
pub const LATE: &str = "the host did not answer in time";
/// Begins the lines that say what kind of shell it is.
pub(super) const GREETING: &str = "helix-shell ";
/// Login shells may be other than POSIX; this one word they all take.
///
/// The one that is root says which TCP connection it has, for whoever waits for its lock (`begin.sh`).
const OPEN: &str = r#"sh -c '
LC_ALL=C LANGUAGE=; export LC_ALL LANGUAGE
if [ "$(id -u)" = 0 ]; then echo "helix-shell root $SSH_CONNECTION"; exec sh -s; fi
if ! command -v sudo >/dev/null 2>&1; then echo helix-shell no-sudo; exit 1; fi
if sudo -n -- sh -c : 2>/dev/null; then echo "helix-shell root $SSH_CONNECTION"; exec sudo -n -- sh -s; fi
echo helix-shell password
exec sudo -k -S -p "" -- sh -c "echo helix-shell root $SSH_CONNECTION; exec sh -s"'"#;

/// A root shell.
pub struct Shell {
    channel: Channel<Msg>,
    place: String,
    /// Ends frames.
    mark: String,
    out: Vec<u8>,
    err: Vec<u8>,
    /// `CLIENT PORT SERVER PORT` of its connection, as its sshd says; empty if it does not.
    pub connection: String,
    /// Times that an answer of the host was waited for.
    pub round_trips: u32,
}

/// What a command answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// As a shell tells it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Answer {
    /// The end of what it said, for an error.
    pub fn last_words(&self) -> String {
        let text = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let words = lines[lines.len().saturating_sub(8)..].join("\n");
        if words.is_empty() { format!("exit code {}", self.code) } else { words }
    }
}

impl Shell {
    /// Opens the shell.
    pub async fn open(connection: &Connection, prompts: &Prompts) -> Result<Self> {
        let channel = connection.channel().await?;
        channel.exec(true, OPEN).await.map_err(|error| connection.lost(&error))?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| CliError::failed("cannot get random bytes").because(error))?;
        let mark = format!("helix-end-{}", helix_protocol::ids::hex(&random));
        let place = connection.place.clone();
        let mut shell =
            Self { channel, place, mark, out: Vec::new(), err: Vec::new(), connection: String::new(), round_trips: 0 };
        let deadline = Instant::now() + GREETING_WITHIN;
        match shell.greeting(deadline).await?.as_str() {
            "root" => Ok(shell),
            "password" => {
                let password = prompts.sudo().await.map_err(|why| shell.no_root(why))?;
                shell.send(format!("{password}\n")).await?;
                match shell.greeting(Instant::now() + GREETING_WITHIN).await?.as_str() {
                    "root" => Ok(shell),
                    other => Err(shell.no_root(other)),
                }
            }
            _ => Err(shell.no_root("the login is not root, and there is no sudo")),
        }
    }

    /// Runs a script in a subshell without input, `given` as its variables.
    pub async fn run(&mut self, given: &[(&str, &str)], script: &str, within: Duration) -> Result<Answer> {
        self.frame(given, "(", script, ") </dev/null", within).await
    }

    /// Runs a script in the shell itself: what it opens stays open as long as the shell lives.
    pub async fn run_in_place(&mut self, given: &[(&str, &str)], script: &str, within: Duration) -> Result<Answer> {
        self.frame(given, "{", script, "}", within).await
    }

    async fn frame(
        &mut self,
        given: &[(&str, &str)],
        open: &str,
        script: &str,
        close: &str,
        within: Duration,
    ) -> Result<Answer> {
        let variables: Vec<_> = given.iter().map(|(name, value)| format!("{name}={}", quote(value))).collect();
        let variables = variables.join("\n");
        let mark = self.mark.clone();
        let text =
            format!("{open}\n{variables}\n{script}\n{close}\nprintf '\\n{mark} %s\\n' $?\nprintf '\\n{mark}\\n' >&2\n");
        self.send(text).await?;
        let deadline = Instant::now() + within;
        let end = format!("\n{mark}");
        let (mut stdout, mut stderr) = (None, None);
        while stdout.is_none() || stderr.is_none() {
            if stdout.is_none() {
                stdout = take_frame(&mut self.out, &end);
            }
            if stderr.is_none() {
                stderr = take_frame(&mut self.err, &end);
            }
            if stdout.is_some() && stderr.is_some() {
                break;
            }
            self.more(deadline, within).await?;
        }
        let ((stdout, code), (stderr, _)) = (stdout.unwrap_or_default(), stderr.unwrap_or_default());
        self.round_trips += 1;
        Ok(Answer { code: code.trim().parse().unwrap_or(-1), stdout, stderr })
    }

    async fn send(&self, text: String) -> Result<()> {
        self.channel.data_bytes(text.into_bytes()).await.map_err(|error| self.lost(error.to_string()))
    }

    /// The word that the shell greets with.
    async fn greeting(&mut self, deadline: Instant) -> Result<String> {
        loop {
            let text = String::from_utf8_lossy(&self.out).into_owned();
            // What start-up files print stands before it.
            if let Some((_, rest)) = text.split_once(GREETING)
                && let Some((word, rest)) = rest.split_once('\n')
            {
                let (word, rest) = (word.to_owned(), rest.as_bytes().to_vec());
                self.out = rest;
                self.err.clear();
                self.round_trips += 1;
                let (word, connection) = word.trim().split_once(' ').unwrap_or((word.trim(), ""));
                connection.clone_into(&mut self.connection);
                return Ok(word.to_owned());
            }
            if String::from_utf8_lossy(&self.err).contains("try again") {
                return Err(self.no_root("sudo does not take the password"));
            }
            self.more(deadline, GREETING_WITHIN).await?;
        }
    }

    /// Waits for more output.
    async fn more(&mut self, deadline: Instant, within: Duration) -> Result<()> {
        let message = timeout_at(deadline, self.channel.wait()).await.map_err(|_elapsed| {
            CliError::new(Kind::TimedOut, LATE)
                .at(&self.place)
                .because(format!("{} s are over", within.as_secs()))
                .next("run it again")
        })?;
        match message {
            Some(ChannelMsg::Data { data }) => self.out.extend_from_slice(&data),
            Some(ChannelMsg::ExtendedData { data, ext: 1 }) => self.err.extend_from_slice(&data),
            Some(ChannelMsg::ExitStatus { exit_status }) => {
                let said = String::from_utf8_lossy(&self.err).trim().to_owned();
                let why = if said.is_empty() { format!("the shell ended with code {exit_status}") } else { said };
                return Err(if self.round_trips == 0 || why.contains("sudo") {
                    self.no_root(why)
                } else {
                    self.lost(why)
                });
            }
            Some(ChannelMsg::Eof | ChannelMsg::Close) | None => return Err(self.lost("the shell ended".to_owned())),
            Some(_) => {}
        }
        if self.out.len() > MAX_OUTPUT || self.err.len() > MAX_OUTPUT {
            return Err(self.lost("the host says more than is read".to_owned()));
        }
        Ok(())
    }

    fn lost(&self, why: String) -> CliError {
        CliError::new(Kind::Unreachable, LOST).at(&self.place).because(why).next("run it again")
    }

    fn no_root(&self, why: impl std::fmt::Display) -> CliError {
        no_root(&self.place, why)
    }
}

/// What it means when the login does not become root.
pub(super) fn no_root(place: &str, why: impl std::fmt::Display) -> CliError {
    CliError::new(Kind::Refused, "cannot become root on the host")
        .at(place)
        .because(why)
        .next("log in as root, or let the user use sudo: echo 'USER ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/USER")
}

/// What stands before the end, and the rest of its line.
fn take_frame(bytes: &mut Vec<u8>, end: &str) -> Option<(String, String)> {
    let at = memchr::memmem::rfind(bytes, end.as_bytes())?;
    let rest = &bytes[at + end.len()..];
    let line = memchr::memchr(b'\n', rest)?;
    let (text, code) =
        (String::from_utf8_lossy(&bytes[..at]).into_owned(), String::from_utf8_lossy(&rest[..line]).into_owned());
    bytes.drain(..=at + end.len() + line);
    Some((text, code))
}

/// A text as one word of a shell.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_ends_where_its_mark_is_whole() {
        let mut bytes = b"one\ntwo\n\nmark".to_vec();
        assert_eq!(take_frame(&mut bytes, "\nmark"), None, "its line is not whole");
        bytes.extend(b" 3\nnext");
        assert_eq!(take_frame(&mut bytes, "\nmark"), Some(("one\ntwo\n".to_owned(), " 3".to_owned())));
        assert_eq!(bytes, b"next");
    }

    #[test]
    fn words_are_one_word() {
        assert_eq!(quote("a 'b' $c"), r"'a '\''b'\'' $c'");
    }
}
