//! Trees as a session may leave them. As root the owners are real; otherwise every user is the one who runs the tests.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

use helix_protocol::SessionId;
use rustix::process::{getegid, geteuid};

use super::*;
use crate::supervisor::systemd::slots::Owner;

struct Place {
    _dir: tempfile::TempDir,
    work: PathBuf,
    layout: Layout,
    slots: Slots,
    slot: SlotUser,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let (state, work) = (dir.path().join("state"), dir.path().join("w"));
    fs::create_dir(&work).unwrap();
    let layout = Layout::new(&state, &work, &SessionId::parse("a").unwrap());
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    // As root, ids that nobody has.
    let id = |number: u32| {
        if uid == 0 { Owner { uid: 3_000_000 + number, gid: 3_000_000 + number } } else { Owner { uid, gid } }
    };
    let user = |number: u32| {
        let Owner { uid, gid } = id(number);
        SlotUser { number, name: format!("helix-u{number}"), uid, gid }
    };
    Place { _dir: dir, work, layout, slots: Slots::of(vec![user(1), user(2)], id(9)), slot: user(1) }
}

fn file(path: &str, mode: u32) -> SessionFile {
    SessionFile { path: PathBuf::from(path), mode, content: path.as_bytes().to_vec() }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn uid(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().uid()
}

#[test]
fn a_session_gets_its_directories_whole_and_only_what_is_its_own() {
    let Place { layout, slots, slot, .. } = &place();
    // Left by an attempt that was cut short.
    fs::create_dir_all(layout.new_dir().join("home/half")).unwrap();
    let files = [file("openbox.xml", 0o600), file("home/.config/a/tool", 0o700), file("/run/session/deep/b", 0o600)];
    build(layout, slots, slot, &files, b"cookie").unwrap();
    assert!(!layout.new_dir().exists() && !layout.at("home/half").exists());
    assert_eq!(fs::read(layout.at("home/.config/a/tool")).unwrap(), b"home/.config/a/tool");
    assert_eq!(mode(&layout.at("home/.config/a/tool")), 0o700);
    for path in ["home", "tmp", "run", "home/.config", "home/.config/a", "run/deep"] {
        assert_eq!((mode(&layout.at(path)), uid(&layout.at(path))), (0o700, slot.uid), "{path}");
    }
    // Whoever it is bound for passes through.
    assert_eq!((mode(&layout.at("display")), uid(&layout.at("display"))), (0o711, slot.uid));
    for path in ["run/Xauthority", "run/openbox.xml", "run/deep/b"] {
        assert_eq!((mode(&layout.at(path)), uid(&layout.at(path))), (0o600, slot.uid), "{path}");
    }
    for (path, wanted) in
        [("", 0o700), ("ready", 0o700), ("env", 0o700), ("Xauthority.agentd", 0o600), ("tmp/.X11-unix", 0o1777)]
    {
        assert_eq!((mode(&layout.at(path)), uid(&layout.at(path))), (wanted, geteuid().as_raw()), "{path}");
    }
    assert_eq!(uid(layout.workspace().unwrap()), slot.uid);
    assert!(matches!(build(layout, slots, slot, &[], b""), Err(TreeError::Exists(_))));
    remove(layout).unwrap();
    assert!(!layout.dir().exists() && layout.workspace().unwrap().exists());
    remove(layout).unwrap();
}

#[test]
fn files_stay_inside() {
    let Place { layout, slots, slot, .. } = &place();
    for path in ["../x", "home/../../x", "/etc/passwd", "/run/session", "home", "/run/session/../x", ""] {
        let result = build(layout, slots, slot, &[file(path, 0o600)], b"");
        assert!(matches!(result, Err(TreeError::Outside(_))), "{path}: {result:?}");
        assert!(!layout.dir().exists() && !layout.new_dir().exists(), "{path} left something");
    }
}

#[test]
fn what_a_session_points_to_stays() {
    let Place { layout, slots, slot, work, .. } = &place();
    let outside = work.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "x").unwrap();
    let before = uid(&outside.join("kept"));
    build(layout, slots, slot, &[], b"").unwrap();
    let workspace = layout.workspace().unwrap();
    for dir in [&layout.at("home"), &layout.at("tmp"), workspace] {
        symlink(&outside, dir.join("link")).unwrap();
        symlink(outside.join("kept"), dir.join("file")).unwrap();
    }
    // A directory that became a link as a whole.
    fs::remove_dir_all(layout.at("run")).unwrap();
    symlink(&outside, layout.at("run")).unwrap();
    retain_workspaces(work, slots, slot).unwrap();
    remove(layout).unwrap();
    remove_workspace(layout).unwrap();
    assert!(!layout.dir().exists() && !workspace.exists());
    assert_eq!(fs::read(outside.join("kept")).unwrap(), b"x");
    assert_eq!(uid(&outside.join("kept")), before);
}

