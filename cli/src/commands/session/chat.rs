//! `session chat`: a conversation at the terminal, or of lines from a pipe.
//!
//! One loop takes what comes first: a line of standard input (a thread reads those), news of the thread, Ctrl-C. Beside
//! it two things end the chat at any time: a second Ctrl-C shortly after another, and the end of the session. What is
//! said is durable when it was sent; leaving ends nothing.

mod form;
mod show;
mod words;

use std::collections::{BTreeSet, VecDeque};
use std::process::ExitCode;

use clap::Args;
use helix_protocol::api::SessionView;
use helix_protocol::api::threads::{AnswerQuestion, CancelTurn};
use helix_protocol::session::SessionPhase;
use helix_protocol::thread::AnswerAction;
use helix_protocol::{ErrorCode, SessionId, ThreadId, TurnId};
use serde_json::Value;
use tokio::signal::unix::SignalKind;
use tokio::sync::mpsc;

use self::form::{Filled, Form};
use self::words::{HELP, Line};
use crate::client::{Client, Page};
use crate::commands::thread;
use crate::error::{CliError, Kind, Result};
use crate::follow::{because_ended, session_ends, waits_because};
use crate::prompts::{Place, Prompt, Where, newest, send, this};
use crate::reading::{Interest, News, Reading};
use crate::signals::Signals;
use crate::stdin;
use crate::transcript::Question;
use crate::ui::{Screen, Ui};

/// Arguments of `session chat`.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// Session id
    id: SessionId,
    /// Thread to talk in; the session's newest one when left out, or a new one where there is none
    #[arg(long, value_name = "THREAD")]
    thread: Option<ThreadId>,
    /// Begin a new thread
    #[arg(long, conflicts_with = "thread")]
    new_thread: bool,
    /// Agent of new threads; without --new-thread the newest thread that it serves is taken
    #[arg(long, conflicts_with = "thread")]
    agent: Option<String>,
}

