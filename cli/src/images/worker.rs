//! The process that touches root file systems (see [`super::sandbox`]): one job, then it ends.
//!
//! It is process 1 of its namespace, so whatever a step leaves running ends with it.

mod disk;
mod fonts;
mod packages;
mod root;
mod steps;

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use helix_protocol::image::Digest;
use serde::{Deserialize, Serialize};

use self::root::Root;
pub use self::root::is_file_target;
use super::disk::DiskJob;
use super::pack::{Packed, pack};
use super::plan::Step;
use super::sbom;
use super::store::Store;
use crate::error::{CliError, Result};

/// What is to be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "snake_case")]
pub enum Job {
    /// Make one layer in `work/upper`.
    Layer(Box<LayerJob>),
    /// Pack what layers are together.
    Pack(PackJob),
    /// Remove directories, whoever owns what is in them.
    Remove {
        /// Which.
        paths: Vec<PathBuf>,
    },
    /// Unpack an image into a directory that is not there yet, owners and all.
    Unpack {
        /// The store.
        store: PathBuf,
        /// Which image.
        image: Digest,
        /// Where.
        to: PathBuf,
    },
    /// Make a bootable disk of an image.
    Disk(Box<DiskJob>),
}

/// One layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LayerJob {
    /// Where layers are.
    pub layers: PathBuf,
    /// Names of those below, the lowest first.
    pub below: Vec<String>,
    /// A directory for this step; the layer is its `upper`, inputs are in `build/inputs`.
    pub work: PathBuf,
    /// What it does.
    pub step: Step,
    /// Directory of apt's lists.
    pub archive: PathBuf,
    /// Settings of apt.
    pub settings: String,
    /// Packages that were had once.
    pub debs: PathBuf,
    /// Nothing is later.
    pub source_date: u64,
    /// Settings of npm: variables, and the file's text.
    pub npm: Vec<(String, String)>,
}

/// What is packed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PackJob {
    /// Where layers are.
    pub layers: PathBuf,
    /// Their names, the lowest first.
    pub names: Vec<String>,
    /// A directory for mounts.
    pub work: PathBuf,
    /// Name of the image.
    pub image: String,
    /// Nothing is later.
    pub source_date: u64,
    /// The store.
    pub store: PathBuf,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is done.
    Done,
    /// An image.
    Packed {
        /// Its bytes.
        packed: Packed,
        /// Its list of packages.
        sbom: Digest,
    },
}

/// Reads the job, does it, says what came of it. What is said is for the process that started this one.
pub fn main() -> std::process::ExitCode {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text).map_err(|error| error.to_string());
    let job = read.and_then(|_| serde_json::from_str(&text).map_err(|error| error.to_string()));
    let answer: Result<Answer> = match job {
        Ok(job) => run(&job),
        Err(why) => Err(CliError::failed("image-worker is started by helixctl image build alone").because(why)),
    };
    let line = serde_json::to_string(&answer).unwrap_or_default();
    let _ = writeln!(std::io::stdout().lock(), "{line}");
    if answer.is_ok() { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}

fn run(job: &Job) -> Result<Answer> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    match job {
        Job::Layer(job) => steps::layer(job).map(|()| Answer::Done),
        Job::Pack(job) => packed(job),
        Job::Remove { paths } => {
            for path in paths {
                remove(path)?;
            }
            Ok(Answer::Done)
        }
        Job::Unpack { store, image, to } => {
            super::export::unpack(&Store::open(store)?, image, to)?;
            Ok(Answer::Done)
        }
        Job::Disk(job) => disk::make(job).map(|()| Answer::Done),
    }
}

fn packed(job: &PackJob) -> Result<Answer> {
    let store = Store::open(&job.store)?;
    let root = Root::read_only(&job.layers, &job.names, &job.work)?;
    root::check_targets(&root.path)?;
    fonts::remember(job, &root)?;
    let packed = pack(&root.path, job.source_date, &store)?;
    let sbom = sbom::of_root(&root.path, &job.image, job.source_date, &packed.tar)?;
    let sbom = store.put_chunk(sbom.as_bytes())?.chunk.digest;
    Ok(Answer::Packed { packed, sbom })
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(CliError::failed("cannot remove what a build left").at(path.display()).because(error))
        }
        _ => Ok(()),
    }
}
