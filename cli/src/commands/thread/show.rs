//! `thread show`: a thread's facts, its last entries under the prompts that they answer, what waits for an answer; and
//! with `--follow` everything that is said from then on.

use std::collections::BTreeSet;

use clap::Args;
use helix_protocol::api::threads::{EntryView, QuestionView, ThreadDetail, TurnView};
use helix_protocol::thread::{Origin, Role, ThreadFeedItem, TurnState};
use helix_protocol::{SessionId, ThreadId, TurnId};
use serde::Serialize;

use super::state_words;
use crate::client::{Client, Page};
use crate::commands::session::facts;
use crate::error::Result;
use crate::feed::{ThreadFeed, Told};
use crate::follow::{gap_words, moved_words, question_words, settled_words, tool_words};
use crate::reading::{Interest, News, Reading};
use crate::transcript::{How, Moved, Piece, Question, Queued};
use crate::ui::{Screen, Ui};

/// Arguments of `thread show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Session id
    session: SessionId,
    /// Thread id
    thread: ThreadId,
    /// Last entries of it; 0 for none
    #[arg(long, value_name = "N", default_value_t = 20)]
    entries: usize,
    /// Go on with all that is said, until Ctrl-C; with --json every event of the thread from its first, one a line
    #[arg(long, short)]
    follow: bool,
}

/// Shows it.
pub async fn run(client: &Client, args: ShowArgs, ui: &Ui) -> Result<()> {
    if args.follow && ui.json {
        return follow_json(client, &args, ui).await;
    }
    let (detail, earlier) = read(client, &args).await?;
    if ui.json {
        return ui.json(&detail);
    }
    show_facts(ui, &detail)?;
    let mut screen = Screen::of_data(ui);
    show_entries(&mut screen, &detail, earlier)?;
    if !args.follow {
        return show_questions(&mut screen, &args, &detail.questions);
    }
    follow(client, &args, &detail, screen).await
}

/// The thread with its last entries, and how many there are before them.
async fn read(client: &Client, args: &ShowArgs) -> Result<(ThreadDetail, usize)> {
    let mut detail = client.thread(&args.session, &args.thread, Page::Last(args.entries)).await?;
    let all = usize::try_from(detail.entries_before).unwrap_or(usize::MAX).saturating_add(detail.entries.len());
    let wanted = args.entries.min(all);
    if wanted == 0 {
        detail.entries.clear();
    }
    // More than a page holds: from the first wanted one on.
    let mut cursor = (detail.entries.len() < wanted).then(|| (all - wanted).to_string());
    if cursor.is_some() {
        detail.entries.clear();
    }
    while let Some(from) = cursor {
        let mut page = client.thread(&args.session, &args.thread, Page::At(&from)).await?;
        cursor = page.next_cursor.take();
        let entries = std::mem::take(&mut detail.entries);
        detail = ThreadDetail { entries: entries.into_iter().chain(page.entries).collect(), ..page };
    }
    let earlier = all - wanted;
    detail.entries_before = earlier as u64;
    Ok((detail, earlier))
}

fn show_facts(ui: &Ui, detail: &ThreadDetail) -> Result<()> {
    let thread = &detail.thread;
    let mut rows = vec![("thread", thread.id.to_string())];
    rows.extend(thread.title.iter().map(|title| ("title", title.clone())));
    rows.push(("state", state_words(thread)));
    rows.extend(thread.agent.iter().map(|agent| ("agent", agent.clone())));
    rows.push(("begun by", origin_words(thread.origin).to_owned()));
    rows.extend(thread.work_session.iter().map(|session| ("asked under", session.to_string())));
    rows.extend(thread.acp_thread_id.iter().map(|id| ("agent's id", id.clone())));
    rows.push(("turns", thread.turns.to_string()));
    if thread.usage.total_tokens > 0 {
        let usage = thread.usage;
        let words = format!("{} (read {}, written {})", usage.total_tokens, usage.input_tokens, usage.output_tokens);
        rows.push(("tokens", words));
    }
    rows.push(("created", thread.created_at.to_string()));
    facts(ui, &rows)
}

fn origin_words(origin: Origin) -> &'static str {
    match origin {
        Origin::Api => "a prompt",
        Origin::Input => "the session's input",
        Origin::Editor => "a person in the editor",
    }
}

fn show_entries(screen: &mut Screen, detail: &ThreadDetail, earlier: usize) -> Result<()> {
    if earlier > 0 {
        screen.say(&format!("\n({earlier} earlier entries: --entries {})", detail.entries.len() + earlier))?;
    }
    let turn = |id: &TurnId| detail.recent_turns.iter().find(|turn| turn.id == *id);
    let mut current: Option<&TurnId> = None;
    let mut shown = BTreeSet::new();
    for entry in &detail.entries {
        if let Some(id) = entry.turn.as_ref().filter(|id| current != Some(id)) {
            end_of_turn(screen, current.and_then(turn))?;
            if shown.insert(id)
                && let Some(turn) = turn(id)
            {
                show_prompt(screen, &said_by(turn.origin, turn.by.as_deref()), &turn.prompt)?;
            }
            current = Some(id);
        }
        show_entry(screen, entry)?;
    }
    end_of_turn(screen, current.and_then(turn))?;
    // What was asked since and has no answer yet.
    let since = current.and_then(|id| detail.recent_turns.iter().position(|turn| turn.id == *id));
    for turn in detail.recent_turns.iter().skip(since.map_or(0, |place| place + 1)) {
        if !shown.contains(&turn.id) && (!turn.state.is_final() || since.is_some()) {
            show_prompt(screen, &said_by(turn.origin, turn.by.as_deref()), &turn.prompt)?;
            end_of_turn(screen, Some(turn))?;
        }
    }
    Ok(())
}

