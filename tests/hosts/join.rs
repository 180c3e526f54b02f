//! `helixctl runner join` and what follows it: document 001's quick start, what a second join does, what bad input gets, and
//! that nothing is left.

mod again;
mod quick_start;
mod refusals;
mod stage;

use anyhow::Result;

use crate::harness::{Boot, Case, Suite};

/// Where the documents' reader stands: a clone has it in packaging/.
const SCRIPT: &str = "./scripts/run-external-zed-agent.sh";
/// How long nobody is waited for in vain.
const BRIEF: &str = "--within 8s";

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![
        Case::always("join::the_documents_quick_start", quick_start_of_bookworm),
        Case::thorough("join::the_documents_quick_start_on_trixie", quick_start_of_trixie),
        Case::always("join::a_second_join_changes_what_differs", again::a_second_join_changes_what_differs),
        Case::always(
            "join::a_server_that_is_away_for_a_moment_is_waited_for",
            again::a_server_that_is_away_for_a_moment_is_waited_for,
        ),
        Case::always(
            "join::an_agentd_that_does_not_stay_up_is_told_with_its_words",
            again::an_agentd_that_does_not_stay_up_is_told_with_its_words,
        ),
        Case::always("join::what_bad_input_gets", refusals::what_bad_input_gets),
    ]
}

async fn quick_start_of_bookworm() -> Result<()> {
    quick_start::the_documents_quick_start(Boot::container()).await
}

async fn quick_start_of_trixie() -> Result<()> {
    quick_start::the_documents_quick_start(Boot::container().suite(Suite::Trixie)).await
}
