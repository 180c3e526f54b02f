//! Shipped kinds as snapshots, and what a faulty or unmet kind is told.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::LazyLock;

use helix_mesa::Places;
use helix_protocol::SessionId;

use super::*;

fn kind(name: &str) -> KindName {
    KindName::parse(name).unwrap()
}

fn paths() -> SessionPaths {
    let at = |name: &str| PathBuf::from("/state/s/0123456789abcdef").join(name);
    SessionPaths {
        root: at(""),
        home: at("home"),
        tmp: at("tmp"),
        runtime: at("run"),
        vnc_socket: at("vnc.sock"),
        xauthority: at("Xauthority"),
        workspace: PathBuf::from("/workspaces/s1"),
        sync_socket: at("sync.sock"),
        tools_socket: at("tools.sock"),
        notes_socket: PathBuf::from("/s/note.sock"),
        recorder_apart: false,
        rdp_socket: at("rdp.sock"),
        rdp_files: at("rdp"),
        own_network: false,
        private_tmp: false,
    }
}

fn shipped(name: &str) -> &'static str {
    SHIPPED.iter().find(|(shipped, _)| *shipped == name).unwrap().1
}

fn rendered_with(name: &str, input: &str, env: &BTreeMap<String, String>) -> Rendered {
    try_rendered_with(name, input, env).unwrap()
}

fn try_rendered_with(name: &str, input: &str, env: &BTreeMap<String, String>) -> Result<Rendered, RenderError> {
    let kinds: BTreeMap<_, _> = SHIPPED.into_iter().collect();
    let file: KindFile = toml::from_str(kinds[name]).unwrap();
    let context = Context {
        session: &SessionId::parse("s1").unwrap(),
        paths: &paths(),
        project: Path::new("/workspaces/s1/app"),
        agentd: Path::new("/usr/bin/agentd"),
        input,
        geometry: Geometry { width: 1920, height: 1080 },
        shell: "/bin/bash",
        zed: "/opt/zed/bin/zed",
        vulkan_icd: Some(Path::new("/usr/share/vulkan/icd.d/lvp_icd.x86_64.json")),
        forward_port: 41234,
        env,
        is_root: false,
    };
    render(&file, &context)
}

fn rendered(name: &str, input: &str) -> Rendered {
    rendered_with(name, input, &BTreeMap::new())
}

/// The places where a driver is looked for, on every machine the same ones.
static PLACES: LazyLock<Places> = LazyLock::new(|| Places::new(&|_| None, false));

fn machine(path: &tempfile::TempDir) -> Machine<'_> {
    Machine { path: path.path().as_os_str(), zed: None, vulkan_icd: None, vulkan_places: &PLACES }
}

