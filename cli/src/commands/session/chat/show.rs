//! What a chat shows: news of its thread, and the question that waits.

use helix_protocol::TurnId;
use helix_protocol::thread::{Role, TurnState};

use super::Chat;
use super::form::Form;
use crate::error::Result;
use crate::follow::{gap_words, moved_words, question_words, settled_words, tool_words};
use crate::reading::News;
use crate::transcript::{Moved, Piece, Queued};

impl Chat<'_> {
    pub(super) fn show(&mut self, news: News) -> Result<()> {
        match news {
            News::Piece(piece) => self.show_piece(piece),
            News::Gap { from, to } => self.screen.say(&gap_words(from, to)),
            News::Broken(why) => self.screen.note(&format!("the line to the server broke: {why}; trying again")),
            News::Back => self.screen.note("the line is back, nothing was missed"),
        }
    }

    fn show_piece(&mut self, piece: Piece) -> Result<()> {
        let is_ours = |turn: &Option<TurnId>| turn.as_ref().is_some_and(|turn| self.ours.contains(turn));
        match piece {
            // An editor tells back what was sent to it.
            Piece::Text { role: Role::User, turn, .. } if is_ours(&turn) => Ok(()),
            Piece::Text { role: Role::User, text, .. } => self.screen.note(&format!("[in the editor] {text}")),
            Piece::Text { entry, how, text, .. } => self.screen.text(&entry, how, &text),
            Piece::Tool { entry, tool, .. } => self.screen.tool(&entry, &tool_words(&tool.name, &tool.status)),
            Piece::Queued(Queued { turn, .. }) if self.ours.contains(&turn) => Ok(()),
            Piece::Queued(Queued { by, prompt, .. }) => {
                let by = by.unwrap_or_else(|| "in the editor".to_owned());
                self.screen.note(&format!("[{by}] {prompt}"))
            }
            Piece::Moved(moved) if moved.state.is_final() => self.show_end(&moved),
            Piece::Asked(question) => {
                let form = Form::new(&question.schema);
                self.questions.push_back((question, form));
                if self.questions.len() == 1 { self.ask_next() } else { Ok(()) }
            }
            Piece::Settled { question, status, by } => self.show_settled(&question, &status, by.as_deref()),
            Piece::Renamed(title) => self.screen.note(&format!("the thread is called {title:?}")),
            Piece::Moved(_) | Piece::Custom(_) | Piece::Hole { .. } => Ok(()),
        }
    }

    fn show_end(&mut self, moved: &Moved) -> Result<()> {
        let settled = self.thread.as_mut().map(|thread| thread.transcript.settle(&moved.turn)).unwrap_or_default();
        settled.into_iter().try_for_each(|piece| self.show_piece(piece))?;
        self.screen.end()?;
        if moved.state == TurnState::Completed && moved.exit_status.is_none_or(|status| status == 0) {
            return Ok(());
        }
        self.failed |= self.ours.contains(&moved.turn);
        self.screen.say(&moved_words(moved))?;
        if moved.state == TurnState::Unknown {
            let (session, turn) = (&self.session, &moved.turn);
            let thread = self.thread.as_ref().map(|thread| thread.thread().to_string()).unwrap_or_default();
            self.screen.say(&format!("ask again: helixctl thread resend {session} {thread} {turn}"))?;
        }
        Ok(())
    }

    fn show_settled(&mut self, question: &str, status: &str, by: Option<&str>) -> Result<()> {
        let first = self.questions.front().is_some_and(|(asked, _)| asked.id == question);
        self.questions.retain(|(asked, _)| asked.id != question);
        if self.answered.remove(question) {
            return Ok(());
        }
        self.screen.say(&settled_words(status, by))?;
        if first { self.ask_next() } else { Ok(()) }
    }

    /// Shows the first question that waits.
    pub(super) fn ask_next(&mut self) -> Result<()> {
        let Some((question, form)) = self.questions.front() else { return Ok(()) };
        let mut text = format!("{}\n{}", question_words(question), form.question());
        if !self.person && self.input_ended {
            text += "\nthe input has ended: somebody else must answer";
        }
        self.screen.say(&text)
    }
}
