//! Answers what runners ask on `up.*`.
