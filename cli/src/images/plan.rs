//! The layers of an image, one per step, each with a key of all that it depends on.
//!
//! A key is the digest of the layer below it, the step as it is written, and the digests of the files that it reads.
//! So a changed input changes the layers from the first one that reads it, and no other. Within a recipe the order is
//! fixed: packages, users, agents, commands, files. Files come last, for no command sees them: what a command reads it
//! declares, and a changed file runs no command again.

use std::collections::BTreeMap;
use std::path::PathBuf;

use helix_protocol::ids::KindName;
use helix_protocol::image::Digest;
use serde::{Deserialize, Serialize};

use super::archive::{Archive, architecture};
use super::artifacts;
use super::cache::Cache;
use super::inputs::Input;
use super::recipe::{Agent, Chain, Found, Origin, User};
use crate::error::{CliError, Kind, Result};

/// Changes when layers are made in another way: all are made anew then.
const LAYERS: u32 = 1;
/// Room that a step takes at most, where nothing tells better.
const ROOT_BYTES: u64 = 640 << 20;
const PACKAGES_BYTES: u64 = 512 << 20;
const STEP_BYTES: u64 = 64 << 20;

/// What one layer does. Paths are the image's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// The distribution's smallest root.
    Root {
        /// `debian`, `ubuntu`.
        distribution: String,
        /// Its release.
        suite: String,
        /// Machine.
        arch: String,
        /// The lists that its packages are of.
        archive: Digest,
    },
    /// More packages.
    Packages {
        /// Sorted.
        names: Vec<String>,
    },
    /// Users.
    Users {
        /// In their order.
        users: Vec<User>,
    },
    /// A package of npm.
    Npm {
        /// With its version.
        npm: String,
        /// Dependencies as of this day.
        before: Option<String>,
    },
    /// A file from the network, as input 0.
    Download {
        /// Its digest.
        sha256: String,
        /// The program that it becomes.
        path: Option<PathBuf>,
        /// Where it is unpacked.
        unpack: Option<PathBuf>,
        /// Directories left out.
        strip: u32,
    },
    /// A command.
    Command {
        /// For the shell.
        run: String,
        /// With the network.
        network: bool,
        /// Variables.
        environment: BTreeMap<String, String>,
        /// What it reads, by name.
        inputs: Vec<(String, Digest)>,
    },
    /// Files.
    Files {
        /// Each is the input of the same number.
        files: Vec<PlannedFile>,
    },
}

/// A file that is put into an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFile {
    /// Where.
    pub path: PathBuf,
    /// Mode, where it is not what the file itself says.
    pub mode: Option<u32>,
    /// Owner.
    pub owner: String,
    /// Group.
    pub group: String,
    /// What is in it.
    pub content: Digest,
}

/// A step, with what is needed to do it.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Of all that it depends on.
    pub key: Digest,
    /// What it does.
    pub step: Step,
    /// The recipe that says so.
    pub recipe: String,
    /// Files that it reads, with their digests.
    pub inputs: Vec<(Input, Digest)>,
    /// A file that must be had from the network first.
    pub url: Option<String>,
}

/// An image that is to be built.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Name of the image.
    pub name: String,
    /// Of everything; equal keys mean equal images.
    pub key: Digest,
    /// Of the recipe with its parents and inputs, whatever the packages are.
    pub recipe: Digest,
    /// From the distribution upwards.
    pub layers: Vec<Layer>,
    /// Where packages come from.
    pub archive: Archive,
    /// `debian`, `ubuntu`.
    pub distribution: String,
    /// Its release.
    pub suite: String,
    /// Machine.
    pub arch: String,
    /// Of the whole chain, the child's before its parents': the first is that of a session which names none.
    pub kinds: Vec<KindName>,
    /// Of the whole chain, the last word being the child's.
    pub labels: BTreeMap<String, String>,
}

impl Step {
    /// In a few words, for progress.
    pub fn words(&self) -> String {
        match self {
            Self::Root { distribution, suite, .. } => format!("{distribution} {suite}"),
            Self::Packages { names } => format!("{} packages", names.len()),
            Self::Users { users } => {
                format!("users {}", users.iter().map(|user| &*user.name).collect::<Vec<_>>().join(", "))
            }
            Self::Npm { npm, .. } => format!("npm {npm}"),
            Self::Download { path, unpack, .. } => {
                format!(
                    "agent {}",
                    path.as_ref().or(unpack.as_ref()).map_or_else(String::new, |p| p.display().to_string())
                )
            }
            Self::Command { run, .. } => format!(
                "command {}",
                run.trim().lines().next().unwrap_or_default().chars().take(60).collect::<String>()
            ),
            Self::Files { files } => format!("{} files", files.len()),
        }
    }

    /// Room that it takes at most.
    pub fn room(&self, inputs: &[(Input, Digest)]) -> u64 {
        match self {
            Self::Root { .. } => ROOT_BYTES,
            Self::Packages { .. } => PACKAGES_BYTES,
            Self::Files { .. } => inputs.iter().map(|(input, _)| 2 * input.bytes()).sum::<u64>() + (4 << 20),
            _ => STEP_BYTES,
        }
    }
}

