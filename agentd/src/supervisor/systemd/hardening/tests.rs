//! Each unit as it will be, and what holds for all of them.

use std::fmt::Write as _;

use helix_protocol::SessionId;
use helix_protocol::resources::{Bytes, Cpus};

use super::*;

const WORDS: [&str; 10] = ["workspace", "display", "dbus", "wm", "forward", "recorder", "app", "tools", "rdp", "guest"];

fn properties(word: &str, network: Network, own_sandbox: bool) -> Vec<Property> {
    properties_in(None, word, network, own_sandbox)
}

fn properties_in(image: Option<&Path>, word: &str, network: Network, own_sandbox: bool) -> Vec<Property> {
    let session = SessionId::parse("session").unwrap();
    let layout = Layout::new(Path::new("/var/lib/helix"), Path::new("/srv/workspaces"), &session);
    let user = SlotUser { number: 1, name: "helix-u1".to_owned(), uid: 901, gid: 901 };
    let stdout = if matches!(word, "display" | "dbus" | "forward" | "recorder") { Stdout::Ready } else { Stdout::Log };
    let hidden = ["/var/lib/helix", "/srv/workspaces"].map(PathBuf::from);
    let programs = [PathBuf::from("/usr/bin/agentd")];
    let context = ServiceContext {
        image,
        word,
        layout: &layout,
        user: &user,
        network,
        own_sandbox,
        stdout,
        hidden: &hidden,
        programs: &programs,
        spool: (word == "recorder").then(|| Path::new("/var/lib/helix/recordings/rec_1/spool")),
    };
    service_properties(&context)
}

fn unit_file(properties: &[Property]) -> String {
    properties.iter().fold(String::new(), |mut text, (name, value)| {
        writeln!(text, "{name}={value}").unwrap();
        text
    })
}

#[test]
fn each_unit_as_it_will_be() {
    for word in WORDS {
        insta::assert_snapshot!(format!("unit_{word}"), unit_file(&properties(word, Network::Host, false)));
    }
    insta::assert_snapshot!("unit_app_with_own_sandbox", unit_file(&properties("app", Network::Host, true)));
    insta::assert_snapshot!("unit_forward_without_network", unit_file(&properties("forward", Network::None, false)));
    let image = Some(Path::new("/var/lib/helix/images/roots/0123/root"));
    let in_image = properties_in(image, "app", Network::Host, false);
    insta::assert_snapshot!("unit_app_in_an_image", unit_file(&in_image));
    insta::assert_snapshot!("unit_app_without_network", unit_file(&properties("app", Network::None, false)));
}

#[test]
fn no_unit_goes_without_what_separates_sessions() {
    let always = [
        "User",
        "NoNewPrivileges",
        "PrivateUsers",
        "PrivateDevices",
        "ProtectSystem",
        "ProtectHome",
        "ProtectProc",
        "PrivateIPC",
        "KeyringMode",
        "SystemCallFilter",
        "StandardError",
        "CapabilityBoundingSet",
    ];
    for (word, network, sandbox) in
        WORDS.iter().flat_map(|word| [(word, Network::Host, true), (word, Network::None, false)])
    {
        let properties = properties(word, network, sandbox);
        for name in always {
            assert!(properties.iter().any(|(found, _)| *found == name), "{word} has no {name}");
        }
        let is_set = |name, value| properties.contains(&(name, value));
        assert!(network == Network::Host || is_set("PrivateNetwork", Value::Bool(true)), "{word} has a network");
        assert!(!sandbox || *word == "app" || is_set("RestrictNamespaces", Value::Namespaces(NO_NAMESPACES)), "{word}");
        let display = unit_file(&properties).contains("/run/display");
        assert_eq!(display, matches!(*word, "display" | "recorder"), "{word} sees the RFB socket");
        let spool = unit_file(&properties).contains("/run/spool");
        assert_eq!(spool, *word == "recorder", "{word} sees the recording");
        assert!(
            *word != "recorder" || !unit_file(&properties).contains("/run/session"),
            "the recorder sees its session"
        );
        let way_out = unit_file(&properties).contains("/run/sync");
        assert_eq!(way_out, *word == "forward", "{word} sees the socket that leads out");
        let way_in = unit_file(&properties).contains("/run/tools");
        assert_eq!(way_in, *word == "tools", "{word} sees the socket that leads in");
        let to_the_gate = unit_file(&properties).contains("/run/rdp");
        assert_eq!(to_the_gate, *word == "rdp", "{word} sees the socket that leads to the gate");
        assert!(*word != "rdp" || is_set("PrivateNetwork", Value::Bool(true)), "it is in the machine's network");
    }
}

#[test]
fn nobody_but_the_display_is_named_by_another_unit() {
    for (word, network) in WORDS.iter().flat_map(|word| [(word, Network::Host), (word, Network::None)]) {
        let text = unit_file(&properties(word, network, false));
        let joined: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("JoinsNamespaceOf=")).collect();
        let joins = matches!(*word, "wm" | "app" | "tools")
            || (matches!(*word, "guest" | "forward") && network == Network::None);
        assert_eq!(joined.len(), usize::from(joins), "{word}");
        assert!(joined.iter().all(|named| named.ends_with("-display.service")), "{word}: {joined:?}");
    }
}

#[test]
fn what_the_session_sees_instead_is_not_hidden() {
    let session = SessionId::parse("session").unwrap();
    let (state, work) = (Path::new("/run/helix"), Path::new("/home/workspace"));
    let layout = Layout::new(state, work, &session);
    let user = SlotUser { number: 1, name: "helix-u1".to_owned(), uid: 901, gid: 901 };
    let hidden = [state.to_owned(), work.to_owned()];
    let context = ServiceContext {
        image: None,
        word: "app",
        layout: &layout,
        user: &user,
        network: Network::Host,
        own_sandbox: false,
        stdout: Stdout::Log,
        hidden: &hidden,
        programs: &[],
        spool: None,
    };
    let hidden = service_properties(&context).into_iter().find(|(name, _)| *name == "InaccessiblePaths").unwrap();
    assert!(!hidden.1.to_string().contains("/home/workspace"), "{}", hidden.1);
}

#[test]
fn a_limit_that_is_not_set_is_lifted() {
    let some = Resources { cpu: Some(Cpus(1500)), memory: Some(Bytes(4 << 30)), ..Resources::default() };
    insta::assert_snapshot!("slice_with_some_limits", unit_file(&slice_properties(&some)));
    insta::assert_snapshot!("slice_without_limits", unit_file(&slice_properties(&Resources::default())));
}

#[test]
fn every_value_has_the_type_that_systemd_wants() {
    use zbus::OwnedVariant;
    let signature = |value: Value| OwnedVariant::from(value).value_signature().to_string();
    let binds = Value::Binds(vec![("/a".to_owned(), "/b".to_owned(), false)]);
    assert_eq!(signature(binds), "a(ssbt)");
    assert_eq!(signature(Value::Mounts(vec![("/a".to_owned(), "ro".to_owned())])), "a(ss)");
    assert_eq!(signature(Value::Files(vec!["/a".to_owned()])), "a(sb)");
    assert_eq!(signature(Value::list(true, &["a"])), "(bas)");
    assert_eq!(signature(Value::Texts(Vec::new())), "as");
    assert_eq!(signature(Value::Namespaces(0)), "t");
    assert_eq!(signature(Value::Binds(Vec::new())), "a(ssbt)");
}
