//! NATS, as part of the status.

use helix_protocol::api::status::{StoreMember, StoreStatus};
use helix_protocol::resources::Bytes;

/// A member that is further behind is told of: it catches up, or its disk or network is too slow.
const FAR_BEHIND: u64 = 1000;

/// What there is of it, in a line.
pub(super) fn line(store: &StoreStatus) -> String {
    let StoreStatus { nats, bytes, limit_bytes, members, .. } = store;
    let of = limit_bytes.map(|most| format!(" of {}", Bytes(most))).unwrap_or_default();
    let cluster = members.iter().find(|member| member.leader).map(|leader| {
        let online = members.iter().filter(|member| member.online).count();
        format!(", {online} of {} members, {} leads", members.len(), leader.name)
    });
    format!("NATS {nats}: {}{of}{}", Bytes(*bytes), cluster.unwrap_or_default())
}

/// What is wrong with it.
pub(super) fn problems(store: Option<&StoreStatus>) -> Vec<String> {
    let Some(store) = store else {
        return vec!["NATS does not answer: nothing can be changed, and sessions run on".to_owned()];
    };
    let full = store
        .full
        .then(|| "NATS stores nothing more: make room on its disk, or raise max_file_store in nats.conf".to_owned());
    let online = store.members.iter().filter(|member| member.online).count();
    // Without more than half of them nothing is stored.
    let is_last = online <= store.members.len() / 2 + 1;
    let no_leader = (!store.members.is_empty() && store.members.iter().all(|member| !member.leader))
        .then(|| "NATS has no leader for the sessions: more than half of its members have to run".to_owned());
    full.into_iter()
        .chain(no_leader)
        .chain(store.members.iter().filter_map(|member| problem(member, is_last)))
        .collect()
}

fn problem(member: &StoreMember, is_last: bool) -> Option<String> {
    let StoreMember { name, online, current, lag, .. } = member;
    if !online {
        let then = if is_last { ": one more that ends stops the store" } else { "" };
        return Some(format!("NATS member {name} is not heard{then}"));
    }
    (!current && *lag >= FAR_BEHIND).then(|| format!("NATS member {name} is {lag} messages behind"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, leader: bool) -> StoreMember {
        StoreMember { name: name.to_owned(), leader, online: true, current: true, lag: 0 }
    }

    #[test]
    fn a_store_is_told_in_a_line_and_what_is_wrong_with_it_in_more() {
        let (nats, bytes) = ("2.15.1".to_owned(), 300 << 20);
        let mut store = StoreStatus { nats, bytes, limit_bytes: None, full: false, members: Vec::new() };
        assert_eq!(line(&store), "NATS 2.15.1: 300MiB");
        assert_eq!(problems(Some(&store)), Vec::<String>::new());
        store.limit_bytes = Some(32 << 30);
        store.full = true;
        store.members = vec![member("n0", false), member("n1", true), member("n2", false)];
        store.members[0].online = false;
        (store.members[2].current, store.members[2].lag) = (false, 5000);
        assert_eq!(line(&store), "NATS 2.15.1: 300MiB of 32GiB, 2 of 3 members, n1 leads");
        insta::assert_snapshot!(problems(Some(&store)).join("\n"), @r"
        NATS stores nothing more: make room on its disk, or raise max_file_store in nats.conf
        NATS member n0 is not heard: one more that ends stops the store
        NATS member n2 is 5000 messages behind
        ");
        store.full = false;
        store.members.extend([member("n3", false), member("n4", false)]);
        assert_eq!(problems(Some(&store))[0], "NATS member n0 is not heard");
    }
}