impl Plan {
    /// What a chain of recipes means now. Asks for the archive where it is not known yet, or with `update`.
    pub async fn of(cache: &Cache, chain: &Chain, update: bool) -> Result<Self> {
        let first = chain.first().ok_or_else(|| CliError::new(Kind::Usage, "there is no recipe"))?;
        let last = chain.last().unwrap_or(first);
        let from =
            first.recipe.from.as_ref().ok_or_else(|| {
                CliError::new(Kind::Usage, "the recipe says nothing of a distribution").at(&first.place)
            })?;
        // What is wrong with a recipe's files is told before anything is fetched.
        let mut steps = Vec::new();
        for found in chain {
            recipe_steps(cache, found, &mut steps)?;
        }
        let archive = Archive::of(cache, from, first.dir.as_deref(), update).await?;
        let arch = architecture().await?;
        let root = |archive| Step::Root {
            distribution: from.distribution.name().to_owned(),
            suite: from.suite.clone(),
            arch: arch.clone(),
            archive,
        };
        let recipe_of =
            |below: &Digest, step: &Step| Digest::of(&serde_json::to_vec(&(LAYERS, below, step)).unwrap_or_default());
        let nothing = Digest::of(b"");
        let root_step =
            Planned { step: root(archive.digest), recipe: first.recipe.name.clone(), inputs: Vec::new(), url: None };
        let mut recipe = recipe_of(&nothing, &root(nothing));
        let mut below = nothing;
        let mut layers = Vec::with_capacity(steps.len() + 1);
        for Planned { step, recipe: named, inputs, url } in std::iter::once(root_step).chain(steps) {
            if !matches!(step, Step::Root { .. }) {
                recipe = recipe_of(&recipe, &step);
            }
            let key = recipe_of(&below, &step);
            layers.push(Layer { key, step, recipe: named, inputs, url });
            below = key;
        }
        let kinds = kinds_of(chain);
        let mut labels = BTreeMap::new();
        for found in chain {
            labels.extend(found.recipe.labels.clone());
        }
        let name = last.recipe.name.clone();
        let all =
            serde_json::to_vec(&(helix_protocol::image::FORMAT, &name, below, &kinds, &labels, archive.source_date));
        Ok(Self {
            name,
            key: Digest::of(&all.unwrap_or_default()),
            recipe,
            layers,
            distribution: from.distribution.name().to_owned(),
            suite: from.suite.clone(),
            arch,
            archive,
            kinds,
            labels,
        })
    }
}

fn kinds_of(chain: &Chain) -> Vec<KindName> {
    let mut kinds = Vec::new();
    for kind in chain.iter().rev().flat_map(|found| &found.recipe.kinds) {
        if !kinds.contains(kind) {
            kinds.push(kind.clone());
        }
    }
    kinds
}

/// A step without its key.
#[derive(Debug)]
struct Planned {
    step: Step,
    recipe: String,
    inputs: Vec<(Input, Digest)>,
    url: Option<String>,
}

fn recipe_steps(cache: &Cache, found: &Found, steps: &mut Vec<Planned>) -> Result<()> {
    let recipe = &found.recipe;
    let mut add = |step, inputs, url| steps.push(Planned { step, recipe: recipe.name.clone(), inputs, url });
    if !recipe.packages.is_empty() {
        add(Step::Packages { names: recipe.packages.iter().cloned().collect() }, Vec::new(), None);
    }
    if !recipe.users.is_empty() {
        add(Step::Users { users: recipe.users.clone() }, Vec::new(), None);
    }
    for agent in &recipe.agents {
        match agent.clone() {
            Agent::Npm { npm, before } => add(Step::Npm { npm, before }, Vec::new(), None),
            Agent::Download { url, sha256, path, unpack, strip } => {
                let file = Input::Path(cache.part("downloads").join(&sha256));
                // The name of the file is its digest: nothing needs to be read to know it.
                let digest = Digest::of(sha256.as_bytes());
                add(Step::Download { sha256, path, unpack, strip }, vec![(file, digest)], Some(url));
            }
        }
    }
    for command in &recipe.commands {
        let mut inputs = Vec::new();
        let mut named = Vec::new();
        for path in &command.inputs {
            let input = Input::Path(beside(found, path)?);
            let digest = input.digest()?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            named.push((name, digest));
            inputs.push((input, digest));
        }
        let step = Step::Command {
            run: command.run.clone(),
            network: command.network,
            environment: command.environment.clone(),
            inputs: named,
        };
        add(step, inputs, None);
    }
    if !recipe.files.is_empty() {
        let mut inputs = Vec::new();
        let mut files = Vec::new();
        for file in &recipe.files {
            let origin = file.origin().map_err(|why| CliError::new(Kind::Usage, why).at(&found.place))?;
            let input = match origin {
                Origin::Content(text) => Input::Text(text.to_owned()),
                Origin::Source(path) => Input::Path(beside(found, path)?),
                Origin::Artifact(name) => Input::Path(artifacts::program(cache, name)?),
            };
            let content = input.digest()?;
            inputs.push((input, content));
            files.push(PlannedFile {
                path: file.path.clone(),
                mode: file.mode,
                owner: file.owner.clone(),
                group: file.group.clone(),
                content,
            });
        }
        add(Step::Files { files }, inputs, None);
    }
    Ok(())
}

fn beside(found: &Found, path: &std::path::Path) -> Result<PathBuf> {
    let dir = found.dir.as_ref().ok_or_else(|| {
        CliError::new(Kind::Usage, "a shipped recipe names no files of this machine").at(&found.place)
    })?;
    Ok(dir.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::recipe;

    /// A session that names no kind has the first: what the image was made for, not what its parent has, too.
    #[test]
    fn a_recipes_own_kinds_come_before_its_parents() {
        for (name, first) in [("base", "command"), ("dev", "command"), ("zed", "zed"), ("browser", "browser")] {
            let kinds = kinds_of(&recipe::chain(name).expect(name));
            assert_eq!(kinds.first().map(KindName::as_str), Some(first), "{name}: {kinds:?}");
            assert!(kinds.iter().any(|kind| kind.as_str() == "terminal"), "{name}: {kinds:?}");
        }
    }
}
