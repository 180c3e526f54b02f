//! A program on a host, as root, with our own streams: what commands that go to a machine run there.
//!
//! On a terminal it gets one, with our keys, and ends with the connection. Otherwise it has our input, output and errors,
//! and signals that we get go to all its processes, over a shell of its own: sshd passes none to a program that sudo has
//! made root's. A thread reads standard input and a task hands it over; both end with the process.

use std::io::{IsTerminal as _, Read as _};

use russh::{ChannelMsg, ChannelReadHalf, Sig};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::shell::{GREETING, GREETING_WITHIN, no_root};
use super::{Connection, LATE, Ssh, quote};
use crate::error::{CliError, Kind, Result};
use crate::settings::process_env;
use crate::signals::Signals;
use crate::terminal::{self, Raw};
use crate::ui::Ui;

/// Exit code where nobody reads the output any more: of a program that SIGPIPE has ended.
const NOBODY_READS: u8 = 141;
/// What a first, a second and every other signal becomes.
const KILLS: [&str; 3] = ["INT", "TERM", "KILL"];
/// Bytes of input in one piece.
const PIECE: usize = 32 << 10;

/// Runs it and answers its exit code; 128 and the signal's number where one ended it.
pub async fn run(connection: &Connection, ssh: &Ssh, command: &[&str], ui: &Ui) -> Result<u8> {
    let signals = Signals::catch(&[SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()])?;
    let is_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let (mut from, to) = connection.channel().await?.split();
    if is_terminal {
        let size = terminal::size().unwrap_or(helix_protocol::tools::TerminalSize::DEFAULT);
        let term = process_env("TERM").unwrap_or_else(|| "xterm".to_owned());
        let asked = to.request_pty(false, &term, size.cols.into(), size.rows.into(), 0, 0, &[]).await;
        asked.map_err(|error| connection.lost(&error))?;
    }
    to.exec(true, line(command)).await.map_err(|error| connection.lost(&error))?;
    let mut program = Program { connection, ssh, ui, group: String::new(), code: None, kills: 0 };
    let first = program.greeting(&mut from, &to, &signals).await?;
    let raw = if is_terminal { Some(Raw::begin()?) } else { None };
    let mut resized =
        signal(SignalKind::window_change()).map_err(|error| CliError::failed("cannot catch signals").because(error))?;
    let (mut input, mut has_input) = (stdin(), true);
    let mut open = program.show(&first);
    'carry: while open {
        // Each arm is cancel safe: a channel, a signal, a queue, a watch.
        tokio::select! {
            message = from.wait() => match message {
                // The exit code comes before it, and may come behind the end of the output.
                None | Some(ChannelMsg::Close) => break,
                Some(message) => open = program.hear(&message),
            },
            piece = input.recv(), if has_input => match piece {
                Some(piece) if !piece.is_empty() => {
                    // A program that takes none of it leaves the piece waiting, and its output must come all the same.
                    let mut sending = std::pin::pin!(to.data_bytes(piece));
                    loop {
                        tokio::select! {
                            sent = &mut sending => {
                                sent.map_err(|error| connection.lost(&error))?;
                                break;
                            }
                            message = from.wait() => match message {
                                None | Some(ChannelMsg::Close) => break 'carry,
                                Some(message) => open &= program.hear(&message),
                            },
                            () = signals.came(program.kills + 1) => program.kill().await?,
                        }
                        if !open || program.code.is_some() {
                            break;
                        }
                    }
                }
                _end => {
                    has_input = false;
                    to.eof().await.map_err(|error| connection.lost(&error))?;
                }
            },
            _ = resized.recv(), if is_terminal => {
                if let Some(size) = terminal::size() {
                    let _ = to.window_change(size.cols.into(), size.rows.into(), 0, 0).await;
                }
            }
            () = signals.came(program.kills + 1) => program.kill().await?,
        }
    }
    drop(raw);
    if !open {
        program.signal("PIPE").await?;
        return Ok(NOBODY_READS);
    }
    program.code.ok_or_else(|| connection.lost(&std::io::Error::from(std::io::ErrorKind::UnexpectedEof)))
}

struct Program<'a> {
    connection: &'a Connection,
    ssh: &'a Ssh,
    ui: &'a Ui,
    /// Its process group.
    group: String,
    code: Option<u8>,
    /// Signals that were passed on.
    kills: u32,
}

