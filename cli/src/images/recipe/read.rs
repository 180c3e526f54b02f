//! Reads a recipe. An error names line and column, and what was probably meant.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Component, Path, PathBuf};

use helix_protocol::image::{BIND_TARGETS, ImageRef};
use serde::{Deserialize as _, Deserializer};

use super::{Agent, Recipe};
use crate::error::{CliError, Kind, Result};

/// Directories that a session has its own of: nothing that an image puts there would be seen.
const HIDDEN: &[&str] = &["/dev", "/proc", "/run", "/sys", "/tmp", "/var/tmp", "/home/agent"];

/// Reads the text of a recipe; `place` is its file, for messages.
pub fn read(text: &str, place: &dyn Display) -> Result<Recipe> {
    let recipe: Recipe = toml::from_str(text).map_err(|error| {
        let place = error.span().map_or_else(|| place.to_string(), |span| position(text, span.start, place));
        bad(place, with_suggestion(error.message()))
    })?;
    check(&recipe).map_err(|(word, why)| {
        // The first place where the offending word stands is where people look.
        let place = text.find(&word).map_or_else(|| place.to_string(), |at| position(text, at, place));
        bad(place, why)
    })?;
    Ok(recipe)
}

fn bad(place: String, why: String) -> CliError {
    CliError::new(Kind::Usage, "the recipe is wrong")
        .at(place)
        .because(why)
        .next("docs/images.md has every key; helixctl image new NAME writes a recipe to begin with")
}

fn position(text: &str, at: usize, place: &dyn Display) -> String {
    let before = &text[..text.floor_char_boundary(at)];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{place}, line {line}, column {column}")
}

/// `unknown field` and `unknown variant` list what is known; the nearest one is what people meant.
fn with_suggestion(message: &str) -> String {
    let message = message.trim_end();
    let mut words = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    let Some(word) = words.next().filter(|_| unknown) else { return message.to_owned() };
    let nearest = words
        .map(|known| (strsim::jaro_winkler(word, known), known))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    nearest.map_or_else(|| message.to_owned(), |(_, known)| format!("{message}; did you mean `{known}`?"))
}

/// What one value alone does not show. The error is the word that it is about, and why.
fn check(recipe: &Recipe) -> Result<(), (String, String)> {
    match (&recipe.parent, &recipe.from) {
        (Some(_), Some(_)) => {
            return Err((
                "from".to_owned(),
                "it has both a parent and [from]: packages come from where the parent's do".to_owned(),
            ));
        }
        (None, None) => {
            return Err((recipe.name.clone(), "it needs a parent, or [from] with distribution and suite".to_owned()));
        }
        _ => {}
    }
    if let Some(from) = &recipe.from {
        let has_place = from.mirror.as_ref().is_some_and(|mirror| mirror.contains("{snapshot}"));
        if from.snapshot.is_some() != has_place && from.mirror.is_some() {
            return Err(("mirror".to_owned(), "a mirror has {snapshot} exactly where a snapshot is named".to_owned()));
        }
        if from.snapshot.is_some() && from.mirror.is_none() {
            return Err((
                "snapshot".to_owned(),
                "a snapshot needs a mirror that keeps them, with {snapshot} in its URL".to_owned(),
            ));
        }
    }
    let mut paths = BTreeSet::new();
    for file in &recipe.files {
        let path = file.path.display().to_string();
        file.origin().map_err(|why| (path.clone(), why))?;
        if !paths.insert(&file.path) {
            return Err((path.clone(), format!("{path} is there twice")));
        }
        if let Some(dir) = HIDDEN.iter().find(|dir| file.path.starts_with(dir)) {
            return Err((path.clone(), format!("nobody would see {path}: a session has its own {dir}")));
        }
        if BIND_TARGETS.iter().any(|target| Path::new(target) == file.path) {
            return Err((path.clone(), format!("nobody would see {path}: a session has its own")));
        }
    }
    let (mut names, mut uids) = (BTreeSet::new(), BTreeSet::new());
    for user in &recipe.users {
        let taken = !names.insert(&user.name) || !uids.insert(user.uid);
        if taken || ["root", "agent"].contains(&&*user.name) || user.uid == 0 {
            let why = format!("user {} ({}) is there already, or is the session's", user.name, user.uid);
            return Err((user.name.clone(), why));
        }
    }
    for agent in &recipe.agents {
        if let Agent::Download { url, path, unpack, .. } = agent
            && path.is_some() == unpack.is_some()
        {
            return Err((url.clone(), "an agent from a URL needs exactly one of path and unpack".to_owned()));
        }
    }
    for path in recipe.commands.iter().flat_map(|command| &command.inputs) {
        if path.file_name().is_none() {
            return Err((path.display().to_string(), format!("{} is no file or directory", path.display())));
        }
    }
    Ok(())
}

fn refuse<T, E: serde::de::Error>(text: &str, wanted: &str) -> Result<T, E> {
    Err(E::custom(format!("{text:?} is not {wanted}")))
}

fn text_that<'de, D: Deserializer<'de>>(from: D, wanted: &str, ok: impl Fn(&str) -> bool) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    if ok(&text) { Ok(text) } else { refuse(&text, wanted) }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._+".contains(c))
}

pub fn name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    text_that(from, "the name of an image (A-Z a-z 0-9 _ -)", |text| {
        text.parse::<ImageRef>().is_ok_and(|image| matches!(image, ImageRef::Tag { .. })) && !text.contains(':')
    })
}

pub fn word<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    text_that(from, "one word", is_word)
}

pub fn words<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let words = Vec::<String>::deserialize(from)?;
    match words.iter().find(|word| !is_word(word)) {
        Some(word) => refuse(word, "one word"),
        None => Ok(words),
    }
}

