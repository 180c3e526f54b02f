//! Agent images on the operator's machine: built from recipes, kept, compared, exported.
//!
//! [`store`] keeps what is built (chunks, signed manifests, tags); [`pack`] makes an image of a tree of files.

pub mod pack;
pub mod store;
