//! What a kind's session must be able to do once it is Ready: the kind's own check.
//!
//! `command` runs its task. `terminal` does what is typed into it. An agent with a conversation has opened its line to the
//! server and takes prompts. Whatever has a window shows something in it: an editor that cannot draw has a black one and says
//! nothing. All of it on the session's own desktop and feeds, until a deadline that the caller keeps.

use std::collections::HashMap;

use helix_protocol::SessionId;
use helix_protocol::desktop::{Action, Input, Region, Wait, WaitFor, WindowAction, WindowView};

use crate::client::Client;
use crate::error::{CliError, Result};
use crate::feed::ThreadFeed;

/// The kind that needs no model and no key: its task proves the way of a prompt.
pub const COMMAND: &str = "command";
/// The kind that is a shell.
const TERMINAL: &str = "terminal";
/// Kinds whose agent has a line to the server.
const CONVERSING: [&str; 8] = [COMMAND, "claude", "codex", "gemini", "goose", "opencode", "qwen", "zed"];
/// Pixels of a window that differ from its most frequent colour, at least: less is a spot of dirt, and letters are more.
const LEAST_SEEN: usize = 200;
/// What is typed writes this file of the workspace.
const TYPED: &str = ".helix-test-agents";
/// Longest single wait for a change of the screen; then it is looked at all the same.
const LOOK_AGAIN_MS: u64 = 1000;

/// What a session is seen to do.
pub struct Checks<'a> {
    /// To its server.
    pub client: &'a Client,
    /// Which.
    pub id: &'a SessionId,
}

impl Checks<'_> {
    /// Everything that a kind can be asked for, `command`'s task aside; in words what was found. Does not end by itself where
    /// something does not come: `stage` says then what is waited for.
    pub async fn of(&self, kind: &str, stage: &mut &'static str) -> Result<String> {
        *stage = "no window is on the desktop";
        let window = self.window().await?;
        if kind == TERMINAL {
            *stage = "what is typed into the terminal does nothing";
            self.types(&window).await?;
            return Ok("a command was typed and ran".to_owned());
        }
        *stage = "its window shows nothing: it has one colour";
        self.is_seen(window).await?;
        if CONVERSING.contains(&kind) {
            *stage = "its agent has no line to the server, or takes no prompts";
            let agent = self.agent().await?;
            return Ok(format!("a window is seen; {agent} takes prompts"));
        }
        Ok("a window is seen".to_owned())
    }

    async fn window(&self) -> Result<WindowView> {
        loop {
            let windows = self.client.windows(self.id).await?.windows.into_iter();
            if let Some(largest) = windows.max_by_key(|window| u64::from(window.width) * u64::from(window.height)) {
                return Ok(largest);
            }
            self.change().await?;
        }
    }

    /// A pixel changes, or a second is over.
    async fn change(&self) -> Result<()> {
        let wait = Wait { goal: WaitFor::Change, region: None, timeout_ms: LOOK_AGAIN_MS, quiet_ms: 500 };
        self.client.wait_for_pixels(self.id, &wait).await.map(|_| ())
    }

    /// Types a command and waits for what it does. The sum is not in what is typed.
    async fn types(&self, window: &WindowView) -> Result<()> {
        self.client.act_on_window(self.id, window.id, WindowAction::Focus).await?;
        let text = format!("expr 6 '*' 7 >{TYPED}\n");
        self.client.input(self.id, &Input { actions: vec![Action::Text { text }] }).await?;
        loop {
            // Not there yet is an answer like any other.
            if let Ok(head) = self.client.file_head(self.id, TYPED).await
                && head.size > 0
            {
                let file = self.client.read_file(self.id, TYPED, 0, &head.etag).await?;
                let said = file.text().await.unwrap_or_default();
                return if said.trim() == "42" {
                    Ok(())
                } else {
                    Err(CliError::failed("what is typed arrives as something else")
                        .at(format!("session {}", self.id))
                        .because(format!("its result is {said:?}")))
                };
            }
            self.change().await?;
        }
    }

    async fn is_seen(&self, mut window: WindowView) -> Result<()> {
        loop {
            let query = [
                ("format", "raw".to_owned()),
                ("cursor", "false".to_owned()),
                ("region", self.region_of(&window).await?.to_string()),
            ];
            let picture = self.client.screenshot(self.id, &query).await?;
            if seen(&picture.bytes) >= LEAST_SEEN {
                return Ok(());
            }
            self.change().await?;
            window = self.window().await?;
        }
    }

    /// The part of a window that is on the screen.
    async fn region_of(&self, window: &WindowView) -> Result<Region> {
        let display = self.client.display(self.id).await?;
        let (width, height) = (display.width, display.height);
        let (x, y) = (window.x.max(0).unsigned_abs(), window.y.max(0).unsigned_abs());
        let region = [x, y, window.width.min(width.saturating_sub(x)), window.height.min(height.saturating_sub(y))];
        region.map(|side| side.to_string()).join(",").parse().map_err(|why: String| {
            CliError::failed("its window is beside the screen").at(format!("session {}", self.id)).because(why)
        })
    }

    /// Waits until the agent takes prompts; its name.
    async fn agent(&self) -> Result<String> {
        let mut feed = ThreadFeed::open(&self.client.connection, self.id, None, 0).await?;
        loop {
            let session = self.client.session(self.id).await?;
            if session.phase.is_terminal() {
                let cause = session.cause.map_or_else(|| session.phase.to_string(), |cause| cause.message);
                return Err(CliError::failed("it ended").at(format!("session {}", self.id)).because(cause));
            }
            if session.sync.connected && session.sync.ready {
                return Ok(session.sync.agent.unwrap_or_else(|| "its agent".to_owned()));
            }
            feed.next().await?;
        }
    }
}

/// Pixels (four bytes each) that are of another colour than most.
fn seen(picture: &[u8]) -> usize {
    let mut colours: HashMap<&[u8], usize> = HashMap::new();
    for pixel in picture.chunks_exact(4) {
        *colours.entry(pixel).or_default() += 1;
    }
    picture.len() / 4 - colours.values().max().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_colour_is_nothing_whatever_it_is() {
        let (black, white) = ([0, 0, 0, 255], [255, 255, 255, 255]);
        assert_eq!(seen(&black.repeat(1000)), 0);
        assert_eq!(seen(&white.repeat(1000)), 0);
        assert_eq!(seen(&[black.repeat(1000), white.repeat(300)].concat()), 300);
        assert_eq!(seen(&[]), 0);
    }

    /// A kind that is shipped and that nobody knows here would be looked at less closely than it could be.
    #[test]
    fn every_agent_with_a_conversation_is_known() {
        let kinds = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/kinds");
        for entry in std::fs::read_dir(kinds).expect("the shipped kinds") {
            let path = entry.expect("an entry").path();
            let text = std::fs::read_to_string(&path).expect("a kind");
            let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
            let takes_prompts = text.lines().any(|line| line == "input = \"optional\"");
            assert_eq!(CONVERSING.contains(&&*name), takes_prompts, "{name}");
        }
    }
}
