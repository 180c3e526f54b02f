//! Which server, with which token: resolved once from flags, environment, config file and state directory.
//!
//! A token belongs to the URL that it was found with. One from the config file or a state directory is sent only to
//! that same URL: `--url https://elsewhere` never carries this machine's admin token there.

use std::fmt;
use std::path::{Path, PathBuf};

use reqwest::Url;
use serde::Deserialize;

use crate::args::GlobalArgs;
use crate::error::{CliError, Kind, Result};
use crate::up::record::UpRecord;
use crate::up::state_dir::StateDir;

/// A bearer token. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The token itself, for a header.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What a file holds.
    pub fn read(path: &Path) -> Result<Self> {
        let bad = |why: String| {
            CliError::new(Kind::Usage, "cannot read the token")
                .at(path.display())
                .because(why)
                .next("write the token to that file (mode 0600), or set HELIX_TOKEN")
        };
        let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        Self::parse(text.trim()).ok_or_else(|| bad("it is empty, or more than one word".to_owned()))
    }

    /// None for what cannot stand in a header.
    pub fn parse(text: &str) -> Option<Self> {
        let ok = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        ok.then(|| Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A server and how to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Base URL, without a path.
    pub url: Url,
    /// Bearer token; the server refuses most requests without one.
    pub token: Option<Secret>,
}

/// `~/.config/helix/config.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    url: Option<String>,
    token_file: Option<PathBuf>,
}

/// Source of environment variables; empty ones count as absent.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's own environment.
pub fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The state directory that flags and environment name, or the default one.
pub fn state_dir(flags: &GlobalArgs, env: Env<'_>) -> Result<StateDir> {
    if let Some(dir) = &flags.state_dir {
        return StateDir::new(dir);
    }
    if let Some(dir) = env("HELIX_STATE_DIR") {
        return StateDir::new(Path::new(&dir));
    }
    StateDir::new(&xdg(env, "XDG_STATE_HOME", ".local/state")?.join("helix"))
}

/// A base directory of the XDG specification: the variable if it holds an absolute path, else below HOME.
pub fn xdg(env: Env<'_>, variable: &str, below_home: &str) -> Result<PathBuf> {
    if let Some(dir) = env(variable).map(PathBuf::from).filter(|dir| dir.is_absolute()) {
        return Ok(dir);
    }
    let home = env("HOME").ok_or_else(|| {
        CliError::new(Kind::Usage, "cannot tell where this user's files are")
            .because("HOME is not set")
            .next(format!("set HOME or {variable}, or give --state-dir DIR"))
    })?;
    Ok(Path::new(&home).join(below_home))
}

/// Resolves the connection; the first source that names a URL decides.
pub fn connection(flags: &GlobalArgs, env: Env<'_>) -> Result<Connection> {
    let config = read_config(env)?;
    let candidates = candidates(flags, env, &config)?;
    let chosen = candidates.first().ok_or_else(|| nothing_found(flags, env))?.url.clone();
    let beside_url = || {
        let same_url = candidates.iter().filter(|candidate| candidate.url == chosen);
        same_url.into_iter().find_map(|candidate| candidate.token_file.as_deref()).map(Secret::read).transpose()
    };
    let token = if let Some(file) = &flags.token_file {
        Some(Secret::read(file)?)
    } else if flags.state_dir.is_some() && flags.url.is_none() {
        // The directory was named on the command line, which is stronger than a token of the environment.
        beside_url()?
    } else if let Some(token) = env("HELIX_TOKEN") {
        Some(Secret::parse(token.trim()).ok_or_else(|| {
            CliError::new(Kind::Usage, "HELIX_TOKEN is not a token")
                .because("it holds characters that no token has")
                .next("unset HELIX_TOKEN, or put the token in a file and give --token-file FILE")
        })?)
    } else {
        beside_url()?
    };
    Ok(Connection { url: chosen, token })
}

/// A URL that some source names, with the token file that stands beside it.
struct Candidate {
    url: Url,
    token_file: Option<PathBuf>,
}

/// Every source that names a URL, the strongest first.
fn candidates(flags: &GlobalArgs, env: Env<'_>, config: &ConfigFile) -> Result<Vec<Candidate>> {
    let mut found = Vec::new();
    let from_state_dir = match state_dir(flags, env) {
        Ok(dir) => UpRecord::read(&dir)?.map(|record| (record.info.url, record.info.token_file)),
        // Only a directory that was named must be usable.
        Err(error) if flags.state_dir.is_some() => return Err(error),
        Err(_) => None,
    };
    if let Some(url) = &flags.url {
        found.push(candidate(url, "--url", None)?);
    }
    if flags.state_dir.is_some() {
        if let Some((url, token_file)) = &from_state_dir {
            found.push(candidate(url, "--state-dir", Some(token_file.clone()))?);
        }
        // A directory that was named and holds nothing must not end in a surprise elsewhere.
        return Ok(found);
    }
    if let Some(url) = env("HELIX_URL") {
        found.push(candidate(&url, "HELIX_URL", None)?);
    }
    if let Some(url) = &config.url {
        found.push(candidate(url, "config.toml", config.token_file.clone())?);
    }
    if let Some((url, token_file)) = from_state_dir {
        found.push(candidate(&url, "up.json", Some(token_file))?);
    }
    Ok(found)
}

fn candidate(url: &str, source: &str, token_file: Option<PathBuf>) -> Result<Candidate> {
    Ok(Candidate { url: base_url(url, source)?, token_file })
}

fn nothing_found(flags: &GlobalArgs, env: Env<'_>) -> CliError {
    let dir = state_dir(flags, env).map_or_else(|_| "(none)".to_owned(), |dir| dir.root().display().to_string());
    CliError::new(Kind::Unreachable, "no server is known")
        .at(format!("state directory {dir}"))
        .because("neither --url, HELIX_URL nor the config file names one, and nothing runs in the state directory")
        .next("helixctl up --detach")
}

/// The address of a server; `source` is told where it is none.
pub fn base_url(text: &str, source: &str) -> Result<Url> {
    let bad = |why: String| {
        CliError::new(Kind::Usage, format!("{text:?} is not the URL of a server"))
            .at(source)
            .because(why)
            .next("write it like http://127.0.0.1:8080")
    };
    let mut url = Url::parse(text).map_err(|error| bad(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(bad("it must begin with http:// or https:// and name a host".to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("it must not hold a user or password".to_owned()));
    }
    url.set_path("/");
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

fn read_config(env: Env<'_>) -> Result<ConfigFile> {
    let Ok(dir) = xdg(env, "XDG_CONFIG_HOME", ".config") else { return Ok(ConfigFile::default()) };
    let path = dir.join("helix/config.toml");
    let bad = |why: String| {
        CliError::new(Kind::Usage, "cannot read the config file")
            .at(path.display())
            .because(why)
            .next("it may hold two keys: url = \"http://...\" and token_file = \"/path\"")
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(ConfigFile::default()),
        Err(error) => return Err(bad(error.to_string())),
    };
    let mut config: ConfigFile = toml::from_str(&text).map_err(|error| bad(error.to_string().trim_end().to_owned()))?;
    // A relative path means: beside the config file.
    config.token_file = config.token_file.map(|file| dir.join("helix").join(file));
    Ok(config)
}

#[cfg(test)]
mod tests;
