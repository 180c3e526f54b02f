//! `helixctl run`: a session, its prompt, its answer and its end in one line, for pipelines.
//!
//! The session is ended and removed whatever happens, unless it shall be kept: also after a failure, when the time is
//! over, and on Ctrl-C or SIGTERM. Only a second signal leaves at once. Exit codes are those of
//! `session prompt --wait`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use helix_protocol::api::{CreateSession, ProjectSource, SessionView};
use helix_protocol::image::ImageRef;
use helix_protocol::session::{MAX_INPUT_CHARS, Project};
use helix_protocol::thread::{Origin, ThreadEvent};
use helix_protocol::{ErrorCode, KindName, SessionId, ThreadId, TurnId};
use serde::Serialize;
use tokio::signal::unix::SignalKind;
use tokio::time::{Instant, timeout, timeout_at};

use super::session::create::{absolute_if_local, parse_pair};
use super::session::prompt::judge;
use super::session::wait::{Goal, Watch};
use crate::client::{Client, patiently};
use crate::command_line::SecretArgs;
use crate::error::{CliError, Kind, Result};
use crate::feed::{Feed, ThreadFeed, Told};
use crate::follow::{Followed, Task, follow, waits_because};
use crate::prompts::random_hex;
use crate::reading::{Interest, Reading};
use crate::settings::process_env;
use crate::signals::Signals;
use crate::stdin;
use crate::ui::{Screen, Ui};

/// How long the server may be away while the session is created.
const AWAY: Duration = Duration::from_secs(30);
/// How long the end of a session may take.
const END_WITHIN: Duration = Duration::from_mins(2);

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// What to do; - reads it from standard input
    prompt: String,
    /// Git URL or path of a repository to clone into the workspace
    #[arg(long, value_name = "GIT")]
    project: Option<String>,
    /// Branch or tag to check out
    #[arg(long, requires = "project")]
    branch: Option<String>,
    /// What does it, for example claude or command; the runner's default kind when left out
    #[arg(long)]
    kind: Option<KindName>,
    /// Image that it works in: NAME, NAME:TAG or sha256:DIGEST [default: the runner's own system]
    #[arg(long, value_name = "IMAGE")]
    image: Option<ImageRef>,
    /// Environment of the agent; may be repeated
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,
    #[command(flatten)]
    secrets: SecretArgs,
    /// Word for filters; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_pair)]
    labels: Vec<(String, String)>,
    /// Show the answer as it comes, then end and remove the session; without it only the session's id is printed
    #[arg(long)]
    wait: bool,
    /// Keep the session after its answer
    #[arg(long, requires = "wait")]
    keep: bool,
    /// Longest wait in seconds, from the creation to the end of the answer
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

/// What `--wait --json` prints.
#[derive(Serialize)]
struct Ran<'a> {
    #[serde(flatten)]
    followed: &'a Followed,
    /// The session is still there.
    kept: bool,
}

