//! `agentd guest`: the process that is parent of everything in a session. One per session, in the process backend.
//!
//! Two stages, each a process of its own:
//!
//! - `agentd guest open …` ([`launch`]), run by agentd and short-lived: takes the session's lock, answers with the
//!   guest that lives, or makes the directories and starts one in a session (setsid) of its own. When it ends, the
//!   guest belongs to init, so agentd is never the parent of anything that matters.
//! - `agentd guest serve …` ([`serve`]): subreaper, synchronous and small. One thread polls; a second one
//!   ([`reaper`]) only waits for children, because a signal handler would need unsafe code.
//!
//! Under systemd there is only `agentd guest result …` ([`result`]), which takes the outcome of the session's task.
//!
//! Killed with SIGKILL, its processes go to init; [`crate::supervisor::process`] finds them by their `HELIX_SLICE`.
//!
//! `main.rs` calls [`main`] before any runtime starts.

pub mod call;
mod connections;
mod ending;
mod inherited;
mod launch;
mod log;
mod reaper;
mod result;
mod serve;
mod units;
pub mod wire;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use helix_protocol::SessionId;

pub use inherited::{command as detached_command, own_program};

/// What both stages are told. Nothing of it is secret: arguments can be seen by everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestArgs {
    /// The session's directory.
    pub root: PathBuf,
    /// Its workspace.
    pub workspace: PathBuf,
    /// The session.
    pub session: SessionId,
    /// Beginning of its marker ([`crate::supervisor::process::sweep::Mark`]).
    pub mark: String,
}

impl GuestArgs {
    /// As arguments of stage `stage`.
    pub fn to_arguments(&self, stage: &str) -> Vec<OsString> {
        vec![
            "guest".into(),
            stage.into(),
            self.root.clone().into(),
            self.workspace.clone().into(),
            self.session.as_str().into(),
            self.mark.clone().into(),
        ]
    }

    fn parse(mut args: impl Iterator<Item = OsString>) -> Option<Self> {
        let parsed = Self {
            root: args.next()?.into(),
            workspace: args.next()?.into(),
            session: SessionId::parse(args.next()?.into_string().ok()?).ok()?,
            mark: args.next()?.into_string().ok()?,
        };
        args.next().is_none().then_some(parsed)
    }
}

/// Runs `agentd guest`. `args` are the arguments after the word `guest`.
pub fn main(mut args: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let stage = args.next().context("agentd guest is internal: agentd starts it")?;
    if stage == "result" {
        let root = args.next().context("agentd guest is internal: systemd starts it for a session")?;
        return result::serve(PathBuf::from(root).as_path());
    }
    let parsed = GuestArgs::parse(args).context("agentd guest is internal: agentd starts it with all its arguments")?;
    match stage.to_str() {
        Some("open") => launch::open(&parsed),
        Some("serve") => serve::serve(&parsed),
        _ => bail!("agentd guest has the stages open, serve and result, not {}", stage.display()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_back() {
        let args = GuestArgs {
            root: "/state/s/k".into(),
            workspace: "/w/s1".into(),
            session: SessionId::parse("s1").unwrap(),
            mark: "h1.k.".to_owned(),
        };
        let words = args.to_arguments("open");
        assert_eq!(GuestArgs::parse(words.clone().into_iter().skip(2)), Some(args));
        assert_eq!(GuestArgs::parse(words.into_iter().skip(3)), None);
    }
}
