//! Defaults of document 001, layering, and every mistake at once.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use clap::Parser as _;

use helix_protocol::resources::{Bytes, Cpus};

use super::*;

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: RunArgs,
}

fn load(flags: &[&str], env: &[(&str, &str)], file: Option<&str>) -> Result<Config, ConfigError> {
    let mut args = Cli::parse_from(std::iter::once("agentd").chain(flags.iter().copied())).args;
    let dir = tempfile::tempdir().expect("temporary directory");
    if let Some(text) = file {
        let path = dir.path().join("agentd.toml");
        std::fs::write(&path, text).expect("file written");
        args.config = Some(path);
    }
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Config::load(&args, &env)
}

fn faults(result: Result<Config, ConfigError>) -> Vec<String> {
    let ConfigError(faults) = result.expect_err("the settings must be refused");
    faults
        .iter()
        .map(|fault| {
            let place = fault.place.rsplit_once('/').map_or(fault.place.as_str(), |(_, name)| name);
            format!("{place}: {}; {}", fault.what, fault.fix)
        })
        .collect()
}

#[test]
fn the_defaults_are_the_documents() {
    let config = load(&["--state-dir", "/s"], &[], None).expect("valid");
    assert_eq!(config.api_hosts, ["http://localhost"], "port 80 is http's own");
    assert!(config.runner.as_str().starts_with("external-zed-"), "{}", config.runner);
    assert_eq!((config.slots, config.max_tasks), (1, 0));
    assert_eq!(config.session_timeout, Duration::from_hours(1));
    assert_eq!(config.workspace_dir, PathBuf::from("/s/workspaces"));
    assert_eq!(config.geometry.to_string(), "1920x1080");
    assert_eq!((config.health_port, config.on_exit), (3030, OnExit::Keep));
    assert_eq!(config.default_kind, None, "the editor where it can run, else command");
    assert_eq!(config.enrolment_token, None);
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = "concurrency = 2\nmax_tasks = 3\nsession_timeout = \"2h\"\nstate_dir = \"/f\"\n\
                api_host = [\"http://a:8080/\", \"https://b:443\"]\n[labels]\nzone = \"x\"\n";
    let env = [("CONCURRENCY", "4"), ("AGENT_CONCURRENCY", "5"), ("MAX_TASKS", "6"), ("RUNNER_ID", "r-1")];
    let config = load(&["--concurrency", "7"], &env, Some(file)).expect("valid");
    assert_eq!((config.slots, config.max_tasks), (7, 6));
    assert_eq!(config.session_timeout, Duration::from_hours(2));
    assert_eq!(config.api_hosts, ["http://a:8080", "https://b"]);
    assert_eq!(config.labels.get("zone").map(String::as_str), Some("x"));
    assert_eq!(config.runner.as_str(), "r-1");
}

