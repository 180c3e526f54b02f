//! Requests that may be repeated while the server is away for a moment: a restart, or another replica takes over.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Kind, Result};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// Repeats `call` while nobody answers, at most for `within`. Only for what has the same effect once and twice: a
/// reading, or a request with an id or a key of its own.
pub async fn patiently<T>(within: Duration, mut call: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + within;
    let mut pause = FIRST_PAUSE;
    loop {
        let outcome = call().await;
        let away = matches!(&outcome, Err(error) if matches!(error.kind, Kind::Unreachable | Kind::TimedOut));
        if !away || Instant::now() + pause >= deadline {
            return outcome;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CliError;

    async fn tries(outcomes: &[Option<Kind>]) -> (usize, Option<Kind>) {
        let mut tried = 0;
        let last = patiently(Duration::from_millis(700), async || {
            let outcome = outcomes[tried.min(outcomes.len() - 1)];
            tried += 1;
            outcome.map_or(Ok(()), |kind| Err(CliError::new(kind, "no")))
        })
        .await;
        (tried, last.err().map(|error| error.kind))
    }

    #[tokio::test]
    async fn an_outage_is_waited_out_and_a_refusal_is_not() {
        let away = Some(Kind::Unreachable);
        assert_eq!(tries(&[None]).await, (1, None));
        assert_eq!(tries(&[away, Some(Kind::TimedOut), None]).await, (3, None));
        assert_eq!(tries(&[Some(Kind::Failed), None]).await, (1, Some(Kind::Failed)));
        assert_eq!(tries(&[Some(Kind::Refused), None]).await, (1, Some(Kind::Refused)));
        // Pauses of 200 and 400 ms; the next would end after the deadline.
        assert_eq!(tries(&[away]).await, (3, away));
    }
}
