//! Conversations played in memory: what is heard and done is applied as the log would, with a clock that is set.

mod bind;
mod entries;
mod outcomes;
mod queue;
mod reconnect;
mod silence;

use helix_protocol::thread::{Origin, ThreadRecord, TurnState};
use serde_json::{Value, json};

use super::*;
use crate::threads::model::Keep;

/// One session with its agent.
struct World {
    conversation: Conversation,
    desk: Desk,
    now: Instant,
    sequence: u64,
    peers: u64,
}

const TIMING: Timing = Timing {
    ready_fallback: Duration::from_mins(1),
    thread_created: Duration::from_secs(90),
    silence: Duration::from_mins(3),
    tool_silence: Duration::from_mins(30),
};

fn thread(id: &str) -> ThreadId {
    ThreadId::parse(id).expect("valid id")
}

fn turn(id: &str) -> TurnId {
    TurnId::parse(id).expect("valid id")
}

impl World {
    fn new() -> Self {
        let session = SessionId::parse("s").expect("valid id");
        let (conversation, now) = (Conversation::new(Keep::Running), Instant::now());
        Self { conversation, desk: Desk::new(session, TIMING), now, sequence: 0, peers: 0 }
    }

    fn apply(&mut self, append: Append) {
        self.sequence += 1;
        let at = jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(self.sequence.cast_signed());
        let record = ThreadRecord { at, event: append.event };
        self.conversation.apply(self.sequence, &append.thread, &record);
    }

    /// A prompt as the API writes it.
    fn prompt(&mut self, of: &str, id: &str) -> &mut Self {
        self.prompt_with(of, id, false)
    }

    fn interrupt(&mut self, of: &str, id: &str) -> &mut Self {
        self.prompt_with(of, id, true)
    }

    fn prompt_with(&mut self, of: &str, id: &str, interrupt: bool) -> &mut Self {
        if self.conversation.thread(&thread(of)).is_none() {
            let event = ThreadEvent::ThreadStarted {
                origin: Origin::Api,
                by: None,
                agent: None,
                title: None,
                work_session: None,
            };
            self.apply(Append { thread: thread(of), event });
        }
        let event = ThreadEvent::TurnQueued {
            turn: turn(id),
            origin: Origin::Api,
            by: None,
            prompt: format!("do {id}"),
            interrupt,
            attachments: Vec::new(),
            resend_of: None,
        };
        self.apply(Append { thread: thread(of), event });
        self
    }

    fn cancel_wanted(&mut self, of: &str, id: &str) {
        let event = ThreadEvent::CancelRequested { turn: turn(id), by: "ann".to_owned() };
        self.apply(Append { thread: thread(of), event });
    }

    fn connect(&mut self) -> PeerId {
        self.peers += 1;
        self.desk.connected(PeerId(self.peers), self.now);
        PeerId(self.peers)
    }

    /// A socket whose agent is ready and cannot list its turns.
    fn old_peer(&mut self) -> PeerId {
        let peer = self.connect();
        self.say(peer, "agent_ready", json!({ "agent_name": "zed-agent", "thread_id": null }));
        peer
    }

    /// One whose agent lists these.
    fn listing_peer(&mut self, turns: &[&str]) -> PeerId {
        let peer = self.connect();
        let turns: Vec<_> = turns.iter().map(|id| json!({ "request_id": id, "state": "running" })).collect();
        self.say(peer, "agent_ready", json!({ "agent_name": "zed-agent", "thread_id": null, "active_turns": turns }));
        peer
    }

    /// What was written because of it. It is heard twice, as when another writer was faster: the same is written.
    #[expect(clippy::needless_pass_by_value, reason = "a literal reads best where it is said")]
    fn say(&mut self, peer: PeerId, event: &str, data: Value) -> Vec<Append> {
        let heard = words::read(&json!({ "event_type": event, "data": data }).to_string());
        if heard.seed {
            self.desk.speaks_seed(peer, self.now);
        }
        let mut all = Vec::new();
        for said in heard.said {
            let appends = self.desk.hear(&self.conversation, peer, &said, self.now);
            assert_eq!(self.desk.hear(&self.conversation, peer, &said, self.now), appends, "heard twice: {said:?}");
            appends.iter().cloned().for_each(|append| self.apply(append));
            all.extend(appends);
        }
        all
    }