/// Every variable of the documents, with a value that is not the default.
#[test]
fn each_variable_of_the_documents_is_heard() {
    type Field = fn(&Config) -> String;
    let hosts: Field = |config| config.api_hosts.join(" ");
    let token: Field = |config| config.enrolment_token.as_ref().map_or("", Secret::expose).to_owned();
    let slots: Field = |config| config.slots.to_string();
    let max_tasks: Field = |config| config.max_tasks.to_string();
    let geometry: Field = |config| config.geometry.to_string();
    let unused: Field = |config| config.unused.join(" ");
    let table: [(&str, &str, Field, &str); 20] = [
        ("API_HOST", "http://a:8080", hosts, "http://a:8080"),
        ("HELIX_API_HOST", "http://b:8080", hosts, "http://b:8080"),
        ("API_TOKEN", "an-enrolment-token", token, "an-enrolment-token"),
        ("HELIX_API_TOKEN", "another-enrolment-token", token, "another-enrolment-token"),
        ("RUNNER_ID", "r-1", |config| config.runner.to_string(), "r-1"),
        ("CONCURRENCY", "4", slots, "4"),
        ("AGENT_CONCURRENCY", "5", slots, "5"),
        ("MAX_TASKS", "6", max_tasks, "6"),
        ("AGENT_MAX_TASKS", "7", max_tasks, "7"),
        ("SESSION_TIMEOUT", "60", |config| format!("{:?}", config.session_timeout), "60s"),
        ("WORKSPACE_DIR", "/w", |config| config.workspace_dir.display().to_string(), "/w"),
        ("NATS_URL", "nats://bus:4333", |config| config.nats_url.clone().unwrap_or_default(), "nats://bus:4333"),
        ("DISPLAY_WIDTH", "1280", geometry, "1280x1080"),
        ("DISPLAY_HEIGHT", "720", geometry, "1920x720"),
        ("VNC_PASSWORD", "a-password", unused, "VNC_PASSWORD"),
        ("RDP_USER", "root", unused, "RDP_USER"),
        ("RDP_PASSWORD", "a-password", unused, "RDP_PASSWORD"),
        (
            "ZED_BINARY",
            "/z/zed",
            |config| config.zed_binary.as_ref().map_or_else(String::new, |path| path.display().to_string()),
            "/z/zed",
        ),
        (
            "HELIX_VULKAN_ICD",
            "/v/lvp_icd.json",
            |config| config.vulkan_icd.as_ref().map_or(String::new(), |path| path.display().to_string()),
            "/v/lvp_icd.json",
        ),
        ("LOG_LEVEL", "debug", |config| config.log_level.clone(), "debug"),
    ];
    let load = |env: &[(&str, &str)]| load(&["--state-dir", "/s"], env, None).expect("valid");
    let (default, empty) = (load(&[]), load(&table.map(|row| (row.0, ""))));
    for (name, value, field, expected) in table {
        assert_eq!(field(&load(&[(name, value)])), expected, "{name}");
        assert_ne!(field(&default), expected, "{name}: the value is the default");
        assert_eq!(field(&empty), field(&default), "{name}: empty");
    }
    // The first of two names wins.
    for (short, long, value, other, field) in
        [("CONCURRENCY", "AGENT_CONCURRENCY", "4", "5", slots), ("MAX_TASKS", "AGENT_MAX_TASKS", "6", "7", max_tasks)]
    {
        assert_eq!(field(&load(&[(long, other), (short, value)])), value, "{short}");
    }
}

