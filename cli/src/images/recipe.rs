//! A recipe: the TOML file that says what an image is made of, and the check of each value as it is read.

mod find;
mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use helix_protocol::ids::KindName;
use serde::{Deserialize, Serialize};

pub use self::find::{Chain, Found, chain, find, shipped};
pub use self::read::read;

/// A recipe's file as written. Unknown keys are refused with their place.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the image.
    #[serde(deserialize_with = "read::name")]
    pub name: String,
    /// One sentence for people.
    #[serde(default)]
    pub description: String,
    /// The recipe that it goes on from: a name, or a file beside this one.
    #[serde(default)]
    pub parent: Option<String>,
    /// Where packages come from; of a recipe without a parent.
    #[serde(default)]
    pub from: Option<From>,
    /// Packages of the distribution.
    #[serde(default, deserialize_with = "read::packages")]
    pub packages: BTreeSet<String>,
    /// Kinds of sessions that it has what they need for, beside its parent's.
    #[serde(default)]
    pub kinds: Vec<KindName>,
    /// For people and for selection.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Users that it has.
    #[serde(default)]
    pub users: Vec<User>,
    /// Agents from npm or from a URL.
    #[serde(default)]
    pub agents: Vec<Agent>,
    /// Commands that run in it, in this order.
    #[serde(default)]
    pub commands: Vec<Command>,
    /// Files that are put in last.
    #[serde(default)]
    pub files: Vec<FileEntry>,
}

/// A distribution, and where its packages are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct From {
    /// Which.
    pub distribution: Distribution,
    /// Its release: `bookworm`.
    #[serde(deserialize_with = "read::word")]
    pub suite: String,
    /// The moment whose packages are meant, `20250520T000000Z`.
    #[serde(default, deserialize_with = "read::snapshot")]
    pub snapshot: Option<String>,
    /// Its archive, with `{snapshot}` where that stands; the one that this machine's apt uses where absent.
    #[serde(default)]
    pub mirror: Option<String>,
    /// Parts of the archive.
    #[serde(default, deserialize_with = "read::words")]
    pub components: Vec<String>,
    /// Keys that sign that archive, a file beside the recipe; the distribution's own where absent.
    #[serde(default)]
    pub keyring: Option<PathBuf>,
}

/// A distribution that images are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// Debian.
    Debian,
    /// Ubuntu.
    Ubuntu,
}

/// A user of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Login name.
    #[serde(deserialize_with = "read::user")]
    pub name: String,
    /// Number; fixed, so that it is the same in every build.
    pub uid: u32,
    /// Home directory.
    #[serde(default)]
    pub home: Option<PathBuf>,
    /// Shell.
    #[serde(default = "read::shell")]
    pub shell: PathBuf,
    /// More groups, which exist.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// A program that no package has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "an agent is { npm = \"NAME@VERSION\" } or { url, sha256, path or unpack }"
)]
pub enum Agent {
    /// A package from npm with its dependencies, installed for everybody.
    Npm {
        /// `NAME@VERSION`, exact.
        #[serde(deserialize_with = "read::npm")]
        npm: String,
        /// Dependencies are taken as they were on this day, `2026-11-01`: without it two builds may get two versions.
        #[serde(default)]
        before: Option<String>,
    },
    /// A file from the network, by its content.
    Download {
        /// Where it is.
        #[serde(deserialize_with = "read::url")]
        url: String,
        /// Its digest, 64 hex digits.
        #[serde(deserialize_with = "read::sha256")]
        sha256: String,
        /// The program that it becomes.
        #[serde(default)]
        path: Option<PathBuf>,
        /// The directory that it is unpacked into, as a tar.
        #[serde(default)]
        unpack: Option<PathBuf>,
        /// Directories that are left out at the beginning of its paths.
        #[serde(default)]
        strip: u32,
    },
}

/// A command of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// For `sh -e`, as root of the image, in /.
    pub run: String,
    /// Files or directories beside the recipe that it reads, at `$INPUTS/NAME`; it sees no other.
    #[serde(default)]
    pub inputs: Vec<PathBuf>,
    /// Whether it may use the network.
    #[serde(default)]
    pub network: bool,
    /// More variables.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

/// A file of an image: exactly one of `content`, `source` and `artifact`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Where it is in the image.
    #[serde(deserialize_with = "read::absolute")]
    pub path: PathBuf,
    /// Its text.
    #[serde(default)]
    pub content: Option<String>,
    /// A file or directory beside the recipe.
    #[serde(default)]
    pub source: Option<PathBuf>,
    /// What `helixctl build NAME` made: `zed`, `agentd`, `server`.
    #[serde(default)]
    pub artifact: Option<String>,
    /// Octal mode of the file, `"0755"`; of a directory's files where they are not executable.
    #[serde(default, deserialize_with = "read::mode")]
    pub mode: Option<u32>,
    /// Owner, a name or number of the image.
    #[serde(default = "read::root")]
    pub owner: String,
    /// Group.
    #[serde(default = "read::root")]
    pub group: String,
}

impl Distribution {
    /// As manifests say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::Ubuntu => "ubuntu",
        }
    }

    /// The parts of its archive where a recipe names none.
    pub fn components(self) -> &'static [&'static str] {
        match self {
            Self::Debian => &["main"],
            Self::Ubuntu => &["main", "universe"],
        }
    }

    /// The keys that sign its archive, as its keyring package installs them.
    pub fn keyring(self) -> &'static str {
        match self {
            Self::Debian => "/usr/share/keyrings/debian-archive-keyring.gpg",
            Self::Ubuntu => "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
        }
    }
}

impl FileEntry {
    /// Where its content comes from, in words; an error unless it is exactly one.
    pub fn origin(&self) -> Result<Origin<'_>, String> {
        match (&self.content, &self.source, &self.artifact) {
            (Some(content), None, None) => Ok(Origin::Content(content)),
            (None, Some(source), None) => Ok(Origin::Source(source)),
            (None, None, Some(artifact)) => Ok(Origin::Artifact(artifact)),
            _ => Err(format!("file {} needs exactly one of content, source and artifact", self.path.display())),
        }
    }
}

/// Where a file's content comes from.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// The recipe has it.
    Content(&'a str),
    /// A path beside the recipe.
    Source(&'a PathBuf),
    /// A build made it.
    Artifact(&'a str),
}