/// A directory with executables of these names, as a PATH.
fn path_with(programs: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for program in programs {
        fs::write(dir.path().join(program), "").unwrap();
        fs::set_permissions(dir.path().join(program), fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

#[test]
fn the_command_kind_keeps_its_input_out_of_the_command_line() {
    let rendered = rendered("command", "echo 'a {{ b }}' && exit 3\n");
    insta::assert_snapshot!(rendered.argv.join(" "));
    assert!(rendered.files.is_empty(), "it comes as the first prompt");
    assert!(!format!("{rendered:?}").contains("exit 3"), "the input is in Debug output");
}

/// Each is there once its program is, and says how to bring it until then.
#[test]
fn agents_without_an_editor_name_what_brings_them() {
    let agents = ["claude", "codex", "gemini", "goose", "opencode", "qwen"];
    let without = path_with(&["xterm"]);
    let kinds = Kinds::load(&[], &machine(&without));
    let told: Vec<String> = agents.iter().map(|name| format!("{name}: {}", kinds.unavailable()[&kind(name)])).collect();
    insta::assert_snapshot!(told.join("\n"));
    let with = path_with(&["xterm", "claude-agent-acp", "codex-acp", "gemini", "goose", "opencode", "qwen"]);
    let kinds = Kinds::load(&[], &machine(&with));
    for name in agents {
        assert!(kinds.get(&kind(name), None).is_ok() && kinds.get(&kind(name), Some("do it")).is_ok(), "{name}");
    }
    insta::assert_snapshot!(rendered("gemini", "").argv[20..].join(" "));
    assert!(rendered("gemini", "do it").argv.contains(&"/state/s/0123456789abcdef/".to_owned()));
}

/// Each file is a kind that this program brings.
#[test]
fn every_kind_of_the_source_is_shipped() {
    let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/kinds")).unwrap();
    let mut names: Vec<_> =
        files.map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    assert_eq!(SHIPPED.map(|(name, _)| name.to_owned()).to_vec(), names);
}

/// Its profile is the session's own; only as root, which no session under systemd is, it runs without its sandbox.
#[test]
fn the_browser_kind_begins_where_the_session_says() {
    let browser: KindFile = toml::from_str(shipped("browser")).unwrap();
    assert!(browser.own_sandbox);
    let plain = rendered("browser", "");
    insta::assert_snapshot!(plain.argv.join("\n"));
    let there = BTreeMap::from([("HELIX_BROWSER_URL".to_owned(), "https://example.org/a b".to_owned())]);
    assert_eq!(rendered_with("browser", "", &there).argv.last().unwrap(), "https://example.org/a b");
}

#[test]
fn the_terminal_kind_runs_the_users_shell() {
    insta::assert_snapshot!(rendered("terminal", "").argv.join(" "));
}

/// With the documents' limits and reservation, and what the fork and older builds are told.
#[test]
fn the_zed_kind_opens_the_project_in_the_editor_that_the_settings_name() {
    let zed = rendered("zed", "");
    insta::assert_snapshot!(zed.argv.join(" "));
    let env: Vec<String> = zed.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    insta::assert_snapshot!("zed_environment", env.join("\n"));
    let [settings] = &zed.files[..] else { panic!("{:?}", zed.files) };
    assert_eq!((settings.path.as_path(), settings.mode), (Path::new("home/.config/zed/settings.json"), 0o600));
    let settings: serde_json::Value = serde_json::from_slice(&settings.content).unwrap();
    insta::with_settings!({ sort_maps => true }, { insta::assert_json_snapshot!("zed_settings", settings) });

    // Zed takes keys from its environment, but addresses from its settings only.
    let url = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let mut both = url("ANTHROPIC_BASE_URL", "http://models/\"quoted\"");
    both.extend(url("OPENAI_BASE_URL", "http://models/v1"));
    for (env, expected) in [
        (url("OPENAI_BASE_URL", "http://m"), r#"{"openai":{"api_url":"http://m"}}"#),
        (both, r#"{"anthropic":{"api_url":"http://models/\"quoted\""},"openai":{"api_url":"http://models/v1"}}"#),
    ] {
        let zed = rendered_with("zed", "", &env);
        let settings: serde_json::Value = serde_json::from_slice(&zed.files[0].content).unwrap();
        assert_eq!(settings["language_models"].to_string(), expected);
    }
}

/// What a session chooses: models, context servers, theme. Keys stay in the environment.
#[test]
fn the_zed_kind_has_the_models_and_servers_that_the_session_names() {
    let settings = |env: &[(&str, &str)]| -> serde_json::Value {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        serde_json::from_slice(&rendered_with("zed", "", &env).files[0].content).unwrap()
    };
    let chosen = settings(&[
        ("HELIX_AGENT_MODEL", "openai/team/coder-\"x\""),
        ("HELIX_CONTEXT_SERVERS", r#"{"files": {"command": "mcp-files", "args": ["--root", "/"]}}"#),
        ("HELIX_ZED_THEME", "Ayu Light"),
        ("OPENAI_BASE_URL", "http://models/v1"),
        ("OPENAI_API_KEY", "sk-secret"),
    ]);
    let model = serde_json::json!({ "provider": "openai", "model": "team/coder-\"x\"" });
    for key in ["default_model", "inline_assistant_model", "commit_message_model", "thread_summary_model"] {
        assert_eq!(chosen["agent"][key], model, "{key}");
    }
    assert_eq!(chosen["context_servers"]["files"]["args"][0], "--root");
    assert_eq!(chosen["theme"], "Ayu Light");
    assert_eq!(chosen["agent_servers"]["qwen"]["env"]["OPENAI_BASE_URL"], "http://models/v1");
    assert_eq!(chosen["agent_servers"]["claude-acp"].get("default_model"), None);
    assert!(!chosen.to_string().contains("sk-secret"), "{chosen}");

    let short = settings(&[("HELIX_AGENT_MODEL", "claude-x"), ("ANTHROPIC_BASE_URL", "http://models")]);
    assert_eq!(short["agent"]["default_model"]["provider"], "anthropic");
    assert_eq!(short["agent_servers"]["claude-acp"]["default_model"], "claude-x");
    assert_eq!(short["agent_servers"]["claude-acp"]["env"]["ANTHROPIC_BASE_URL"], "http://models");

    for (text, told) in [("{\"key\": \"sk-secret\"", "no JSON object"), ("\"sk-secret\"", "no JSON object")] {
        let env = BTreeMap::from([("HELIX_CONTEXT_SERVERS".to_owned(), text.to_owned())]);
        let error = try_rendered_with("zed", "", &env).unwrap_err().to_string();
        assert!(error.contains("HELIX_CONTEXT_SERVERS") && error.contains(told), "{error}");
        assert!(!error.contains("sk-secret"), "{error}");
    }
}

/// An agent that a prompt to the editor names is started as its own kind starts it.
#[test]
fn the_zed_kind_starts_agents_as_their_kinds_do() {
    let settings: serde_json::Value = serde_json::from_slice(&rendered("zed", "").files[0].content).unwrap();
    for name in ["gemini", "goose", "opencode", "qwen"] {
        let agent = &settings["agent_servers"][name];
        let mut line = vec![agent["command"].as_str().unwrap()];
        line.extend(agent["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap()));
        let own = rendered(name, "").argv;
        let own = own.rsplit(|argument| argument == "--").next().unwrap();
        assert_eq!(own, line, "{name}");
    }
}

#[test]
fn the_zed_kind_says_what_it_lacks_and_is_the_default_where_it_lacks_nothing() {
    let path = path_with(&["dbus-daemon", "zed", "lvp_icd.json", "xterm"]);
    let (icd, other) = (path.path().join("lvp_icd.json"), path.path().join("other"));
    let whole = Machine { vulkan_icd: Some(&icd), ..machine(&path) };
    let library = path.path().join("libvulkan_lvp.so");
    let manifest = r#"{"ICD": {"library_path": "./libvulkan_lvp.so"}}"#;
    fs::write(&icd, manifest).unwrap();
    fs::write(&library, "of somebody else").unwrap();
    let load = |machine: Machine<'_>| Kinds::load(&[], &machine);
    let lacks = |machine: Machine<'_>| {
        let kinds = load(machine);
        assert_eq!(kinds.default_kind(None), kind("command"));
        kinds.unavailable()[&kind("zed")].replace(&*path.path().to_string_lossy(), "/dir")
    };
    let kinds = load(whole);
    let zed = path.path().join("zed");
    assert_eq!((kinds.zed(), kinds.default_kind(None)), (&*zed.to_string_lossy(), kind("zed")));
    assert_eq!(kinds.default_kind(Some(&kind("terminal"))), kind("terminal"));
    let file = kinds.get(&kind("zed"), None).unwrap();
    let limits = serde_json::to_string(&(file.resources, file.reserve)).unwrap();
    assert_eq!(limits, r#"[{"cpu":2.0,"memory":4294967296},{"cpu":0.5,"memory":1073741824}]"#);
    assert!(kinds.get(&kind("zed"), Some("a prompt")).is_ok());

    let told = lacks(Machine { zed: Some(Path::new("/home/me/.local/bin/zed")), ..whole });
    assert!(told.contains("install it in /opt"), "{told}");
    insta::assert_snapshot!("zed_without_editor", lacks(Machine { zed: Some(&other), ..whole }));
    insta::assert_snapshot!("zed_without_driver", lacks(Machine { vulkan_icd: None, ..whole }));
    insta::assert_snapshot!("zed_without_the_named_driver", lacks(Machine { vulkan_icd: Some(&other), ..whole }));
    fs::remove_file(&library).unwrap();
    let told = lacks(whole);
    assert!(told.contains("lvp_icd.json") && told.contains("which does not exist"), "{told}");
    // With Debian 12's own Mesa it would start, and be black.
    let mesa = |version: &str| {
        fs::write(&library, format!("Mesa {version} (LLVM")).unwrap();
    };
    mesa("22.3.6");
    insta::assert_snapshot!("zed_with_an_old_driver", lacks(whole));
    mesa("25.0.7");
    assert_eq!(load(whole).unavailable().get(&kind("zed")), None);
    // Another program of this name, for another purpose.
    let sbin = path.path().join("sbin");
    fs::create_dir(&sbin).unwrap();
    fs::copy(path.path().join("zed"), sbin.join("zed")).unwrap();
    lacks(Machine { path: sbin.as_os_str(), ..whole });
}

#[test]
fn a_kind_says_when_it_begins_again_and_what_it_keeps() {
    let zed: KindFile = toml::from_str(shipped("zed")).unwrap();
    assert_eq!((zed.restart, zed.restart_pause), (Restart::Always, Some(std::time::Duration::from_secs(2))));
    assert_eq!(zed.keep, [".config/zed", ".local/share/zed", ".cache/zed"].map(PathBuf::from));
    for fault in ["restart_pause = \"soon\"", "keep = [\"../x\"]", "keep = [\"/etc\"]"] {
        let text = shipped("terminal").replace("input =", &format!("{fault}\ninput ="));
        assert!(toml::from_str::<KindFile>(&text).is_err(), "{fault}");
    }
}

#[test]
fn a_missing_program_names_its_package() {
    let path = path_with(&["dbus-daemon"]);
    let kinds = Kinds::load(&[], &machine(&path));
    assert!(kinds.available().is_empty());
    insta::assert_snapshot!(kinds.unavailable()[&kind("command")]);
    assert_eq!(kinds.get(&kind("command"), Some("x")).unwrap_err().code(), "kind_unavailable");
}

#[test]
fn input_is_wanted_or_refused_as_the_kind_says() {
    let path = path_with(&["xterm", "dbus-daemon"]);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("build.toml"), shipped("command").replace("\"optional\"", "\"required\"")).unwrap();
    let kinds = Kinds::load(&[dir.path().to_owned()], &machine(&path));
    assert_eq!(kinds.available(), [kind("build"), kind("command"), kind("terminal")]);
    assert!(kinds.get(&kind("command"), Some("make")).is_ok());
    assert!(kinds.get(&kind("command"), None).is_ok());
    assert!(kinds.get(&kind("terminal"), None).is_ok());
    assert!(kinds.get(&kind("build"), Some("make")).is_ok());
    assert_eq!(kinds.get(&kind("build"), None).unwrap_err().code(), "input_missing");
    assert_eq!(kinds.get(&kind("build"), Some("")).unwrap_err().code(), "input_missing");
    assert_eq!(kinds.get(&kind("terminal"), Some("ls")).unwrap_err().code(), "input_refused");
    assert_eq!(kinds.get(&kind("emacs"), None).unwrap_err().code(), "kind_unknown");
    insta::assert_snapshot!(kinds.get(&kind("emacs"), None).unwrap_err());
}

#[test]
fn files_overlay_the_shipped_ones_and_faults_are_told_with_their_line() {
    let path = path_with(&["xterm", "dbus-daemon"]);
    let dir = tempfile::tempdir().unwrap();
    let minimal =
        "description = \"d\"\ncommand = [\"true\"]\ninput = \"none\"\nreadiness = \"none\"\non_exit = \"end\"\n";
    fs::write(dir.path().join("terminal.toml"), minimal).unwrap();
    fs::write(dir.path().join("wrong.toml"), format!("{minimal}colour = 1\n")).unwrap();
    fs::write(dir.path().join("typo.toml"), format!("{minimal}[environment]\nA = \"{{{{ hom }}}}\"\n")).unwrap();
    fs::write(dir.path().join("escape.toml"), format!("{minimal}[[files]]\npath = \"../x\"\ncontent = \"\"\n"))
        .unwrap();
    fs::write(dir.path().join("README"), "not a kind").unwrap();
    let kinds = Kinds::load(&[dir.path().join("missing"), dir.path().to_owned()], &machine(&path));
    assert_eq!(kinds.available(), [kind("command"), kind("terminal")]);
    assert_eq!(kinds.get(&kind("terminal"), None).unwrap().command, ["true"]);
    let faults = kinds.unavailable();
    let faults: Vec<String> = faults.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
    insta::assert_snapshot!(faults.join("\n"));
}