/// Talks until the person leaves or the input ends. Exit code 1 when a prompt of a pipe did not complete.
pub async fn run(client: &Client, args: ChatArgs, ui: &Ui) -> Result<ExitCode> {
    if ui.json {
        return Err(CliError::new(Kind::Usage, "a chat is no JSON object")
            .at("helixctl session chat --json")
            .next("helixctl session prompt ID TEXT --wait --json, or helixctl thread show ID THREAD --follow --json"));
    }
    let session = client.session(&args.id).await?;
    if session.phase == SessionPhase::Stopping || session.phase.is_terminal() {
        return Err(ended(&session));
    }
    let place = match &args.thread {
        Some(thread) => this(client, &args.id, thread).await?,
        None if args.new_thread => Where::New { agent: args.agent.clone() },
        None => newest(client, &args.id, args.agent.as_deref()).await?,
    };
    let desktop = match &place {
        Where::Thread(thread) => thread.desktop.clone(),
        Where::New { .. } => args.id.clone(),
    };
    let signals = Signals::catch(&[SignalKind::interrupt()])?;
    let mut chat = Chat {
        client,
        ui,
        session: args.id,
        agent: args.agent,
        screen: Screen::new(ui),
        person: stdin::is_terminal(),
        input: stdin::lines(),
        input_ended: false,
        lines: VecDeque::new(),
        thread: None,
        ours: BTreeSet::new(),
        questions: VecDeque::new(),
        answered: BTreeSet::new(),
        signals: signals.clone(),
        struck: 0,
        failed: false,
    };
    chat.screen.note("/help tells what can be said")?;
    if let Some(why) = waits_because(&session) {
        chat.screen.note(&why)?;
    }
    let left = tokio::select! {
        () = signals.came_twice() => Ok(()),
        left = chat.talk(place) => left,
        session = session_ends(client, &session.id, &desktop) => session.and_then(|session| Err(ended(&session))),
    };
    chat.screen.end()?;
    if chat.person && signals.count() > chat.struck {
        chat.screen.struck()?;
    } else {
        chat.screen.leave()?;
    }
    left?;
    if chat.works() {
        chat.screen.note("the running turn goes on")?;
    }
    Ok(if chat.failed && !chat.person { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Nothing can be said any more.
fn ended(session: &SessionView) -> CliError {
    let (id, phase) = (&session.id, session.phase);
    because_ended(CliError::failed(format!("session {id} takes no prompts: it is {phase}")), session)
        .next(format!("what was said: helixctl thread list {id}; begin another: helixctl session create"))
}

struct Chat<'a> {
    client: &'a Client,
    ui: &'a Ui,
    session: SessionId,
    /// Of new threads.
    agent: Option<String>,
    screen: Screen,
    /// Somebody types.
    person: bool,
    input: mpsc::Receiver<Result<String>>,
    input_ended: bool,
    /// Lines that wait for what is before them.
    lines: VecDeque<Line>,
    /// None until the first prompt of a new thread.
    thread: Option<Reading>,
    /// Turns of this chat.
    ours: BTreeSet<TurnId>,
    questions: VecDeque<(Question, Form)>,
    /// Questions that this chat answered.
    answered: BTreeSet<String>,
    signals: Signals,
    /// Ctrl-Cs that were acted on.
    struck: u32,
    /// A turn of this chat did not do what it should.
    failed: bool,
}

/// Whether the chat goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    Leave,
}

impl Chat<'_> {
    async fn talk(&mut self, place: Where) -> Result<()> {
        if let Where::Thread(thread) = place {
            self.enter(&thread.id).await?;
        }
        loop {
            while let Some(line) = self.next_line() {
                if self.obey(line).await? == Then::Leave {
                    return Ok(());
                }
            }
            if self.input_ended && (self.person || self.lines.is_empty() && !self.works()) {
                return Ok(());
            }
            if self.person && (!self.questions.is_empty() || !self.works()) {
                self.screen.ask(if self.questions.is_empty() { "> " } else { "answer> " })?;
            }
            self.wait().await?;
        }
    }

    /// The next thing that comes. All arms are cancel safe: channels, a counter, and the reading.
    async fn wait(&mut self) -> Result<()> {
        let takes_lines = !self.input_ended && (self.person || self.lines.is_empty());
        tokio::select! {
            line = self.input.recv(), if takes_lines => if let Some(line) = line {
                let line = Line::parse(&line?);
                self.lines.push_back(line);
                if self.person {
                    self.screen.entered();
                }
                Ok(())
            } else {
                self.input_ended = true;
                Ok(())
            },
            news = next(&mut self.thread) => {
                let news = news?;
                self.show(news)
            }
            () = self.signals.came(self.struck + 1) => self.cancel().await,
        }
    }

    /// The next line, if it may be taken now.
    fn next_line(&mut self) -> Option<Line> {
        let (works, asks) = (self.works(), !self.questions.is_empty());
        self.lines.front()?.may_be_taken(self.person, works, asks).then(|| self.lines.pop_front()).flatten()
    }

    /// A turn of the thread is not over.
    fn works(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| thread.transcript.unfinished().next().is_some())
    }

    async fn obey(&mut self, line: Line) -> Result<Then> {
        let done = match line {
            Line::Say(text) if !self.questions.is_empty() => self.answer(&text).await,
            Line::Say(text) if text.trim().is_empty() => Ok(()),
            Line::Say(text) => self.say(text, false).await,
            Line::Interrupt(text) => self.say(text, true).await,
            Line::New(text) => {
                self.leave_thread();
                match text {
                    Some(text) => self.say(text, false).await,
                    None => self.screen.note("the next line begins a new thread"),
                }
            }
            Line::Threads => match self.client.threads(&self.session).await {
                Ok(list) => self.screen.say(thread::plain(&list.threads).trim_end()),
                Err(error) => Err(error),
            },
            Line::Thread(thread) => self.enter(&thread).await,
            Line::Decline => self.close_question(AnswerAction::Decline, Value::Null).await,
            Line::Cancel => self.close_question(AnswerAction::Cancel, Value::Null).await,
            Line::Help => self.screen.say(HELP),
            Line::Quit => return Ok(Then::Leave),
            Line::Wrong(why) => self.screen.say(&why),
        };
        match done {
            // A person reads why and says something else; a pipe cannot.
            Err(error) if self.person => self.ui.error(&error),
            done => done?,
        }
        Ok(Then::GoOn)
    }

    /// Goes on in a thread: what runs in it is shown.
    async fn enter(&mut self, id: &ThreadId) -> Result<()> {
        let detail = self.client.thread(&self.session, id, Page::Last(1)).await?;
        let over = detail.recent_turns.iter().filter(|turn| turn.state.is_final()).map(|turn| turn.id.clone());
        let interest = Interest::Except(over.collect());
        let goes_on = !detail.questions.is_empty() || detail.recent_turns.iter().any(|turn| !turn.state.is_final());
        let mut reading = Reading::open(self.client, &self.session, id, detail.thread.sequence, interest).await?;
        if goes_on {
            reading.read_now().await?;
        }
        self.leave_thread();
        let title = detail.thread.title.map(|title| format!(" {title:?}")).unwrap_or_default();
        self.screen.note(&format!("thread {id}{title}, {} turns", detail.thread.turns))?;
        let thread = self.thread.insert(reading);
        let ready: Vec<_> = std::iter::from_fn(|| thread.ready()).collect();
        ready.into_iter().try_for_each(|news| self.show(news))
    }

    fn leave_thread(&mut self) {
        self.thread = None;
        self.questions.clear();
    }

    async fn say(&mut self, text: String, interrupt: bool) -> Result<()> {
        let waits = self.works() && !interrupt;
        let place = match &self.thread {
            // What comes from here on is told by the reading that there is.
            Some(reading) => {
                let (id, desktop) = (reading.thread().clone(), self.session.clone());
                Where::Thread(Place { id, desktop, sequence: 0, busy: false })
            }
            None => Where::New { agent: self.agent.clone() },
        };
        let interrupt = interrupt && self.thread.is_some();
        let sent = send(self.client, &self.session, &place, Prompt { text, interrupt, ..Prompt::default() }).await?;
        self.ours.insert(sent.turn.id.clone());
        if let Some(thread) = &mut self.thread {
            thread.transcript.is_ours(&sent.turn);
        } else {
            let id = &sent.turn.thread;
            self.screen.note(&format!("new thread {id}"))?;
            let interest = Interest::Except(BTreeSet::new());
            let mut reading = Reading::open(self.client, &self.session, id, sent.after, interest).await?;
            if sent.told_before {
                reading.read_now().await?;
            } else {
                reading.transcript.is_ours(&sent.turn);
            }
            self.thread = Some(reading);
        }
        if waits {
            self.screen.note("it waits for the running turn; /interrupt TEXT does not")?;
        }
        Ok(())
    }

    /// A line for the first question that waits.
    async fn answer(&mut self, line: &str) -> Result<()> {
        let Some((_, form)) = self.questions.front_mut() else { return Ok(()) };
        match form.fill(line) {
            Filled::More => {
                let question = form.question();
                self.screen.say(&question)
            }
            Filled::Wrong(why) => {
                let question = form.question();
                self.screen.say(&format!("{why}\n{question}"))
            }
            Filled::Accept(content) => self.close_question(AnswerAction::Accept, content).await,
            Filled::Decline => self.close_question(AnswerAction::Decline, Value::Null).await,
        }
    }

    async fn close_question(&mut self, action: AnswerAction, content: Value) -> Result<()> {
        let (Some(reading), Some((question, _))) = (&self.thread, self.questions.front()) else {
            return self.screen.say("the agent asks nothing");
        };
        let request = AnswerQuestion { action, content };
        let done = self.client.answer_question(&self.session, reading.thread(), &question.id, &request).await;
        let Some((question, _)) = self.questions.pop_front() else { return Ok(()) };
        match done {
            Ok(_) => self.answered.extend([question.id]),
            Err(error) if error.code == Some(ErrorCode::QuestionAnswered) => {
                self.screen.say(error.why.as_deref().unwrap_or("it is answered already"))?;
            }
            Err(error) => {
                // It waits still: from its first field on.
                let form = Form::new(&question.schema);
                self.questions.push_front((question, form));
                return Err(error);
            }
        }
        self.ask_next()
    }

    /// The first Ctrl-C.
    async fn cancel(&mut self) -> Result<()> {
        if self.signals.is_twice() {
            // Whoever waits for that ends the chat.
            return std::future::pending().await;
        }
        self.struck = self.signals.count();
        if self.person {
            self.screen.struck()?;
        }
        let Some(reading) = self.thread.as_ref().filter(|_| self.works()) else {
            return self.screen.note("Ctrl-C again, or Ctrl-D, leaves");
        };
        let thread = reading.thread();
        match self.client.cancel_turn(&self.session, thread, &CancelTurn::default()).await {
            Ok(_) => self.screen.note("cancelling; Ctrl-C again leaves"),
            Err(error) if error.code == Some(ErrorCode::TurnOver) => Ok(()),
            Err(error) => {
                self.ui.error(&error);
                Ok(())
            }
        }
    }
}

/// News of the thread, if there is one.
async fn next(thread: &mut Option<Reading>) -> Result<News> {
    match thread {
        Some(thread) => thread.next().await,
        None => std::future::pending().await,
    }
}