/// Deeper than paths are long (4096) and than descriptors are commonly open (1024).
fn dig(top: &Path, depth: u32, owner: &SlotUser) {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
    let mut at = rustix::fs::open(top, flags, rustix::fs::Mode::empty()).unwrap();
    for _ in 0..depth {
        rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::RWXU).unwrap();
        let ids = (rustix::fs::Uid::from_raw(owner.uid), rustix::fs::Gid::from_raw(owner.gid));
        rustix::fs::chownat(&at, "d", Some(ids.0), Some(ids.1), rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
        at = rustix::fs::openat(&at, "d", flags, rustix::fs::Mode::empty()).unwrap();
    }
}

#[test]
fn no_depth_keeps_a_slot_busy() {
    let Place { layout, slots, slot, work, .. } = &place();
    build(layout, slots, slot, &[], b"").unwrap();
    fs::write(layout.at("home/.helix-0"), "a name of ours").unwrap();
    dig(&layout.at("home"), 2100, slot);
    let workspace = layout.workspace().unwrap();
    dig(workspace, 2100, slot);
    retain_workspaces(work, slots, slot).unwrap();
    assert_eq!(uid(workspace), slots.keeper().uid);
    assert_eq!(uid(&workspace.join("d/d/d")), slots.keeper().uid);
    remove(layout).unwrap();
    // A later life of the session has its workspace again.
    build(layout, slots, slot, &[], b"").unwrap();
    assert_eq!(uid(&workspace.join("d/d/d")), slot.uid);
    remove(layout).unwrap();
    remove_workspace(layout).unwrap();
    assert!(!layout.dir().exists() && !workspace.exists());
}

#[test]
fn a_workspace_of_somebody_else_is_left_alone() {
    let Place { layout, slots, slot, .. } = &place();
    if geteuid().is_root() {
        let workspace = layout.workspace().unwrap();
        fs::create_dir(workspace).unwrap();
        fs::write(workspace.join("file"), "x").unwrap();
        let error = build(layout, slots, slot, &[], b"").unwrap_err();
        assert!(error.to_string().contains("belongs to uid 0"), "{error}");
        assert_eq!(uid(workspace), 0);
        fs::remove_file(workspace.join("file")).unwrap();
        build(layout, slots, slot, &[], b"").unwrap();
        assert_eq!(uid(workspace), slot.uid);
    }
}

#[test]
fn environments_are_quoted_and_what_systemd_would_drop_is_refused() {
    let text = |name: &str, value: &str| environment_text(&BTreeMap::from([(name.to_owned(), value.to_owned())]));
    insta::assert_snapshot!(text("NAME", "a \"b\" \\ $HOME `id` 'c'\n\t#d é ").unwrap());
    let long = "x".repeat(128 * 1024);
    for (name, value) in [
        ("", "x"),
        ("1A", "x"),
        ("A-B", "x"),
        ("BASH_FUNC_x%%", "x"),
        ("A\nB", "x"),
        ("A", "\0"),
        ("A", "\u{fffe}"),
        ("A", "\u{fdd0}"),
        ("A", &long),
    ] {
        let error = text(name, value).unwrap_err().to_string();
        assert!(error.starts_with("variable ") && error.len() < 200, "{error}");
    }
    let Place { layout, slots, slot, .. } = &place();
    build(layout, slots, slot, &[], b"").unwrap();
    for value in ["1", "2"] {
        write_env(layout, "app", &BTreeMap::from([("A".to_owned(), value.to_owned())])).unwrap();
    }
    assert_eq!(fs::read_to_string(layout.env_file("app")).unwrap(), "A=\"2\"\n");
    assert_eq!(mode(&layout.env_file("app")), 0o600);
}
