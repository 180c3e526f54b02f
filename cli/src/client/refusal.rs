//! A refusal of the server's in words: the class (the exit code), the server's own reason, and what to do next.

use helix_protocol::ErrorCode;
use helix_protocol::api::Problem;
use reqwest::StatusCode;

use crate::error::{CliError, Kind};

/// A problem document, or whatever else answered, as an error.
pub fn refusal(what: String, place: String, status: StatusCode, body: &[u8]) -> CliError {
    let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
        let kind = match status.as_u16() {
            401 | 403 => Kind::Refused,
            502..=504 => Kind::Unreachable,
            _ => Kind::Failed,
        };
        return CliError::new(kind, what)
            .at(place)
            .because(format!("HTTP {status}, and not from a Helix server of this version"))
            .next("check the address: --url, HELIX_URL, ~/.config/helix/config.toml");
    };
    let (kind, next) = next_step(problem.code);
    let mut error = CliError::new(kind, what).at(place).because(format!("{} ({})", problem.detail, problem.code));
    error.next = next.map(str::to_owned);
    error.code = Some(problem.code);
    error
}

/// Class of a code, and what to do where the server's own words do not say it.
pub fn next_step(code: ErrorCode) -> (Kind, Option<&'static str>) {
    match code {
        ErrorCode::TokenMissing | ErrorCode::TokenInvalid => {
            (Kind::Refused, Some("give the token: --token-file FILE, HELIX_TOKEN, or --state-dir DIR of `helixctl up`"))
        }
        ErrorCode::OutsideWorkspace | ErrorCode::FileDenied => (Kind::Refused, None),
        ErrorCode::Forbidden | ErrorCode::ForeignOrigin | ErrorCode::TicketInvalid => {
            (Kind::Refused, Some("use a token that allows it: --token-file FILE or HELIX_TOKEN"))
        }
        ErrorCode::StoreUnavailable
        | ErrorCode::RunnerUnavailable
        | ErrorCode::NoRunner
        | ErrorCode::DisplayUnavailable => (Kind::Unreachable, Some("helixctl status")),
        ErrorCode::WaitTimeout => (Kind::TimedOut, Some("helixctl status")),
        ErrorCode::SessionNotFound => (Kind::Failed, Some("helixctl session list")),
        ErrorCode::SessionEnded => {
            (Kind::Failed, Some("begin another: helixctl session create; what was said: helixctl thread list ID"))
        }
        ErrorCode::ThreadNotFound => (Kind::Failed, Some("helixctl thread list SESSION")),
        ErrorCode::TurnNotFound | ErrorCode::EntryNotFound | ErrorCode::QuestionNotFound => {
            (Kind::Failed, Some("helixctl thread show SESSION THREAD"))
        }
        ErrorCode::PromptExists => (Kind::Failed, Some("take another --idempotency-key, or leave it out")),
        ErrorCode::SpecTaskNotFound => (Kind::Failed, Some("helixctl spec-task list")),
        ErrorCode::GrantNotFound => (Kind::Failed, Some("helixctl session grant ID --list")),
        ErrorCode::TokenNotFound => (Kind::Failed, Some("helixctl token list")),
        ErrorCode::PoolNotFound => (Kind::Failed, Some("helixctl start-agents --pool NAME makes one")),
        ErrorCode::SecretNotFound => (Kind::Failed, Some("helixctl secret list; helixctl secret set NAME stores one")),
        ErrorCode::RunnerNotFound | ErrorCode::UnknownKind => (Kind::Failed, Some("helixctl runner list")),
        ErrorCode::SessionExists => (Kind::Failed, Some("take another --id, or leave it out and get a new one")),
        ErrorCode::AboveMaximum => (Kind::Failed, Some("helixctl runner show ID tells the maximum")),
        ErrorCode::SessionNotReady => (Kind::Failed, Some("helixctl session show ID")),
        ErrorCode::WindowNotFound => (Kind::Failed, Some("helixctl session windows list ID")),
        ErrorCode::ControlTaken => {
            (Kind::Failed, Some("helixctl session control ID tells who has it, --take takes it"))
        }
        ErrorCode::FileNotFound => (Kind::Failed, Some("helixctl session exec ID -- ls -la")),
        ErrorCode::RecordingNotFound | ErrorCode::RecordingsFull => (Kind::Failed, Some("helixctl recording list")),
        ErrorCode::DiskFull => (Kind::Failed, Some("helixctl session exec ID -- df -h .")),
        ErrorCode::Conflict => (Kind::Failed, Some("repeat the command")),
        _ => (Kind::Failed, None),
    }
}