fn show_entry(screen: &mut Screen, entry: &EntryView) -> Result<()> {
    match (&entry.tool, entry.role) {
        (Some(tool), _) => screen.tool(&entry.id, &tool_words(&tool.name, &tool.status)),
        (None, Role::User) => show_prompt(screen, "in the editor", &entry.text),
        (None, Role::Assistant) => {
            screen.text(&entry.id, How::More, &entry.text)?;
            if entry.truncated {
                screen.say(&format!("(the first {} of {} bytes)", entry.text.len(), entry.length))?;
            }
            Ok(())
        }
    }
}

fn end_of_turn(screen: &mut Screen, turn: Option<&TurnView>) -> Result<()> {
    screen.end()?;
    let Some(turn) = turn else { return Ok(()) };
    if turn.state == TurnState::Completed && turn.exit_status.is_none_or(|status| status == 0) {
        return Ok(());
    }
    let (state, exit_status) = (turn.state, turn.exit_status);
    screen.say(&moved_words(&Moved { turn: turn.id.clone(), state, cause: turn.cause.clone(), exit_status }))
}

fn said_by(origin: Origin, by: Option<&str>) -> String {
    match (origin, by) {
        (Origin::Editor, _) => "in the editor".to_owned(),
        (Origin::Input, None) => "input".to_owned(),
        (_, by) => by.unwrap_or("prompt").to_owned(),
    }
}

fn show_prompt(screen: &mut Screen, by: &str, prompt: &str) -> Result<()> {
    screen.end()?;
    screen.say(&format!("\n[{by}] {}", prompt.trim_end()))
}

fn show_questions(screen: &mut Screen, args: &ShowArgs, questions: &[QuestionView]) -> Result<()> {
    for question in questions {
        let question = Question {
            id: question.id.clone(),
            turn: question.turn.clone(),
            mode: question.mode.clone(),
            message: question.message.clone(),
            schema: question.schema.clone(),
        };
        show_question(screen, args, &question)?;
    }
    Ok(())
}

fn show_question(screen: &mut Screen, args: &ShowArgs, question: &Question) -> Result<()> {
    let ShowArgs { session, thread, .. } = args;
    screen.say(&format!("\n{} (question {})", question_words(question), question.id))?;
    if !question.schema.is_null() {
        screen.say(&format!("schema of the answer: {}", question.schema))?;
    }
    screen.say(&format!("answer it: helixctl session chat {session} --thread {thread}"))
}

async fn follow(client: &Client, args: &ShowArgs, detail: &ThreadDetail, mut screen: Screen) -> Result<()> {
    let over = detail.recent_turns.iter().filter(|turn| turn.state.is_final()).map(|turn| turn.id.clone());
    let interest = Interest::Except(over.collect());
    let mut reading = Reading::open(client, &args.session, &args.thread, detail.thread.sequence, interest).await?;
    // Shown already.
    for turn in &detail.recent_turns {
        reading.transcript.turn_is(turn);
    }
    reading.transcript.entries_are(&detail.entries);
    show_questions(&mut screen, args, &detail.questions)?;
    reading.transcript.questions_are(&detail.questions);
    while !screen.reader_left() {
        match reading.next().await? {
            News::Piece(piece) => show_piece(&mut screen, args, piece)?,
            News::Gap { from, to } => screen.say(&gap_words(from, to))?,
            // No matter of the thread, and nothing is missed.
            News::Broken(_) | News::Back => {}
        }
    }
    Ok(())
}

fn show_piece(screen: &mut Screen, args: &ShowArgs, piece: Piece) -> Result<()> {
    match piece {
        Piece::Text { role: Role::User, text, .. } => show_prompt(screen, "in the editor", &text),
        Piece::Text { entry, how, text, .. } => screen.text(&entry, how, &text),
        Piece::Tool { entry, tool, .. } => screen.tool(&entry, &tool_words(&tool.name, &tool.status)),
        Piece::Queued(Queued { origin, by, prompt, .. }) => {
            show_prompt(screen, &said_by(origin, by.as_deref()), &prompt)
        }
        Piece::Moved(moved) => {
            if moved.state.is_final() {
                screen.end()?;
            }
            screen.say(&moved_words(&moved))
        }
        Piece::Asked(question) => show_question(screen, args, &question),
        Piece::Settled { status, by, .. } => screen.say(&settled_words(&status, by.as_deref())),
        Piece::Renamed(title) => screen.say(&format!("the thread is called {title:?}")),
        Piece::Custom(name) => screen.say(&format!("event of the agent's: {name}")),
        Piece::Hole { .. } => Ok(()),
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "gap")]
struct Gap {
    from: u64,
    to: u64,
}

async fn follow_json(client: &Client, args: &ShowArgs, ui: &Ui) -> Result<()> {
    let mut feed = ThreadFeed::open(&client.connection, &args.session, Some(&args.thread), 0).await?;
    loop {
        let taken = match feed.next().await? {
            Told::Item(item) => ui.stream_json::<ThreadFeedItem>(&item)?,
            Told::Gap { from, to } => ui.stream_json(&Gap { from, to })?,
            Told::Broken(_) | Told::Back => true,
        };
        if !taken {
            return Ok(());
        }
    }
}
