use std::os::unix::fs::OpenOptionsExt as _;

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().expect("a temporary directory"));
        folder.write("server.key", &[1; 32], 0o600);
        folder.write("admin.token", b"an-admin-token-of-a-test\n", 0o600);
        folder.write("runner.token", b"an-enrolment-token-of-a-test", 0o600);
        folder.write("nats.password", b"a-password-of-a-test", 0o600);
        folder
    }

    fn write(&self, name: &str, content: &[u8], mode: u32) {
        use std::io::Write as _;
        let path = self.0.path().join(name);
        let _ = std::fs::remove_file(&path);
        let mut file =
            std::fs::OpenOptions::new().create_new(true).write(true).mode(mode).open(path).expect("a new file");
        file.write_all(content).expect("a written file");
    }

    fn parse(&self, text: &str, env: &[(&str, &str)]) -> Result<ServerConfig, String> {
        let lookup = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        ServerConfig::parse(text, &self.0.path().join("server.toml"), &lookup, &Overrides::default())
            .map_err(|faults| faults.to_string().replace(&format!("{}/", self.0.path().display()), ""))
    }
}

const GOOD: &str = "key_file = \"server.key\"\nadmin_token_file = \"admin.token\"\n\
                    enrolment_token_file = \"runner.token\"\n[nats]\npassword_file = \"nats.password\"\n";

#[test]
fn defaults_are_those_of_the_documents() {
    let config = Folder::new().parse(GOOD, &[]).expect("a good configuration");
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.advertise_url, "http://127.0.0.1:8080");
    assert_eq!(config.runner_nats_url, "nats://127.0.0.1:4222");
    assert_eq!(config.heartbeat_interval, Duration::from_secs(5));
    assert_eq!(config.suspect_timeout, Duration::from_secs(15));
    assert_eq!(config.lost_timeout, Duration::from_secs(30));
    assert_eq!(config.secrets.admin_token, "an-admin-token-of-a-test");
    assert!(config.external_agents_enabled);
}