/// Does it.
pub async fn run(client: &Client, args: RunArgs, ui: &Ui) -> Result<ExitCode> {
    let (waits, keep, patience) = (args.wait, args.keep, Duration::from_secs(args.timeout));
    let id = SessionId::parse(format!("run-{}", random_hex()?))
        .map_err(|error| CliError::failed("cannot make up a session id").because(error))?;
    let request = request(args, &id)?;
    if !waits {
        let session = create(client, &request).await?;
        ui.answer(&session, || ui.line(session.id.as_str()))?;
        if !ui.json {
            ui.note(&format!("{}; talk to it: helixctl session chat {}", session.phase, session.id));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let signals = Signals::catch(&[SignalKind::interrupt(), SignalKind::terminate()])?;
    let deadline = Instant::now() + patience;
    let watch = Watch::open(client, patience).await?;
    // A first signal does not interrupt this: a session that the server makes afterwards would stay for ever.
    let created = tokio::select! {
        created = create(client, &request) => created,
        () = signals.came(2) => Err(CliError::new(Kind::TimedOut, "cannot create the session").because("interrupted")),
    };
    created.map_err(|error| in_doubt(error, &id))?;
    let mut screen = Screen::new(ui);
    screen.note(&format!("session {id}"))?;
    let outcome = tokio::select! {
        outcome = Box::pin(work(client, &id, watch, deadline, &mut screen, ui)) => outcome,
        () = signals.came(1) => Err(CliError::failed("interrupted").because("a signal came before the answer was complete")),
    };
    screen.end()?;
    let kept = keep || !Box::pin(end(client, &id, &signals, ui)).await;
    if keep {
        ui.note(&format!("the session is kept: helixctl session chat {id}; end it: helixctl session delete {id}"));
    }
    let followed = outcome.map_err(|mut error| {
        // What the session could tell is gone with it.
        error.next = error.next.filter(|_| kept).or_else(|| Some("--keep leaves the session for a look".to_owned()));
        error
    })?;
    if ui.json {
        ui.json(&Ran { followed: &followed, kept })?;
    }
    judge(&followed, kept, &mut screen, ui)
}

fn request(args: RunArgs, id: &SessionId) -> Result<CreateSession> {
    let input = match args.prompt.as_str() {
        "-" => stdin::text("standard input (prompt -)", MAX_INPUT_CHARS)?,
        _ => args.prompt,
    };
    let project = args.project.map(|git| absolute_if_local(&git)).map(|git| match args.branch {
        Some(branch) => ProjectSource::Long(Project { git, branch: Some(branch) }),
        None => ProjectSource::Short(git),
    });
    Ok(CreateSession {
        id: Some(id.clone()),
        kind: args.kind,
        image: args.image,
        project,
        input: Some(input),
        labels: args.labels.into_iter().collect(),
        env: args.env.into_iter().collect(),
        secrets: args.secrets.read("helixctl run", &process_env)?,
        ..CreateSession::default()
    })
}

/// The id is made up here: a repeat after a lost answer is the same session.
async fn create(client: &Client, request: &CreateSession) -> Result<SessionView> {
    patiently(AWAY, async || client.create_session(request).await).await
}

/// Whether there is a session now is not known where no answer came.
fn in_doubt(error: CliError, id: &SessionId) -> CliError {
    if matches!(error.kind, Kind::Unreachable | Kind::TimedOut) {
        return error.next(format!("it may have been created all the same; remove it: helixctl session delete {id}"));
    }
    error
}

async fn work(
    client: &Client,
    id: &SessionId,
    mut watch: Watch,
    deadline: Instant,
    screen: &mut Screen,
    ui: &Ui,
) -> Result<Followed> {
    let session = watch.until(id, Goal::Ready, ui).await?;
    if let Some(why) = waits_because(&session) {
        screen.note(&why)?;
    }
    timeout_at(deadline, Box::pin(answer(client, id, screen))).await.unwrap_or_else(|_elapsed| {
        let what = format!("session {id} was not done with its prompt in time");
        Err(CliError::new(Kind::TimedOut, what).at(&client.connection.url).because("the time of --timeout is over"))
    })
}

async fn answer(client: &Client, id: &SessionId, screen: &mut Screen) -> Result<Followed> {
    let (thread, turn, sequence) = first_turn(client, id).await?;
    let interest = Interest::Turn(turn.clone());
    let reading = Reading::open(client, id, &thread, sequence, interest).await?;
    Box::pin(follow(client, Task { session: id, desktop: id, thread: &thread, turn: &turn }, reading, screen)).await
}

/// The turn of the session's input, and the sequence where it was accepted. After a crash of the server it is there as
/// soon as the agent is connected.
async fn first_turn(client: &Client, id: &SessionId) -> Result<(ThreadId, TurnId, u64)> {
    let mut feed = patiently(AWAY, async || ThreadFeed::open(&client.connection, id, None, 0).await).await?;
    loop {
        if let Told::Item(item) = feed.next().await?
            && let ThreadEvent::TurnQueued { turn, origin: Origin::Input, .. } = item.record.event
        {
            return Ok((item.thread, turn, item.sequence));
        }
    }
}

/// Ends the session and waits until nothing of it is left; false when that cannot be said.
async fn end(client: &Client, id: &SessionId, signals: &Signals, ui: &Ui) -> bool {
    let progress = ui.progress();
    progress.now(&format!("ending session {id}"));
    let before = signals.count();
    let gone = tokio::select! {
        gone = timeout(END_WITHIN, removed(client, id)) => gone.unwrap_or_else(|_elapsed| {
            let why = format!("{} s are over", END_WITHIN.as_secs());
            Err(CliError::new(Kind::TimedOut, "the session did not end in time").because(why))
        }),
        () = signals.came(before + 1) => Err(CliError::failed("the end of the session was not waited for")),
    };
    drop(progress);
    match gone {
        Ok(()) => true,
        Err(error) => {
            ui.warn(&format!("session {id} may still be there: helixctl session delete {id}"));
            ui.error(&error);
            false
        }
    }
}

async fn removed(client: &Client, id: &SessionId) -> Result<()> {
    let mut feed = patiently(END_WITHIN, async || Feed::open(&client.connection).await).await?;
    let no_session = |error: &CliError| error.code == Some(ErrorCode::SessionNotFound);
    match patiently(END_WITHIN, async || client.delete_session(id).await).await {
        Ok(_) => {}
        Err(error) if no_session(&error) => return Ok(()),
        Err(error) => return Err(error),
    }
    loop {
        match patiently(END_WITHIN, async || client.session(id).await).await {
            Ok(_) => feed.changed(id).await?,
            Err(error) if no_session(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
