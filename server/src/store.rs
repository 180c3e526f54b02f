//! Durable records with revision check.

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store {}
