//! Events of an agent's that have no meaning to us: passed on under their own names, also to who reads the thread later.

use std::collections::VecDeque;

use helix_protocol::api::threads::CustomView;
use helix_protocol::thread::{ThreadEvent, ThreadFeedItem};

use crate::threads::model::Conversation;

/// Most that go with a thread.
const MAX_CUSTOMS: usize = 50;
/// Most bytes of them, but for a single one.
const CUSTOM_BYTES: usize = 256 * 1024;

/// The newest events of a thread that have no meaning to us, as many as fit.
#[derive(Debug, Default)]
pub(super) struct Customs {
    newest: VecDeque<(usize, CustomView)>,
    bytes: usize,
}

impl Customs {
    pub(super) fn take(&mut self, conversation: &Conversation, item: ThreadFeedItem) {
        let ThreadEvent::Custom { name, data } = item.record.event else { return };
        let thread = conversation.thread(&item.thread);
        // What an agent tells while it has nothing to do belongs behind what it did last.
        let turn = thread.and_then(|thread| thread.active_turn().or_else(|| thread.turns.last()));
        let bytes = name.len() + data.to_string().len();
        let turn = turn.map(|turn| turn.id.clone());
        self.newest.push_back((bytes, CustomView { sequence: item.sequence, at: item.record.at, name, data, turn }));
        self.bytes += bytes;
        while self.newest.len() > 1 && (self.bytes > CUSTOM_BYTES || self.newest.len() > MAX_CUSTOMS) {
            self.bytes -= self.newest.pop_front().map_or(0, |(bytes, _)| bytes);
        }
    }
}

impl From<Customs> for Vec<CustomView> {
    fn from(customs: Customs) -> Self {
        customs.newest.into_iter().map(|(_, view)| view).collect()
    }
}

#[cfg(test)]
mod tests {
    use helix_protocol::thread::{Origin, Role, ThreadRecord};
    use helix_protocol::{ThreadId, TurnId};
    use jiff::Timestamp;

    use super::*;
    use crate::threads::model::Keep;

    fn queued(turn: &str) -> ThreadEvent {
        ThreadEvent::TurnQueued {
            turn: TurnId::parse(turn).expect("valid id"),
            origin: Origin::Api,
            by: None,
            prompt: "x".to_owned(),
            interrupt: false,
            attachments: Vec::new(),
            resend_of: None,
        }
    }

    fn said() -> ThreadEvent {
        let (entry, text) = ("1".to_owned(), "x".to_owned());
        ThreadEvent::Entry { entry, before: None, turn: None, role: Role::Assistant, tool: None, offset: 0, text }
    }

    #[test]
    fn events_without_a_meaning_stand_at_their_turn_and_the_oldest_give_way() {
        let custom = |name: &str, bytes| ThreadEvent::Custom { name: name.to_owned(), data: "x".repeat(bytes).into() };
        let thread = ThreadId::parse("thr_1").expect("valid id");
        let told = |events: Vec<ThreadEvent>| {
            let (mut conversation, mut customs) = (Conversation::new(Keep::All), Customs::default());
            for (place, event) in events.into_iter().enumerate() {
                let item = ThreadFeedItem {
                    sequence: place as u64 + 1,
                    thread: thread.clone(),
                    record: ThreadRecord { at: Timestamp::UNIX_EPOCH, event },
                };
                conversation.apply(item.sequence, &thread, &item.record);
                customs.take(&conversation, item);
            }
            Vec::from(customs)
        };
        let shown = told(vec![custom("early", 1), queued("int_1"), custom("late", 1), said()]);
        let places: Vec<_> = shown.iter().map(|view| (view.sequence, view.name.as_str(), view.turn.as_ref())).collect();
        assert_eq!(places, [(1, "early", None), (3, "late", Some(&TurnId::parse("int_1").expect("valid id")))]);
        let many = told((0..80).map(|_| custom("x", 1)).collect());
        assert_eq!((many.len(), many[0].sequence), (MAX_CUSTOMS, 31));
        let large = told((0..8).map(|_| custom("x", CUSTOM_BYTES / 3)).collect());
        assert_eq!((large.len(), large[0].sequence), (2, 7));
        assert_eq!(told(vec![custom("x", 2 * CUSTOM_BYTES)]).len(), 1);
    }
}