#[test]
fn secrets_are_not_shown() {
    let config = Folder::new().parse(GOOD, &[]).expect("a good configuration");
    let shown = format!("{config:?}");
    for secret in ["an-admin-token", "an-enrolment-token", "a-password"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn the_environment_goes_before_the_file() {
    let text = format!("{GOOD}url = \"tls://file\"\n[external_agents]\nlost_timeout = \"30s\"\n");
    let env = [
        ("EXTERNAL_AGENT_TIMEOUT", "60s"),
        ("EXTERNAL_AGENT_ENABLED", "false"),
        ("NATS_SERVER_HOST", "bus"),
        ("NATS_SERVER_PORT", "4333"),
        ("RUNNER_TOKEN", "a-token-from-the-environment"),
    ];
    let config = Folder::new().parse(&text, &env).expect("a good configuration");
    assert_eq!(config.lost_timeout, Duration::from_mins(1));
    assert!(!config.external_agents_enabled);
    assert_eq!(config.nats.url, "tls://bus:4333");
    assert_eq!(config.secrets.enrolment_token.as_deref(), Some("a-token-from-the-environment"));
}

#[test]
fn the_environment_says_host_and_port_of_nats_whatever_the_file_says() {
    let with = |url: &str| format!("{GOOD}url = \"{url}\"\n");
    let (none, file, tls) = (GOOD.to_owned(), with("nats://localhost:4333"), with("tls://bus:4333, tls://two"));
    for (text, host, port, url) in [
        (&none, "", "", "nats://127.0.0.1:4222"),
        (&none, "127.0.0.2", "", "nats://127.0.0.2:4222"),
        (&none, "", "4444", "nats://127.0.0.1:4444"),
        (&file, "", "", "nats://localhost:4333"),
        (&file, "127.0.0.2", "4444", "nats://127.0.0.2:4444"),
        (&file, "127.0.0.2", "", "nats://127.0.0.2:4333"),
        (&file, "", "4444", "nats://localhost:4444"),
        (&tls, "", "", "tls://bus:4333,tls://two"),
        (&tls, "other", "", "tls://other:4333"),
        (&tls, "other", "4444", "tls://other:4444"),
        (&file, "::1", "", "nats://[::1]:4333"),
        (&file, "[::1]", "4444", "nats://[::1]:4444"),
    ] {
        let env = [("NATS_SERVER_HOST", host), ("NATS_SERVER_PORT", port)];
        let config = Folder::new().parse(text, &env).expect("a good configuration");
        assert_eq!((&*config.nats.url, &*config.runner_nats_url), (url, url), "{text} {env:?}");
    }
    let env = [("NATS_SERVER_HOST", "nats://bus"), ("NATS_SERVER_PORT", "70000")];
    insta::assert_snapshot!(Folder::new().parse(&file, &env).expect_err("two faults"), @r#"
    environment variable NATS_SERVER_HOST: "nats://bus" is not a host; fix: write a name or an address alone, for example 127.0.0.1
    environment variable NATS_SERVER_PORT: "70000" is not a port; fix: write 1 to 65535; nats-server's own is 4222
    "#);
}

#[test]
fn off_loopback_nats_is_spoken_to_over_tls_alone() {
    let with = |more: &str| Folder::new().parse(&format!("{GOOD}{more}"), &[]).map(|config| config.nats.url);
    insta::assert_snapshot!(with("url = \"nats://bus.example.org\"\n").expect_err("plaintext"), @r#"server.toml:6: nats.url: nats://bus.example.org is not on loopback, and passwords and tokens would cross the network in plaintext; fix: write [nats] url = "tls://bus.example.org:4222" and give nats-server a certificate: docs/nats.md"#);
    for bad in [
        "url = \"nats://10.0.0.1\"\n",
        "url = \"nats://[2001:db8::1]:4222\"\n",
        "runner_url = \"nats://10.0.0.1\"\n",
        "url = \"tls://a,nats://127.0.0.1\"\n",
        "url = \"tls://a,\"\n",
        "ca_file = \"server.key\"\n",
        "ca_file = \"absent\"\n",
    ] {
        assert!(with(bad).is_err(), "{bad}");
    }
    for good in ["nats://[::1]:4222", "nats://localhost", "nats://127.9.9.9", "tls://10.0.0.1", "tls://a:1,tls://b:2"] {
        assert_eq!(with(&format!("url = \"{good}\"\n")).expect(good), good);
    }
    let env = Folder::new().parse(GOOD, &[("NATS_SERVER_HOST", "bus")]).expect_err("plaintext");
    assert!(env.contains("NATS_SERVER_HOST") && env.contains("tls://bus:4222"), "{env}");
}

/// Every variable of the documents, with a value that is not the default.
#[test]
fn each_variable_of_the_documents_is_heard() {
    type Field = fn(&ServerConfig) -> String;
    let table: [(&str, &str, Field, &str); 7] = [
        ("EXTERNAL_AGENT_ENABLED", "false", |config| config.external_agents_enabled.to_string(), "false"),
        ("NATS_SERVER_HOST", "localhost", |config| config.nats.url.clone(), "nats://localhost:4222"),
        ("NATS_SERVER_PORT", "4333", |config| config.nats.url.clone(), "nats://127.0.0.1:4333"),
        ("EXTERNAL_AGENT_TIMEOUT", "45s", |config| format!("{:?}", config.lost_timeout), "45s"),
        ("EXTERNAL_AGENT_HEARTBEAT_INTERVAL", "7s", |config| format!("{:?}", config.heartbeat_interval), "7s"),
        (
            "RUNNER_TOKEN",
            "a-token-from-the-environment",
            |config| config.secrets.enrolment_token.clone().unwrap_or_default(),
            "a-token-from-the-environment",
        ),
        ("LOG_LEVEL", "debug", |config| config.log_level.clone(), "debug"),
    ];
    let folder = Folder::new();
    let (default, empty) = (folder.parse(GOOD, &[]).expect("good"), folder.parse(GOOD, &table.map(|row| (row.0, ""))));
    let empty = empty.expect("an empty variable is none");
    for (name, value, field, expected) in table {
        let config = folder.parse(GOOD, &[(name, value)]).expect(name);
        assert_eq!(field(&config), expected, "{name}");
        assert_ne!(field(&default), expected, "{name}: the value is the default");
        assert_eq!(field(&empty), field(&default), "{name}: empty");
    }
}

#[test]
fn document_000s_interval_as_long_as_the_timeout_is_refused() {
    let env = [("EXTERNAL_AGENT_HEARTBEAT_INTERVAL", "30s"), ("EXTERNAL_AGENT_TIMEOUT", "30s")];
    let faults = Folder::new().parse(GOOD, &env).expect_err("every runner would be lost");
    insta::assert_snapshot!(faults, @r#"server.toml: external_agents.heartbeat_interval: an interval of 30s is not shorter than the time-out of 30s: every runner would be lost; fix: make it a sixth of lost_timeout, for example "5s" and "30s""#);
}

#[test]
fn every_fault_is_told_at_once_with_line_and_fix() {
    let folder = Folder::new();
    folder.write("admin.token", b"an-admin-token-of-a-test", 0o644);
    folder.write("server.key", b"short", 0o600);
    let text = "listen = \"0.0.0.0:8080\"\nkey_file = \"server.key\"\nadmin_token_file = \"admin.token\"\n\
                lissten = 1\nmax_body_bytes = \"much\"\n[nats]\npassword_file = \"missing\"\nurl = \"http://x\"\n\
                [external_agents]\nheartbeat_interval = \"30s\"\nlost_timeout = \"30s\"\n[extra]\na = 1\n";
    let faults = folder.parse(text, &[("RUNNER_TOKEN", SAMPLE_TOKEN)]).expect_err("many faults");
    insta::assert_snapshot!(faults);
}

#[test]
fn bad_toml_is_told_with_its_line() {
    let faults = Folder::new().parse("listen = \n", &[]).expect_err("a fault");
    assert!(faults.starts_with("server.toml:1:"), "{faults}");
}

#[test]
fn durations_have_a_unit() {
    assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
    for bad in ["", "5", "s", "-1s", "5 s", "0s", "99999999999999999999h", "1d"] {
        assert!(duration(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_short_timeout_moves_the_suspect_time_between() {
    let text = format!("{GOOD}[external_agents]\nheartbeat_interval = \"5s\"\nlost_timeout = \"8s\"\n");
    let config = Folder::new().parse(&text, &[]).expect("a good configuration");
    assert_eq!(config.suspect_timeout, Duration::from_millis(6500));
}

#[test]
fn the_example_environment_loads() {
    let example = include_str!("../../../packaging/helix.env.example");
    // Settings that are off in the example are tried, too: their names must be right.
    let lines = example.lines().map(|line| line.strip_prefix('#').unwrap_or(line));
    let settings: Vec<(&str, &str)> = lines
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'))
        .map(|(name, value)| (name, if name == "RUNNER_TOKEN" { "an-enrolment-token-of-a-test" } else { value }))
        .collect();
    assert!(settings.len() >= 7, "{settings:?}");
    let config = Folder::new().parse(GOOD, &settings).expect("the example must load");
    assert_eq!(config.lost_timeout, std::time::Duration::from_secs(30));
    assert_eq!(config.heartbeat_interval, std::time::Duration::from_secs(5));
}

#[test]
fn the_example_file_loads_and_shows_the_defaults() {
    let folder = Folder::new();
    std::fs::create_dir(folder.0.path().join("secrets")).expect("a folder");
    for (name, content) in [
        ("server.key", "0123456789abcdef0123456789abcdef"),
        ("admin.token", "an-admin-token-of-a-test"),
        ("enrolment.token", "an-enrolment-token-of-a-test"),
        ("nats.password", "a-password-of-a-test"),
        ("observer.password", "another-password-of-a-test"),
    ] {
        folder.write(&format!("secrets/{name}"), content.as_bytes(), 0o600);
    }
    folder.write("nats-ca.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o644);
    let example = include_str!("../../../packaging/server.toml.example");
    // What is commented out is tried, too: it is the default.
    let is_setting = |line: &str| {
        line.split_once(" = ").is_some_and(|(key, _)| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
    };
    let whole: Vec<_> =
        example.lines().map(|line| line.strip_prefix('#').filter(|rest| is_setting(rest)).unwrap_or(line)).collect();
    let addresses = ["advertise_url", "runner_url", "ca_file"];
    let shown = folder.parse(&whole.join("\n"), &[]).expect("every setting of the example is known");
    let default = folder.parse(example, &[]).expect("the example must load");
    for key in addresses {
        assert!(whole.iter().any(|line| line.starts_with(key)), "{key} is not an example any more");
    }
    let same = |config: ServerConfig| {
        let nats = NatsConfig { ca: None, ..config.nats.clone() };
        let config = ServerConfig { advertise_url: String::new(), runner_nats_url: String::new(), nats, ..config };
        format!("{config:?}")
    };
    assert_eq!(same(shown), same(default));
}

#[test]
fn how_much_nats_holds_is_the_operators_word() {
    let observed = format!("{GOOD}observer_password_file = \"nats.password\"\n");
    let nats_conf = |more: &str| {
        let config = Folder::new().parse(&format!("{observed}{more}"), &[]).expect("a good configuration");
        let settings = crate::nats_config::NatsSettings::local("/s".into(), 4222);
        let text = crate::nats_config::render(&config, &settings).expect("rendered");
        let limits: Vec<_> = text.lines().map(str::trim).filter(|line| line.starts_with("max_")).collect();
        format!("replicas: {}, {}", config.nats.replicas, limits.join(", "))
    };
    insta::assert_snapshot!(nats_conf(""), @"replicas: 1, max_payload: 67108864, max_memory_store: 2147483648, max_file_store: 21474836480");
    let more = "replicas = 3\nmax_payload = \"8MiB\"\nmax_memory_store = \"64MiB\"\nmax_file_store = \"1TiB\"\n";
    insta::assert_snapshot!(nats_conf(more), @"replicas: 3, max_payload: 8388608, max_memory_store: 67108864, max_file_store: 1099511627776");
    let bad = "replicas = 0\nmax_payload = \"1GiB\"\nmax_memory_store = \"lots\"\nmax_file_store = \"5B\"\n";
    insta::assert_snapshot!(Folder::new().parse(&format!("{GOOD}{bad}"), &[]).expect_err("four faults"), @r#"
    server.toml:6: nats.replicas: 0 is not a number of copies; fix: use 1, or 3 or 5 with a cluster of as many nats-servers
    server.toml:7: nats.max_payload: 1GiB is out of range; fix: use 1MiB to 64MiB
    server.toml:8: nats.max_memory_store: "lots" is not an amount of memory: write bytes, or a number with KiB, MiB, GiB or TiB, for example 4GiB; fix: write for example "64MiB"
    server.toml:9: nats.max_file_store: 5B is out of range; fix: use 16MiB to 1024TiB
    "#);
}

#[test]
fn patience_with_agents_is_the_operators_word() {
    let seconds = |more: &str| {
        let timing = Folder::new().parse(&format!("{GOOD}{more}"), &[]).expect("a good configuration").threads;
        [timing.ready_fallback, timing.thread_created, timing.silence, timing.tool_silence].map(|time| time.as_secs())
    };
    assert_eq!(seconds(""), [60, 90, 180, 1800]);
    let all = "[threads]\nready_fallback = \"1s\"\nthread_created = \"2s\"\nsilence = \"3s\"\ntool_silence = \"4s\"\n";
    assert_eq!(seconds(all), [1, 2, 3, 4]);
    for bad in ["silence = \"40m\"", "silence = \"2\"", "ready_fallback = \"25h\"", "silent = \"1s\""] {
        let faults = Folder::new().parse(&format!("{GOOD}[threads]\n{bad}\n"), &[]).expect_err(bad);
        let key = bad.split(' ').next().expect("a key");
        assert!(faults.contains(key) || faults.contains("tool_silence"), "{bad}: {faults}");
    }
}

/// What a member of a cluster is told.
fn member() -> crate::nats_config::NatsSettings {
    use crate::nats_config::{Member, NatsSettings, Tls};
    NatsSettings {
        listen: "0.0.0.0".parse().expect("an address"),
        tls: Some(Tls { cert: "/t/n1.pem".into(), key: "/t/n1.key".into(), ca: Some("/t/ca.pem".into()) }),
        cluster: Some(Member {
            name: "n1".to_owned(),
            listen: "0.0.0.0:6222".parse().expect("an address"),
            peers: vec!["n1.example.org:6222".to_owned(), "n2.example.org:6222".to_owned()],
        }),
        ..NatsSettings::local("/s".into(), 4222)
    }
}

#[test]
fn a_member_of_a_cluster_proves_itself_by_certificate_and_password() {
    type Change = fn(&mut crate::nats_config::NatsSettings);
    let config =
        Folder::new().parse(&format!("{GOOD}observer_password_file = \"nats.password\"\n"), &[]).expect("good");
    let text = crate::nats_config::render(&config, &member()).expect("rendered");
    let password = crate::keys::Keys::derive(&[1; 32]).expect("derived").routes_password().to_owned();
    let head = text.split_once("jetstream {").expect("jetstream").0.replace(&password, "DERIVED");
    insta::assert_snapshot!(head, @r#"
    # nats-server for Helix, made by `helix-server nats-config`. Holds passwords: keep it at mode 0600.
    server_name: "n1"
    host: "0.0.0.0"
    port: 4222
    max_payload: 67108864

    tls { cert_file: "/t/n1.pem", key_file: "/t/n1.key", timeout: 10 }

    cluster {
      name: helix
      listen: "0.0.0.0:6222"
      no_advertise: true
      authorization { user: route, password: DERIVED, timeout: 10 }
      tls { cert_file: "/t/n1.pem", key_file: "/t/n1.key", ca_file: "/t/ca.pem", verify: true, timeout: 10 }
      routes: [
        "nats-route://route:DERIVED@n1.example.org:6222"
        "nats-route://route:DERIVED@n2.example.org:6222"
      ]
    }
    "#);
    let faults: [(Change, &str); 4] = [
        (|settings| (settings.tls, settings.cluster) = (None, None), "not on loopback"),
        (|settings| settings.tls.as_mut().expect("tls").ca = None, "--tls-ca"),
        (|settings| settings.cluster.as_mut().expect("member").name = "a b".to_owned(), "no name"),
        (|settings| settings.cluster.as_mut().expect("member").peers.push("n3".to_owned()), "no peer"),
    ];
    for (change, says) in faults {
        let mut settings = member();
        change(&mut settings);
        let fault = crate::nats_config::render(&config, &settings).expect_err(says).to_string();
        assert!(fault.contains(says), "{fault}");
    }
}

#[test]
fn quotas_are_of_everybody_and_of_owners_by_name() {
    let text = |quotas: &str| format!("{GOOD}[quotas]\n{quotas}\n");
    let folder = Folder::new();
    let parse = |text: &str| folder.parse(text, &[]);
    let config = parse(&text("\"*\" = 20\nci = 50\n\"a b\" = 0")).expect("good");
    let of = |owner| config.quotas.of(owner);
    assert_eq!((of("ci"), of("a b"), of("ann")), (Some(50), Some(0), Some(20)));
    for wrong in ["ci = \"5\"", "ci = -1", "ci = 2.5", "ci = 99999999999"] {
        let faults = parse(&text(wrong)).expect_err(wrong);
        assert!(faults.contains("quotas.ci") && faults.contains("whole number"), "{faults}");
    }
}

#[test]
fn the_reaper_has_sane_times() {
    let folder = Folder::new();
    let parse = |lines: &str| folder.parse(&format!("{GOOD}[reaper]\n{lines}\n"), &[]);
    let settings = parse("").expect("good").reaper;
    assert_eq!((settings.interval, settings.grace), (Duration::from_hours(1), Duration::from_hours(1)));
    assert_eq!(settings.uploads, Duration::from_hours(24));
    assert_eq!(parse("grace = \"5m\"").expect("good").reaper.grace, Duration::from_mins(5));
    for wrong in ["grace = \"0s\"", "interval = \"169h\"", "uploads = 5", "often = true"] {
        assert!(parse(wrong).expect_err(wrong).contains(wrong.split(' ').next().expect("a key")), "{wrong}");
    }
}