impl Program<'_> {
    /// Waits until the program is root's and begins; answers what it has said by then.
    async fn greeting(
        &mut self,
        from: &mut ChannelReadHalf,
        to: &russh::ChannelWriteHalf<russh::client::Msg>,
        signals: &Signals,
    ) -> Result<Vec<u8>> {
        let place = &self.connection.place;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let late = tokio::time::sleep(GREETING_WITHIN);
        tokio::pin!(late);
        let mut asked = false;
        loop {
            let text = String::from_utf8_lossy(&out).into_owned();
            if let Some((before, rest)) = text.split_once(GREETING)
                && let Some((words, _)) = rest.split_once('\n')
            {
                let end = before.len() + GREETING.len() + words.len() + 1;
                match words.trim().split_once(' ').unwrap_or((words.trim(), "")) {
                    ("root", group) => {
                        group.clone_into(&mut self.group);
                        // Text that was no UTF-8 before it is longer as text; there is none but of start-up files.
                        return Ok(out.get(end..).unwrap_or_default().to_vec());
                    }
                    ("password", _) if !asked => {
                        let password = self.ssh.prompts.sudo().await.map_err(|why| no_root(place, why))?;
                        let sent = to.data_bytes(format!("{password}\n").into_bytes()).await;
                        sent.map_err(|error| self.connection.lost(&error))?;
                        out.drain(..end.min(out.len()));
                        asked = true;
                        late.as_mut().reset(tokio::time::Instant::now() + GREETING_WITHIN);
                        continue;
                    }
                    (_, _) => return Err(no_root(place, "the login is not root, and there is no sudo")),
                }
            }
            if String::from_utf8_lossy(&err).contains("try again") {
                return Err(no_root(place, "sudo does not take the password"));
            }
            let message = tokio::select! {
                message = from.wait() => message,
                () = &mut late => return Err(CliError::new(Kind::TimedOut, LATE).at(place)),
                () = signals.came(1) => return Err(CliError::failed("interrupted").at(place)),
            };
            match message {
                Some(ChannelMsg::Data { data }) => out.extend_from_slice(&data),
                Some(ChannelMsg::ExtendedData { data, .. }) => err.extend_from_slice(&data),
                Some(ChannelMsg::ExitStatus { .. } | ChannelMsg::Close) | None => {
                    return Err(no_root(place, String::from_utf8_lossy(&err).trim()));
                }
                Some(_) => {}
            }
        }
    }

    /// False when nobody reads any more.
    fn hear(&mut self, message: &ChannelMsg) -> bool {
        match message {
            ChannelMsg::Data { data } => return self.show(data),
            ChannelMsg::ExtendedData { data, .. } => return self.ui.stream_raw_errors(data),
            ChannelMsg::ExitStatus { exit_status } => self.code = Some(u8::try_from(exit_status & 0xff).unwrap_or(255)),
            ChannelMsg::ExitSignal { signal_name, .. } => self.code = Some(128 + number(signal_name)),
            _ => {}
        }
        true
    }

    fn show(&self, bytes: &[u8]) -> bool {
        // An error of standard output is that of a reader that went away.
        self.ui.stream_raw(bytes).unwrap_or(false)
    }

    /// Passes a signal on: each is harder than the one before.
    async fn kill(&mut self) -> Result<()> {
        let harder = usize::try_from(self.kills).unwrap_or(usize::MAX).min(KILLS.len() - 1);
        self.kills += 1;
        self.signal(KILLS[harder]).await
    }

    async fn signal(&self, name: &str) -> Result<()> {
        let mut shell = self.ssh.shell(self.connection).await?;
        let given = [("name", name), ("group", self.group.as_str())];
        // One that has ended meanwhile needs none.
        shell.run(&given, "kill -s \"$name\" -- \"-$group\" 2>/dev/null", GREETING_WITHIN).await.map(|_| ())
    }
}

/// The command line that makes root run a command: it greets with its process group.
fn line(command: &[&str]) -> String {
    let words: Vec<_> = command.iter().map(|word| quote(word)).collect();
    let go = r#"echo "helix-shell root $(cut -d " " -f 5 /proc/$$/stat)"; exec "$@""#;
    let go = quote(&format!("exec sh -c {} sh {}", quote(go), words.join(" ")));
    let script = format!(
        "if [ \"$(id -u)\" = 0 ]; then exec sh -c {go}; fi\n\
         if ! command -v sudo >/dev/null 2>&1; then echo helix-shell no-sudo; exit 1; fi\n\
         if LC_ALL=C sudo -n -- sh -c : 2>/dev/null; then exec sudo -n -- sh -c {go}; fi\n\
         echo helix-shell password\n\
         LC_ALL=C LANGUAGE= exec sudo -k -S -p '' -- sh -c {go}"
    );
    format!("sh -c {}", quote(&script))
}

fn number(signal: &Sig) -> u8 {
    match signal {
        Sig::HUP => 1,
        Sig::INT => 2,
        Sig::QUIT => 3,
        Sig::ILL => 4,
        Sig::ABRT => 6,
        Sig::FPE => 8,
        Sig::KILL => 9,
        Sig::USR1 => 10,
        Sig::SEGV => 11,
        Sig::PIPE => 13,
        Sig::ALRM => 14,
        Sig::TERM => 15,
        Sig::Custom(_) => 0,
    }
}

/// Standard input in pieces, an empty one at its end.
fn stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(1);
    // A thread of its own: the runtime would wait for its end, and it ends with the next input only.
    std::thread::spawn(move || {
        let mut piece = vec![0; PIECE];
        loop {
            let count = std::io::stdin().lock().read(&mut piece).unwrap_or(0);
            if sender.blocking_send(piece[..count].to_vec()).is_err() || count == 0 {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The part of root is played by whoever runs the tests; elsewhere that is what sudo does.
    #[test]
    fn words_reach_the_program_as_they_are() {
        let words = ["printf", "%s|", "a b", "c'd", "$HOME", "`id`", "\"", "\\", ""];
        // Without the question who we are.
        let line = line(&words).replace("[ \"$(id -u)\" = 0 ]", "true");
        let output = std::process::Command::new("sh").args(["-c", &line]).output().expect("run");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (greeting, rest) = said.split_once('\n').expect("a greeting");
        assert!(greeting.strip_prefix("helix-shell root ").is_some_and(|group| group.parse::<u32>().is_ok()), "{said}");
        assert_eq!(rest, "a b|c'd|$HOME|`id`|\"|\\||");
    }
}
