//! `[quotas]`: most sessions that each owner may have running.

use super::document::Document;
use crate::scheduler::queue::Quotas;

const SECTION: &str = "quotas";
/// Key of everybody who is not named.
const EVERYBODY: &str = "*";

/// Reads the section; notes faults.
pub(super) fn read(doc: &mut Document<'_>) -> Quotas {
    let mut owners = doc.numbers(SECTION);
    let everybody = owners.remove(EVERYBODY);
    Quotas { everybody, owners }
}
