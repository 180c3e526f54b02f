//! Agent images on the operator's machine: built from recipes, kept, compared, exported.
//!
//! A [`recipe`] says what an image is; [`plan`] makes layers of it, one per step, each with a key of all that it
//! depends on; [`build`] makes those that are missing and packs the result. Whatever touches a root file system runs
//! in a [`worker`], a process of this very program in namespaces of its own ([`sandbox`]): when it or its builder
//! dies, its mounts and processes are gone. [`archive`] is what apt knows of a distribution's packages, [`cache`] the
//! directory of all that builds keep. [`store`] keeps what is built (chunks, signed manifests, tags); [`pack`] makes an
//! image of a tree of files; [`contents`] reads one again.

pub mod archive;
pub mod artifacts;
pub mod build;
pub mod cache;
pub mod contents;
pub mod disk;
pub mod export;
pub mod inputs;
pub mod pack;
pub mod plan;
pub mod recipe;
pub mod sandbox;
pub mod sbom;
pub mod store;
pub mod worker;
