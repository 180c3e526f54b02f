//! `helixctl recording`: list, show, verify, export and delete what was recorded of desktops.

mod export;
mod verify;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use helix_protocol::recording::{RecordedEvent, RecordingState, RecordingView, TimedEvent};
use helix_protocol::{RecordingId, SessionId};

use crate::client::Client;
use crate::error::Result;
use crate::ui::{Ui, age, span};

/// What to do with recordings.
#[derive(Debug, Subcommand)]
pub enum RecordingCommand {
    /// List recordings, newest first
    List(ListArgs),
    /// Show one recording; --events tells what was typed and what else happened
    Show(ShowArgs),
    /// Prove that a recording is what was recorded; exit code 1 when it is not
    Verify(OneArgs),
    /// Write a recording as a film, or as it is stored
    Export(export::ExportArgs),
    /// Delete a recording; the audit trail keeps that it was there
    Delete(OneArgs),
}

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only of this session
    #[arg(long)]
    session: Option<SessionId>,
}

/// Arguments of `show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Recording id
    id: RecordingId,
    /// Tell what happened beside the picture, in the order of time
    #[arg(long)]
    events: bool,
}

/// A recording.
#[derive(Debug, Args)]
pub struct OneArgs {
    /// Recording id
    id: RecordingId,
}

/// Runs one of them.
pub async fn run(client: &Client, command: RecordingCommand, ui: &Ui) -> Result<ExitCode> {
    match command {
        RecordingCommand::List(args) => list(client, &args, ui).await?,
        RecordingCommand::Show(args) if args.events => events(client, &args.id, ui).await?,
        RecordingCommand::Show(args) => show(client, &args.id, ui).await?,
        RecordingCommand::Verify(args) => return verify::run(client, &args.id, ui).await,
        RecordingCommand::Export(args) => export::run(client, &args, ui).await?,
        RecordingCommand::Delete(args) => {
            client.delete_recording(&args.id).await?;
            ui.answer(&serde_json::json!({ "deleted": args.id }), || ui.line(args.id.as_str()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &Client, args: &ListArgs, ui: &Ui) -> Result<()> {
    let query: Vec<_> = args.session.iter().map(|session| ("session", session.to_string())).collect();
    let list = client.recordings(&query).await?;
    ui.answer(&list, || {
        let row = |recording: &RecordingView| {
            vec![
                recording.id.to_string(),
                recording.session.to_string(),
                state(recording),
                span(Duration::from_micros(recording.duration_us)),
                size(recording.bytes),
                age(recording.started_at),
            ]
        };
        let rows: Vec<_> = list.recordings.iter().map(row).collect();
        ui.table(&["recording", "session", "state", "length", "size", "age"], &rows)
    })
}

async fn show(client: &Client, id: &RecordingId, ui: &Ui) -> Result<()> {
    let detail = client.recording(id).await?;
    ui.answer(&detail, || {
        let recording = &detail.recording;
        let segments: usize = detail.chunk_list.iter().map(|chunk| chunk.segments.len()).sum();
        let rows = [
            ("recording", recording.id.to_string()),
            ("session", recording.session.to_string()),
            ("owner", recording.owner.clone()),
            ("runner", recording.runner.to_string()),
            ("state", state(recording)),
            ("began", recording.started_at.to_string()),
            ("length", span(Duration::from_micros(recording.duration_us))),
            ("picture", format!("{}x{}", recording.width, recording.height)),
            ("stored", format!("{} in {} chunks, {segments} segments", size(recording.bytes), recording.chunks)),
            ("kept until", format!("{} ({} after its end)", recording.expires_at, recording.keep)),
        ];
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        rows.iter().try_for_each(|(name, value)| ui.line(&format!("{name:<width$}  {value}")))
    })
}

async fn events(client: &Client, id: &RecordingId, ui: &Ui) -> Result<()> {
    let mut after = None;
    loop {
        let page = client.recording_events(id, after.as_deref()).await?;
        for event in &page.events {
            let goes_on = if ui.json { ui.stream_json(event)? } else { ui.stream_line(&words(event))? };
            if !goes_on {
                return Ok(());
            }
        }
        let Some(next) = page.next else { return Ok(()) };
        after = Some(next);
    }
}

fn state(recording: &RecordingView) -> String {
    let state = match recording.state {
        RecordingState::Recording => "recording",
        RecordingState::Complete => "complete",
    };
    match recording.gaps {
        0 => state.to_owned(),
        1 => format!("{state}, 1 gap"),
        gaps => format!("{state}, {gaps} gaps"),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}

fn words(event: &TimedEvent) -> String {
    let what = match &event.event {
        RecordedEvent::ViewerJoined { by, role } => {
            format!("{by} opened the desktop ({})", format!("{role:?}").to_lowercase())
        }
        RecordedEvent::ViewerLeft { by } => format!("{by} left"),
        RecordedEvent::Key { by, keysym, down } => {
            format!("{by} {} key {keysym:#x}", if *down { "pressed" } else { "released" })
        }
        RecordedEvent::Pointer { by, x, y, buttons } => format!("{by} pointer {x},{y} buttons {buttons:#b}"),
        RecordedEvent::Clipboard { by, bytes } => format!("{by} offered a clipboard of {bytes} bytes"),
        RecordedEvent::Resize { by, width, height } => format!("{by} asked for {width}x{height}"),
        RecordedEvent::Call { by, call, actions } => format!("{by} called {call} {}", actions.join(" ")),
        RecordedEvent::Control { holder: Some(holder), .. } => {
            format!("{} (seat {}) has the control", holder.by, holder.seat)
        }
        RecordedEvent::Control { holder: None, .. } => "the control is free".to_owned(),
        RecordedEvent::Gap { from_us, reason } => {
            let missing = span(Duration::from_micros(event.at_us.saturating_sub(*from_us)));
            format!("nothing was recorded for {missing}: {reason}")
        }
        RecordedEvent::Missed { count } => format!("{count} events were not noted"),
        RecordedEvent::Ended {} => "the session ended".to_owned(),
        RecordedEvent::Thread { thread, what, text, .. } => format!("thread {thread}: {what} {text}"),
    };
    format!("{:>10.3}  {}", event.at_us as f64 / 1e6, what.trim_end())
}
