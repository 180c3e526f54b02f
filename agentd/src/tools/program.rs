//! A program that was started for somebody: the head of a process group of its own, which ends with it; on a terminal the
//! head of a session, with all the groups that a shell makes there.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use helix_protocol::tools::Exit;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use tokio::net::unix::pipe;

use crate::supervisor::process::procfs;

/// From a request to end to SIGKILL.
const GRACE: Duration = Duration::from_secs(1);

/// Signals that people name, with their names.
const SIGNALS: [(&str, Signal); 18] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("ILL", Signal::ILL),
    ("ABRT", Signal::ABORT),
    ("BUS", Signal::BUS),
    ("FPE", Signal::FPE),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("SEGV", Signal::SEGV),
    ("USR2", Signal::USR2),
    ("PIPE", Signal::PIPE),
    ("ALRM", Signal::ALARM),
    ("TERM", Signal::TERM),
    ("CONT", Signal::CONT),
    ("STOP", Signal::STOP),
    ("TSTP", Signal::TSTP),
    ("WINCH", Signal::WINCH),
];

/// The signal of that name.
pub(super) fn signal(name: &str) -> Option<Signal> {
    let short = name.strip_prefix("SIG").unwrap_or(name);
    SIGNALS.into_iter().find_map(|(known, signal)| (known == short).then_some(signal))
}

/// A program that runs, or has ended and was not collected: its number is nobody else's.
pub(super) struct Program {
    child: Child,
    group: Pid,
    leads_session: bool,
    /// Its pidfd, as an unnamed pipe end: that is tokio's wrapper for any file that can be polled which needs no unsafe code.
    ends: pipe::Receiver,
}

impl Program {
    /// Starts it. The command sees to it that it is the head of its group, or (`leads_session`) of a session.
    pub(super) fn start(command: &mut Command, leads_session: bool) -> io::Result<Self> {
        let mut child = command.spawn()?;
        let group = Pid::from_child(&child);
        let ends = pidfd_open(group, PidfdFlags::empty())
            .map_err(io::Error::from)
            .and_then(|pidfd| pipe::Receiver::from_file_unchecked(File::from(pidfd)));
        match ends {
            Ok(ends) => Ok(Self { child, group, leads_session, ends }),
            Err(error) => {
                // Nobody would see its end.
                let _ = child.kill().and_then(|()| child.wait());
                Err(error)
            }
        }
    }

    /// Its number, as the session counts.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns when it has ended. Cancel safe.
    pub(super) async fn ended(&self) {
        // Readable once it has ended, and for ever; an error would be one of the machine.
        let _ = self.ends.readable().await;
    }

    /// To its whole group.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.group, signal);
        if matches!(signal, Signal::TERM | Signal::HUP) {
            // One that was stopped must go on to hear it.
            let _ = kill_process_group(self.group, Signal::CONT);
        }
    }

    /// Kills whatever is left of it. Only before it is collected: until then its numbers are nobody else's.
    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
        let own = self.pid();
        let found = if self.leads_session { procfs::processes().unwrap_or_default() } else { Vec::new() };
        let is_its_own = |process: &procfs::Process| process.session == own && process.alive;
        for process in found.into_iter().filter(is_its_own) {
            let Some(pid) = procfs::pid(process.pid) else { continue };
            // Looked at once more: the number may be another's by now.
            if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
                && procfs::process(process.pid).as_ref().is_some_and(is_its_own)
            {
                let _ = pidfd_send_signal(pidfd, Signal::KILL);
            }
        }
    }

    /// Asks it to end, then kills it with all that is its own, and collects it.
    pub(super) async fn end(self, politely: Signal) -> Exit {
        self.signal(politely);
        let _ = tokio::time::timeout(GRACE, self.ended()).await;
        self.kill();
        self.ended().await;
        self.collect()
    }

    /// How it ended. Only after [`Program::ended`].
    pub(super) fn collect(mut self) -> Exit {
        self.child.wait().map_or_else(|_| Exit { exit_status: 255, signal: None }, exit)
    }
}

fn exit(status: ExitStatus) -> Exit {
    let signal = status.signal();
    let name = |number: i32| {
        let known = SIGNALS.iter().find(|(_, signal)| signal.as_raw() == number);
        known.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
    };
    Exit { exit_status: status.code().or_else(|| Some(128 + signal?)).unwrap_or(255), signal: signal.map(name) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use std::os::unix::process::CommandExt as _;

    use super::*;

    #[test]
    fn signals_have_their_usual_names() {
        assert_eq!(signal("INT"), Some(Signal::INT));
        assert_eq!(signal("SIGTERM"), Some(Signal::TERM));
        for unknown in ["", "SIG", "9", "int", "RTMIN"] {
            assert_eq!(signal(unknown), None, "{unknown}");
        }
    }

    #[tokio::test]
    async fn an_end_is_told_as_a_shell_tells_it() {
        let run = async |line: &str| {
            let program = Program::start(Command::new("sh").args(["-c", line]).process_group(0), false).unwrap();
            program.ended().await;
            program.collect()
        };
        assert_eq!(run("exit 7").await, Exit { exit_status: 7, signal: None });
        assert_eq!(run("kill -KILL $$").await, Exit { exit_status: 137, signal: Some("KILL".to_owned()) });
    }

    #[tokio::test]
    async fn one_that_does_not_want_to_end_is_killed_with_its_group() {
        let line = "trap '' TERM; sleep 1000 & echo $!; while :; do wait; done";
        let (reader, writer) = io::pipe().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", line]).process_group(0).stdout(writer);
        let program = Program::start(&mut command, false).unwrap();
        drop(command);
        // Once it says something, it is deaf.
        let mut reader = io::BufReader::new(reader);
        let mut said = String::new();
        io::BufRead::read_line(&mut reader, &mut said).unwrap();
        assert!(said.trim().parse::<u32>().is_ok(), "{said:?}");
        let ended = program.end(Signal::TERM).await;
        assert_eq!(ended.signal.as_deref(), Some("KILL"));
        // The other one held the pipe open, too.
        let mut rest = String::new();
        io::Read::read_to_string(&mut reader, &mut rest).unwrap();
        assert_eq!(rest, "");
    }
}