#[test]
fn all_mistakes_come_at_once_with_place_and_fix() {
    let file = "concurrency = 0\nspeed = 1\nsession_timeout = \"soon\"\nworkspace_dir = \"here\"\n\
                on_exit = \"maybe\"\nlabels = 3\n";
    let env = [("API_TOKEN", SAMPLE_TOKEN), ("RUNNER_ID", "a.b"), ("DISPLAY_WIDTH", "0"), ("HOME", "/h")];
    insta::assert_snapshot!(faults(load(&["--api-host", "ftp://x"], &env, Some(file))).join("\n"), @r#"
    agentd.toml line 6: `labels` is of type integer; write labels = { name = "value" }
    agentd.toml line 2: unknown setting `speed`; remove it or use one of: api_host, api_token_file, runner_id, concurrency, max_tasks, session_timeout, checkpoint_interval, workspace_dir, nats_url, nats_ca_file, display_width, display_height, state_dir, kinds_dir, default_kind, health_port, on_exit, labels, backend, slot_user_prefix, slot_user_first, default_resources, max_resources, default_reserve, reservable, direct, zed_binary, vulkan_icd, image_signers, images_keep, kept_for, kept_at_least, kept_min_free_percent, log_level
    agentd.toml line 4: `here` is not an absolute path; write workspace_dir = "/…"
    flag --api-host: `ftp://x` is not a server's address; write http://host:port or https://host, without path, user or query
    environment variable API_TOKEN: is `oh-hallo-insecure-token`, the sample token of the documents, which everybody knows; use the server's own enrolment token (RUNNER_TOKEN)
    environment variable RUNNER_ID: runner id "a.b" is not valid: use 1 to 64 characters of A-Z a-z 0-9 _ -; set runner_id or RUNNER_ID, for example runner-1
    agentd.toml line 1: `0` is not a whole number from 1 to 1000; write for example concurrency = 1
    agentd.toml line 3: `soon` is not a duration; write session_timeout in seconds (3600) or with a unit ("3600s", "60m", "1h")
    environment variable DISPLAY_WIDTH: `0` is not a whole number from 320 to 7680; write for example display_width = 1920
    agentd.toml line 5: `maybe` is neither keep nor stop; write on_exit = "keep"
    "#);
}

#[test]
fn amounts_are_read_from_the_file_alone() {
    let file = "backend = \"process\"\nmax_resources = { cpu = 2, memory = \"4GiB\" }\n\
                [default_reserve]\ncpu = 0.5\nmemory = 1073741824\n";
    let config = load(&["--state-dir", "/s"], &[], Some(file)).expect("valid");
    assert_eq!(config.backend, Backend::Process);
    assert_eq!((config.max_resources.cpu, config.max_resources.memory), (Some(Cpus(2000)), Some(Bytes(4 << 30))));
    assert_eq!(config.default_reserve, Reserve { cpu: Some(Cpus(500)), memory: Some(Bytes(1 << 30)) });
    assert!(config.default_resources.is_empty());

    let file = "backend = \"docker\"\nslot_user_prefix = \"Root\"\nmax_resources = { memory = \"lots\" }\n\
                default_resources = { tasks = 3 }\nreservable = { disk = 1 }\n";
    insta::assert_snapshot!(faults(load(&["--state-dir", "/s"], &[], Some(file))).join("\n"));
}

#[test]
fn kept_workspaces_are_never_kept_for_less_than_the_least() {
    let load = |file: &str| load(&["--state-dir", "/s"], &[], Some(file));
    let kept = load("").expect("valid").kept;
    assert_eq!((kept.longest.as_secs(), kept.at_least.as_secs(), kept.min_free_percent), (604_800, 86_400, 10));
    // Only where room is needed.
    assert!(load("kept_for = 0").expect("valid").kept.longest.is_zero());
    let found = faults(load("kept_for = \"1h\""));
    assert!(found[0].starts_with("agentd.toml line 1: kept_for is shorter than kept_at_least"), "{found:?}");
    let found = faults(load("kept_min_free_percent = 100"));
    assert!(found[0].contains("from 0 to 90"), "{found:?}");
}

#[test]
fn broken_toml_is_named_by_line() {
    let found = faults(load(&["--state-dir", "/s"], &[], Some("concurrency = 2\nmax_tasks = = 3\n")));
    assert!(found.iter().any(|fault| fault.starts_with("agentd.toml line 2:")), "{found:?}");
}

#[test]
fn a_token_file_must_be_private() {
    let mut file = tempfile::NamedTempFile::new().expect("temporary file");
    writeln!(file, "secret-token").expect("written");
    let path = file.path().to_str().expect("path is text").to_owned();
    let flags = ["--state-dir", "/s", "--api-token-file", &path];

    let config = load(&flags, &[], None).expect("0600 is private");
    assert_eq!(config.enrolment_token, Some(Secret::new("secret-token")));
    assert!(!format!("{config:?}").contains("secret-token"), "Debug output shows the token");

    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("mode set");
    let found = faults(load(&flags, &[], None));
    assert!(found[0].contains("can be read by others (mode 0644)"), "{found:?}");
}

#[test]
fn secrets_of_a_url_are_not_repeated() {
    let found = faults(load(&["--state-dir", "/s"], &[("API_HOST", "http://user:pw@host")], None));
    assert!(!found.join(" ").contains("pw"), "{found:?}");
}

#[test]
fn the_example_environment_loads() {
    let example = include_str!("../../../packaging/external-zed-agent.env.example");
    // Settings that are off in the example are tried, too: their names must be right.
    let lines = example.lines().map(|line| line.strip_prefix('#').unwrap_or(line));
    let settings: Vec<(&str, &str)> = lines
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'))
        .map(|(name, value)| match name {
            "API_TOKEN" => (name, "an-enrolment-token-of-a-test"),
            "VNC_PASSWORD" | "RDP_PASSWORD" => (name, "a-password-of-a-test"),
            _ => (name, value),
        })
        .collect();
    assert!(settings.len() >= 14, "{settings:?}");
    let config = load(&[], &settings, None).expect("the example must load");
    assert_eq!(config.runner.as_str(), "external-zed-1");
}
