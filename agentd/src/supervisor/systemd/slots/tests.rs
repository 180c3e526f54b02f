//! What makes a slot busy, and what no slot user may be.

use helix_protocol::SessionId;

use super::*;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nhelix-keep:x:900:900::/:/usr/sbin/nologin\n\
    helix-u1:x:901:901::/:/usr/sbin/nologin\nhelix-u2:x:902:902::/:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nhelix-keep:x:900:\nhelix-u1:x:901:\nhelix-u2:x:902:\n";

fn find(passwd: &str, group: &str) -> Result<Slots, SlotsError> {
    Slots::find(passwd, group, "helix-u", 1, 2)
}

#[test]
fn every_missing_user_and_group_is_named_with_the_fix() {
    let without = PASSWD.replace("helix-keep", "other");
    let error = Slots::find(&without, GROUP, "helix-u", 1, 3).unwrap_err().to_string();
    for word in ["user helix-keep,", "user helix-u3", "group helix-u3", "systemd-sysusers"] {
        assert!(error.contains(word), "{error}");
    }
    assert!(!error.contains("helix-u1"), "{error}");
}

#[test]
fn a_user_with_the_rights_of_others_holds_no_session() {
    let twin = format!("{PASSWD}operator:x:901:901::/home/operator:/bin/bash\n");
    assert!(find(&twin, GROUP).unwrap_err().to_string().contains("it has the uid of operator, 901"));
    let member = format!("{GROUP}docker:x:999:somebody,helix-u2\n");
    assert!(
        find(PASSWD, &member)
            .unwrap_err()
            .to_string()
            .contains("helix-u2 cannot hold sessions: it is a member of group docker")
    );
}

#[test]
fn a_slot_outside_of_the_range_is_known_and_given_to_nobody() {
    let more = "helix-u8:x:908:908::/:/usr/sbin/nologin\nhelix-u09:x:909:909::/:/usr/sbin/nologin\n\
        helix-u10:x:910:910::/:/usr/sbin/nologin\nhelix-u11:x:911:911::/:/usr/sbin/nologin\n\
        operator:x:911:911::/home/operator:/bin/bash\n";
    let groups = format!("{GROUP}helix-u8:x:1908:\nhelix-u09:x:909:\nhelix-u11:x:911:\n");
    let slots = find(&format!("{PASSWD}{more}"), &groups).unwrap();
    let eighth = SlotUser { number: 8, name: "helix-u8".to_owned(), uid: 908, gid: 1908 };
    assert_eq!(slots.by_number(8), Some(eighth.clone()));
    assert_eq!(slots.by_uid(908), Some(eighth));
    assert_eq!(slots.by_uid(902).map(|slot| slot.number), Some(2));
    // Not ours, without a group, and somebody else's uid.
    assert_eq!([909, 910, 911].map(|uid| slots.by_uid(uid)), [None, None, None]);
    assert_eq!(slots.count(), 2);
    let dir = tempfile::tempdir().unwrap();
    let (state, work) = (dir.path().join("state"), dir.path().join("w"));
    let layout = |name| Layout::new(&state, &work, &session(name));
    let _both = ["a", "b"].map(|name| slots.allocate(&state, &work, &layout(name)).unwrap());
    assert!(slots.allocate(&state, &work, &layout("c")).unwrap_err().contains("all 2 slot users"));
}

fn session(name: &str) -> SessionId {
    SessionId::parse(name).unwrap()
}

#[test]
fn two_at_once_never_get_the_same_and_a_third_is_told_who_holds_them() {
    let dir = tempfile::tempdir().unwrap();
    let (state, work) = (dir.path().join("state"), dir.path().join("w"));
    let layout = |name| Layout::new(&state, &work, &session(name));
    let slots = find(PASSWD, GROUP).unwrap();
    let clone = slots.clone();
    let first = slots.allocate(&state, &work, &layout("a")).unwrap();
    let second = clone.allocate(&state, &work, &layout("b")).unwrap();
    assert_eq!((first.number, second.number), (1, 2));
    let reason = slots.allocate(&state, &work, &layout("c")).unwrap_err();
    assert!(reason.contains("all 2 slot users are held: helix-u1 by a session that is just starting"), "{reason}");
    drop(first);
    assert_eq!(slots.allocate(&state, &work, &layout("c")).unwrap().number, 1);
}

/// A slot whose user is the one who runs the test: the only one whose files a test can make.
fn own_slot(others: &str) -> Slots {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let user = |number: u32, uid, gid| SlotUser { number, name: format!("helix-u{number}"), uid, gid };
    let users = if others.is_empty() {
        vec![user(1, uid, gid)]
    } else {
        vec![user(1, uid, gid), user(2, 4_000_000_000, 4_000_000_000)]
    };
    Slots::of(users, Owner { uid: 4_000_000_001, gid: 4_000_000_001 })
}

#[test]
fn files_and_processes_keep_a_slot_busy() {
    let dir = tempfile::tempdir().unwrap();
    let (state, work) = (dir.path().join("state"), dir.path().join("w"));
    let layout = Layout::new(&state, &work, &session("a"));
    let slots = own_slot("and another");
    fs::create_dir_all(layout.at("home")).unwrap();
    fs::create_dir_all(work.join("b")).unwrap();
    let holders = slots.holders(&state, &work).unwrap();
    let held = holders[&1].join("\n");
    for word in ["session directory", "workspace", &format!("process {}", std::process::id())] {
        assert!(held.contains(word), "{held}");
    }
    assert!(!holders.contains_key(&2));
    assert_eq!(slots.of_session(&layout).unwrap().number, 1);
    assert_eq!(slots.allocate(&state, &work, &layout).unwrap().number, 2);
    assert!(own_slot("").allocate(&state, &work, &layout).unwrap_err().contains("helix-u1 by"));
}
