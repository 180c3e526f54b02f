//! A session, a peer as its agent, and the API: what every scenario has on its stage.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use helix_protocol::api::threads::{ThreadCreated, ThreadDetail, ThreadList, ThreadView, TurnView};
use helix_protocol::thread::{Origin, Role, TurnState};
use helix_tests::eventually::{eventually, secs};
use helix_tests::zed_peer::{Dialect, Options, Peer, SeedStyle, any};
use helix_tests::{Api, Cluster};
use serde_json::{Value, json};

use super::Replay;

/// How long a state may take on a loaded machine.
pub const SOON: Duration = secs(30);

/// Short patience, where a test waits for it to end.
pub const IMPATIENT: &str = "[threads]\nready_fallback = \"4s\"\nthread_created = \"4s\"\nsilence = \"4s\"\n\
                             tool_silence = \"8s\"\n";

/// Every dialect that a scenario of both is played in.
pub const DIALECTS: [Dialect; 5] = [
    Dialect::Today,
    Dialect::Seed(SeedStyle::Chunks),
    Dialect::Seed(SeedStyle::Whole),
    Dialect::Seed(SeedStyle::Messages),
    Dialect::Seed(SeedStyle::NumberedMessages),
];

/// A session as its owner and its agent know it.
pub struct Talk {
    /// The owner's client.
    pub api: Api,
    /// Session.
    pub id: String,
    /// The session's own token.
    pub token: String,
}

/// A prompt that was accepted.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Thread, ours.
    pub thread: String,
    /// Turn.
    pub turn: String,
}

impl Talk {
    /// A new session that waits for a runner for ever.
    pub async fn begin(api: Api, id: &str) -> Result<Self> {
        Self::begin_with(api, &json!({"id": id, "kind": "terminal"})).await
    }

    /// A new session.
    pub async fn begin_with(api: Api, body: &Value) -> Result<Self> {
        let view = api.create(body).await?;
        Self::of(api, view.id.as_str()).await
    }

    /// A session that is there.
    pub async fn of(api: Api, id: &str) -> Result<Self> {
        let known = api.get(&format!("/api/v1/external-agents/{id}")).await?.expect(200)?;
        let token = known["auth_token"].as_str().context("no auth_token")?.to_owned();
        Ok(Self { api, id: id.to_owned(), token })
    }

    /// A peer of this session at the first server.
    pub fn options(&self) -> Options {
        Options::new(&address(&self.api), &self.id, &self.token)
    }

    /// Starts such a peer and waits until its socket is there.
    pub async fn peer(&self, options: Options) -> Result<Peer> {
        let peer = Peer::start(options);
        peer.connected(1).await?;
        Ok(peer)
    }

    fn path(&self, rest: &str) -> String {
        format!("/api/v1/sessions/{}/threads{rest}", self.id)
    }

    /// A thread and its first prompt.
    pub async fn new_thread(&self, prompt: &str) -> Result<Asked> {
        let created: ThreadCreated = self.api.post(&self.path(""), &json!({"prompt": prompt})).await?.json()?;
        ensure!(created.turn.prompt == prompt, "{created:?}");
        Ok(Asked { thread: created.thread.id.to_string(), turn: created.turn.id.to_string() })
    }

    /// A prompt in a thread that is there.
    pub async fn prompt(&self, thread: &str, prompt: &str) -> Result<Asked> {
        self.send(thread, &json!({"prompt": prompt})).await
    }

    /// A prompt that ends what runs.
    pub async fn interrupt(&self, thread: &str, prompt: &str) -> Result<Asked> {
        self.send(thread, &json!({"prompt": prompt, "interrupt": true})).await
    }

    /// A prompt with any body.
    pub async fn send(&self, thread: &str, body: &Value) -> Result<Asked> {
        let answer = self.api.post(&self.path(&format!("/{thread}/prompts")), body).await?.expect(202)?;
        let turn: TurnView = serde_json::from_value(answer)?;
        ensure!(turn.thread.as_str() == thread, "{turn:?}");
        Ok(Asked { thread: thread.to_owned(), turn: turn.id.to_string() })
    }

    /// Asks for the end of a turn.
    pub async fn cancel(&self, asked: &Asked) -> Result<TurnView> {
        let body = json!({"turn": asked.turn});
        self.api.post(&self.path(&format!("/{}/cancel", asked.thread)), &body).await?.json()
    }

    /// Asks a turn's prompt again.
    pub async fn resend(&self, asked: &Asked) -> Result<Asked> {
        let path = self.path(&format!("/{}/turns/{}/resend", asked.thread, asked.turn));
        let turn: TurnView = serde_json::from_value(self.api.post_empty(&path).await?.expect(202)?)?;
        Ok(Asked { thread: turn.thread.to_string(), turn: turn.id.to_string() })
    }

    /// A turn as it is.
    pub async fn turn(&self, asked: &Asked) -> Result<TurnView> {
        self.api.get(&self.path(&format!("/{}/turns/{}", asked.thread, asked.turn))).await?.json()
    }

