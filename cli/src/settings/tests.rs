use std::collections::BTreeMap;

use super::*;

/// A hermetic home: nothing of the real environment is seen.
struct Home {
    temp: tempfile::TempDir,
    env: BTreeMap<String, String>,
}

impl Home {
    fn new() -> Self {
        let temp = tempfile::tempdir_in("/tmp").expect("a directory");
        let env = [("HOME".to_owned(), temp.path().display().to_string())].into();
        Self { temp, env }
    }

    fn set(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    fn file(self, path: &str, content: &str) -> Self {
        let path = self.temp.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, content).expect("written");
        self
    }

    /// What `up` leaves in the default state directory.
    fn up(self, url: &str) -> Self {
        let state = self.temp.path().join(".local/state/helix");
        let token = state.join("admin.token");
        let record = serde_json::json!({
            "url": url, "token_file": token, "nats_url": null, "pids": {}, "state_dir": state, "ready": true,
            "started_at": "2026-01-01T00:00:00Z", "boot_id": "", "start_times": {}
        });
        self.file(".local/state/helix/up.json", &record.to_string()).file(".local/state/helix/admin.token", "local\n")
    }

    fn resolve(&self, flags: &GlobalArgs) -> Result<(String, Option<String>)> {
        let env = |name: &str| self.env.get(name).cloned();
        let found = connection(flags, &env)?;
        Ok((found.url.to_string(), found.token.map(|token| token.expose().to_owned())))
    }
}

fn flags() -> GlobalArgs {
    GlobalArgs::default()
}

fn url(text: &str) -> GlobalArgs {
    GlobalArgs { url: Some(text.to_owned()), ..flags() }
}

fn pair(url: &str, token: &str) -> (String, Option<String>) {
    (url.to_owned(), Some(token.to_owned()))
}

#[test]
fn what_up_left_is_found_by_itself() {
    let home = Home::new().up("http://127.0.0.1:8080");
    assert_eq!(home.resolve(&flags()), Ok(pair("http://127.0.0.1:8080/", "local")));
}

#[test]
fn stronger_sources_win() {
    let home = Home::new()
        .up("http://127.0.0.1:8080")
        .file(".config/helix/fleet.token", "fleet")
        .file(".config/helix/config.toml", "url = \"https://fleet.example.org\"\ntoken_file = \"fleet.token\"\n");
    assert_eq!(home.resolve(&flags()), Ok(pair("https://fleet.example.org/", "fleet")));
    let home = home.set("HELIX_URL", "http://127.0.0.1:9090").set("HELIX_TOKEN", "env");
    assert_eq!(home.resolve(&flags()), Ok(pair("http://127.0.0.1:9090/", "env")));
    assert_eq!(home.resolve(&url("http://h")), Ok(pair("http://h/", "env")));
    let state_dir = Some(home.temp.path().join(".local/state/helix"));
    let named = GlobalArgs { state_dir, ..flags() };
    assert_eq!(home.resolve(&named), Ok(pair("http://127.0.0.1:8080/", "local")));
}

#[test]
fn a_token_is_not_sent_to_another_url_than_the_one_it_stands_beside() {
    let home = Home::new()
        .up("http://127.0.0.1:8080")
        .file(".config/helix/config.toml", "url = \"https://fleet.example.org\"\ntoken_file = \"/nowhere\"\n");
    assert_eq!(home.resolve(&url("http://elsewhere.example.org")), Ok(("http://elsewhere.example.org/".into(), None)));
    // The same URL, however it was named, is the same server.
    assert_eq!(home.resolve(&url("http://127.0.0.1:8080/")), Ok(pair("http://127.0.0.1:8080/", "local")));
}

#[test]
fn nothing_found_says_what_to_do() {
    let home = Home::new();
    let error = home.resolve(&flags()).expect_err("nothing is known");
    let text = error.to_string().replace(&home.temp.path().display().to_string(), "~");
    insta::assert_snapshot!(text, @r"
    error: no server is known
      where: state directory ~/.local/state/helix
      why:   neither --url, HELIX_URL nor the config file names one, and nothing runs in the state directory
      next:  helixctl up --detach
    ");
}

#[test]
fn a_named_state_directory_with_nothing_in_it_is_no_way_elsewhere() {
    let home = Home::new().set("HELIX_URL", "http://h");
    let named = GlobalArgs { state_dir: Some(home.temp.path().join("empty")), ..flags() };
    assert_eq!(home.resolve(&named).expect_err("nothing there").kind, Kind::Unreachable);
}

#[test]
fn a_wrong_config_file_is_shown_with_its_line() {
    let home = Home::new().file(".config/helix/config.toml", "url = \"http://h\"\ntokenfile = \"x\"\n");
    let error = home.resolve(&flags()).expect_err("an unknown key");
    assert_eq!(error.kind, Kind::Usage);
    let text = error.to_string();
    assert!(text.contains("line 2") && text.contains("tokenfile"), "{text}");
}

#[test]
fn what_is_no_url_is_refused() {
    for bad in ["127.0.0.1:8080", "ftp://h", "http://user:secret@h", "http://"] {
        let error = Home::new().resolve(&url(bad)).expect_err(bad);
        assert_eq!(error.kind, Kind::Usage, "{bad}");
    }
}

#[test]
fn a_secret_is_never_shown() {
    assert_eq!(format!("{:?}", Secret::parse("abc")), "Some(Secret(..))");
}