    /// Everything that is to be done now: the frames that are sent.
    fn act(&mut self) -> Vec<Value> {
        let mut frames = Vec::new();
        for _ in 0..100 {
            let Some(act) = self.desk.act(&self.conversation, self.now) else { return frames };
            assert_eq!(self.desk.act(&self.conversation, self.now), Some(act.clone()), "asked twice");
            self.check(&act);
            act.append.iter().cloned().for_each(|append| self.apply(append));
            self.desk.done(&act, self.now);
            frames.extend(act.frame.map(|text| serde_json::from_str::<Value>(&text).expect("JSON")));
        }
        panic!("there is no end to it: {frames:?}");
    }

    /// Whatever else happens: a prompt goes to a thread in which nothing runs, or ends what runs there.
    fn check(&self, act: &Act) {
        let Note::HandedOver { turn, thread, .. } = &act.note else { return };
        let of = self.conversation.thread(thread).expect("there");
        let turn = of.turn(turn).expect("there");
        if turn.state == TurnState::Queued && of.active_turn().is_some() {
            assert!(turn.interrupt && of.acp.is_some(), "{turn:?} goes while {:?} runs", of.active_turn());
        }
        let earlier = of.turns.iter().find(|other| other.state == TurnState::Queued && other.sequence < turn.sequence);
        assert!(turn.state != TurnState::Queued || turn.interrupt || earlier.is_none(), "{turn:?} passes {earlier:?}");
    }

    /// The same in short: type and whom it is about.
    fn sends(&mut self) -> Vec<String> {
        let short = |frame: Value| {
            let (kind, data) = (frame["type"].as_str().unwrap_or_default(), &frame["data"]);
            let about = match kind {
                "open_thread" => &data["acp_thread_id"],
                "respond_elicitation" => &data["elicitation_id"],
                _ => &data["request_id"],
            };
            let interrupt = if data["interrupt"] == true { "!" } else { "" };
            format!("{kind} {}{interrupt}", about.as_str().unwrap_or("?"))
        };
        self.act().into_iter().map(short).collect()
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// Lets the clock run to the next deadline, which must be so many seconds away.
    fn deadline(&mut self) -> Option<u64> {
        let deadline = self.desk.deadline(&self.conversation, self.now)?;
        let wait = deadline.duration_since(self.now);
        self.now = deadline;
        Some(wait.as_secs())
    }

    fn created(&mut self, peer: PeerId, acp: &str, request: &str) {
        self.say(peer, "thread_created", json!({ "acp_thread_id": acp, "request_id": request }));
    }

    fn wrote(&mut self, peer: PeerId, acp: &str, entry: &str, request: &str, text: &str) -> Vec<Append> {
        let data = json!({
            "acp_thread_id": acp, "message_id": entry, "role": "assistant", "content": text, "request_id": request,
        });
        self.say(peer, "message_added", data)
    }

    fn used_tool(&mut self, peer: PeerId, acp: &str, entry: &str, request: &str, status: &str) -> Vec<Append> {
        let data = json!({
            "acp_thread_id": acp, "message_id": entry, "role": "assistant", "content": status, "request_id": request,
            "entry_type": "tool_call", "tool_name": "build", "tool_status": status,
        });
        self.say(peer, "message_added", data)
    }

    fn typed(&mut self, peer: PeerId, acp: &str, entry: &str, text: &str) -> Vec<Append> {
        let data =
            json!({ "acp_thread_id": acp, "message_id": entry, "role": "user", "content": text, "request_id": "" });
        self.say(peer, "message_added", data)
    }

    fn completed(&mut self, peer: PeerId, acp: &str, request: &str) -> Vec<Append> {
        self.say(peer, "message_completed", json!({ "acp_thread_id": acp, "request_id": request, "usage": null }))
    }

    fn state(&self, id: &str) -> TurnState {
        self.conversation.turn(&turn(id)).expect("there").1.state
    }

    fn cause(&self, id: &str) -> Option<&str> {
        self.conversation.turn(&turn(id)).expect("there").1.cause.as_ref().map(|cause| cause.code.as_str())
    }

    /// A thread with one turn that is over: the next prompt there is a follow-up.
    fn used_thread(&mut self, peer: PeerId, of: &str, acp: &str) {
        let id = format!("int_{of}_0");
        self.prompt(of, &id);
        assert_eq!(self.sends(), [format!("chat_message {id}")]);
        self.created(peer, acp, &id);
        self.completed(peer, acp, &id);
        assert_eq!(self.state(&id), TurnState::Completed);
    }
}