    /// Waits until a turn is in this state; another final one is an error at once.
    pub async fn is(&self, asked: &Asked, state: TurnState) -> Result<TurnView> {
        let turn = eventually(&format!("turn {} is {state}", asked.turn), SOON, || async {
            let turn = self.turn(asked).await?;
            ensure!(turn.state == state || turn.state.is_final(), "it is {turn:?}");
            Ok(turn)
        })
        .await?;
        ensure!(turn.state == state, "{state} was expected: {turn:?}");
        Ok(turn)
    }

    /// Every thread, by its creation.
    pub async fn threads(&self) -> Result<Vec<ThreadView>> {
        Ok(self.api.get(&self.path("")).await?.json::<ThreadList>()?.threads)
    }

    /// A thread with all its entries, read page by page, and each of them whole.
    pub async fn detail(&self, thread: &str) -> Result<ThreadDetail> {
        let mut whole: ThreadDetail = self.api.get(&self.path(&format!("/{thread}"))).await?.json()?;
        while let Some(cursor) = whole.next_cursor.take() {
            let page: ThreadDetail = self.api.get(&self.path(&format!("/{thread}?cursor={cursor}"))).await?.json()?;
            whole.entries.extend(page.entries);
            whole.next_cursor = page.next_cursor;
        }
        for entry in &mut whole.entries {
            while entry.text.len() as u64 != entry.length {
                let path = self.path(&format!("/{thread}/entries/{}?offset={}", entry.id, entry.text.len()));
                let piece = self.api.get(&path).await?.expect(200)?;
                let more = piece["text"].as_str().context("no text")?;
                ensure!(piece["offset"] == entry.text.len() as u64 && !more.is_empty(), "{piece}");
                entry.text += more;
            }
        }
        Ok(whole)
    }

    /// What the agent said in a turn, as the peer joins it.
    pub async fn text(&self, asked: &Asked) -> Result<String> {
        let detail = self.detail(&asked.thread).await?;
        let own = |turn: &Option<helix_protocol::TurnId>| turn.as_ref().is_some_and(|turn| turn.as_str() == asked.turn);
        let said = detail.entries.iter().filter(|entry| own(&entry.turn) && entry.role == Role::Assistant);
        Ok(said.map(|entry| entry.text.as_str()).collect::<Vec<_>>().join("\n\n"))
    }

    /// Sends a command over the documents' route.
    pub async fn command(&self, kind: &str, data: &Value) -> Result<()> {
        let path = format!("/api/v1/external-agents/{}/command", self.id);
        self.api.post(&path, &json!({"type": kind, "data": data})).await?.expect(200)?;
        Ok(())
    }

    /// The feed from the first event on; what it tells must be what the API says.
    pub async fn replay(&self) -> Result<Replay> {
        let replay = Replay::read(&self.api, &self.id).await?;
        for thread in self.threads().await? {
            replay.agrees(&self.detail(thread.id.as_str()).await?)?;
        }
        Ok(replay)
    }

    /// Nothing runs or waits in any thread. What a person typed never ends in the seed's words.
    pub async fn nothing_is_left(&self, dialect: Dialect) -> Result<()> {
        for thread in self.threads().await? {
            ensure!(thread.queued == 0, "{thread:?}");
            for turn in self.detail(thread.id.as_str()).await?.recent_turns {
                let typed = turn.origin == Origin::Editor && dialect != Dialect::Today;
                ensure!(turn.state.is_final() || typed, "{turn:?}");
            }
        }
        Ok(())
    }
}

/// `host:port` of a server.
pub fn address(api: &Api) -> String {
    api.base().trim_start_matches("http://").to_owned()
}

/// One server, no runner.
pub async fn small() -> Result<Cluster> {
    Cluster::builder().start().await
}

/// One server that soon loses its patience.
pub async fn impatient() -> Result<Cluster> {
    Cluster::builder().settings(IMPATIENT).start().await
}

// Frames of ours, written by hand.

/// A prompt; `acp` is the agent's thread.
pub fn chat(dialect: Dialect, asked: &Asked, acp: Option<&str>, message: &str) -> Value {
    match dialect {
        Dialect::Today => json!({"type": "chat_message", "data": {
            "message": message, "request_id": asked.turn, "acp_thread_id": acp, "agent_name": "zed-agent",
            "interrupt": false}}),
        Dialect::Seed(_) => json!({"type": "chat_message", "data": {
            "message": message, "request_id": asked.turn, "context_id": acp, "role": "user"}}),
    }
}

/// A prompt that ends what runs.
pub fn interrupting(asked: &Asked, acp: &str, message: &str) -> Value {
    let mut frame = chat(Dialect::Today, asked, Some(acp), message);
    frame["data"]["interrupt"] = json!(true);
    frame
}

/// `open_thread`, whose request the server makes up.
pub fn open(acp: &str) -> Value {
    json!({"type": "open_thread", "data": {"acp_thread_id": acp, "request_id": any(), "agent_name": "zed-agent"}})
}

/// `cancel_current_turn`.
pub fn cancel(asked: &Asked) -> Value {
    json!({"type": "cancel_current_turn", "data": {"request_id": asked.turn}})
}