pub fn packages<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeSet<String>, D::Error> {
    let packages = Vec::<String>::deserialize(from)?;
    let is_name = |text: &str| {
        let (name, version) = text.split_once('=').unwrap_or((text, "1"));
        let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        name.starts_with(lower)
            && name.chars().all(|c| lower(c) || "+-.:".contains(c))
            && !version.is_empty()
            && version.chars().all(|c| c.is_ascii_alphanumeric() || "+-.:~".contains(c))
            // To apt these mean: remove it, or take it by a pattern.
            && !name.ends_with('-')
    };
    match packages.iter().find(|package| !is_name(package)) {
        Some(package) => refuse(package, "a package: NAME or NAME=VERSION"),
        None => Ok(packages.into_iter().collect()),
    }
}

pub fn snapshot<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let wanted = "a moment like 20250520T000000Z";
    text_that(from, wanted, |text| crate::images::archive::snapshot_time(text).is_some()).map(Some)
}

pub fn user<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    text_that(from, "a login name", |text| {
        text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && text.len() <= 32
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c))
    })
}

pub fn npm<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    text_that(from, "a package of npm with its exact version: NAME@1.2.3", |text| {
        text.rsplit_once('@').is_some_and(|(name, version)| {
            let is_name = !name.is_empty()
                && !name.starts_with('-')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "@/-._".contains(c));
            is_name
                && version.starts_with(|c: char| c.is_ascii_digit())
                && is_word(version)
                && version.matches('.').count() >= 2
        })
    })
}

pub fn url<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    text_that(from, "a URL that begins with https:// or http://", |text| {
        reqwest::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "https" | "http"))
    })
}

pub fn sha256<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    text_that(from, "a SHA-256 of 64 digits 0-9 a-f", |text| {
        text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

pub fn absolute<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(from)?;
    let ok = path.is_absolute()
        && path != Path::new("/")
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if ok { Ok(path) } else { refuse(&path.display().to_string(), "a path of the image: /usr/local/…, without ..") }
}

pub fn mode<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let text = String::deserialize(from)?;
    match u32::from_str_radix(&text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(Some(mode)),
        _ => refuse(&text, "an octal mode: \"0644\""),
    }
}

pub fn shell() -> PathBuf {
    PathBuf::from("/bin/sh")
}

pub fn root() -> String {
    "root".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "name = \"x\"\n[from]\ndistribution = \"debian\"\nsuite = \"bookworm\"\n";

    fn said(text: &str) -> String {
        let error = read(text, &"x.toml").expect_err(text);
        assert_eq!(error.kind, Kind::Usage);
        format!("{}: {}", error.place.unwrap_or_default(), error.why.unwrap_or_default())
    }

    #[test]
    fn a_wrong_recipe_is_told_with_its_place_and_what_was_meant() {
        insta::assert_snapshot!(said("name = \"x\"\npakages = [\"git\"]\n").split(", expected").next().unwrap_or_default(), @"x.toml, line 2, column 1: unknown field `pakages`");
        assert!(said("name = \"x\"\npakages = [\"git\"]\n").ends_with("did you mean `packages`?"));
        assert!(said(&BASE.replace("debian", "debain")).ends_with("did you mean `debian`?"));
        insta::assert_snapshot!(said("name = \"x\""), @"x.toml, line 1, column 9: it needs a parent, or [from] with distribution and suite");
        insta::assert_snapshot!(said("name = \"a/b\"\n"), @r#"x.toml, line 1, column 8: "a/b" is not the name of an image (A-Z a-z 0-9 _ -)"#);
        insta::assert_snapshot!(said("name = \"x\"\nparent = \"p\"\npackages = [\"git\", \"--yes\"]\n"), @r#"x.toml, line 3, column 12: "--yes" is not a package: NAME or NAME=VERSION"#);
        insta::assert_snapshot!(said("name = \"x\"\nparent = \"p\"\n[[files]]\npath = \"/tmp/a\"\ncontent = \"\"\n"), @"x.toml, line 4, column 9: nobody would see /tmp/a: a session has its own /tmp");
        insta::assert_snapshot!(said("name = \"x\"\nparent = \"p\"\n[[files]]\npath = \"/etc/a\"\n"), @"x.toml, line 4, column 9: file /etc/a needs exactly one of content, source and artifact");
        insta::assert_snapshot!(said("name = \"x\"\nparent = \"p\"\n[[agents]]\nnpm = \"claude@latest\"\n"), @"x.toml, line 3, column 1: an agent is { npm = \"NAME@VERSION\" } or { url, sha256, path or unpack }");
    }

    #[test]
    fn all_keys_are_read() {
        let text = format!(
            "{}{BASE}snapshot = \"20250520T000000Z\"\nmirror = \"http://127.0.0.1/{{snapshot}}\"\nkeyring = \"k.gpg\"\n\
             components = [\"main\", \"contrib\"]\n[[users]]\nname = \"build\"\nuid = 1500\n[[commands]]\nrun = \"true\"\n\
             inputs = [\"a/b\"]\n[[files]]\npath = \"/etc/motd\"\ncontent = \"hi\"\nmode = \"0600\"\n\
             [[agents]]\nnpm = \"@a/b@1.2.3\"\n[labels]\nteam = \"x\"\n",
            "packages = [\"git\", \"curl=7.88.1-10+deb12u12\"]\nkinds = [\"terminal\"]\n"
        );
        let recipe = read(&text, &"x.toml").expect("read");
        assert_eq!(recipe.packages.len(), 2);
        assert_eq!(recipe.files[0].mode, Some(0o600));
        assert_eq!(recipe.users[0].shell, Path::new("/bin/sh"));
        assert!(matches!(&recipe.agents[0], Agent::Npm { npm, .. } if npm == "@a/b@1.2.3"));
    }
}
