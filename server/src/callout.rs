//! Auth callout: which NATS connections come in, and what they may do.
//!
//! nats-server asks on `$SYS.REQ.USER.AUTH` about every connection that is not one of its own users; any server of
//! the queue group answers with a signed user JWT for account RUNNERS and exactly one runner's subjects, or with a
//! refusal. Nobody else can ask: the subject is reserved to nats-server, and nobody but servers is in account HELIX.
//! The runner's credential is its own token, as `auth_token` or as password (then the user, if any, is its id): the
//! same one that it shows over HTTP.
//!
//! One task, a task per request. With all servers down nobody new comes in; who is connected stays until its JWT
//! ends.

mod jwt;

use std::sync::Arc;

use futures::StreamExt as _;
use helix_protocol::ids::secret_hash;
use helix_protocol::record::Scope;
use helix_protocol::{RunnerId, subject};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::bus::Bus;
use crate::config::ServerConfig;
use crate::error::{Error, Result};
use crate::keys::Keys;
use crate::store::Store;

use jwt::{Asked, Permissions};

/// Largest message of a runner: a report with a whole output tail is far below.
const MAX_PAYLOAD_BYTES: i64 = 1024 * 1024;

/// What the task needs.
#[derive(Clone)]
pub struct Callout {
    /// NATS connection.
    pub bus: Bus,
    /// Durable records.
    pub store: Store,
    /// Signing key.
    pub keys: Arc<Keys>,
    /// Settings.
    pub config: Arc<ServerConfig>,
}

impl Callout {
    /// Subscribes; connections are answered from [`Callout::run`] on.
    pub async fn listen(&self) -> anyhow::Result<async_nats::Subscriber> {
        let queue = subject::SERVER_QUEUE.to_owned();
        let requests = self.bus.client().queue_subscribe(subject::AUTH_CALLOUT, queue).await?;
        self.bus.client().flush().await?;
        Ok(requests)
    }

    /// Answers until `shutdown`.
    pub async fn run(self, mut requests: async_nats::Subscriber, shutdown: CancellationToken) {
        let answering = TaskTracker::new();
        // Both arms are cancel safe: a token and a stream.
        while let Some(Some(message)) = shutdown.run_until_cancelled(requests.next()).await {
            let callout = self.clone();
            answering.spawn(async move { callout.answer(message).await }.instrument(tracing::debug_span!("callout")));
        }
        answering.close();
        answering.wait().await;
    }

    async fn answer(&self, message: async_nats::Message) {
        let Some(inbox) = message.reply else { return };
        let asked = match jwt::parse(&message.payload) {
            Ok(asked) => asked,
            Err(err) => {
                tracing::warn!(error = %err, "an authorization request that is not from nats-server is dropped");
                return;
            }
        };
        let verdict = match self.admit(&asked).await {
            Ok(runner) => {
                tracing::debug!(runner.id = %runner, "NATS connection let in");
                jwt::user(&self.keys, &asked, &self.permissions(&runner)).map_err(|err| err.to_string())
            }
            Err(err) => {
                tracing::warn!(client.host = asked.host, client.user = asked.user, error = %err, "NATS connection refused");
                Err(err.detail)
            }
        };
        match jwt::response(&self.keys, &asked, verdict) {
            Ok(response) => {
                if let Err(err) = self.bus.client().publish(inbox, response.into()).await {
                    tracing::warn!(error = %err, "cannot answer an authorization request");
                }
            }
            Err(err) => tracing::error!(error = %err, "cannot sign an authorization response"),
        }
    }

    /// Which runner connects. Asks the store itself: an enrolment on another replica counts at once, a revocation too.
    async fn admit(&self, asked: &Asked) -> Result<RunnerId> {
        let secret = asked.secret().ok_or_else(|| refused("no runner token was given"))?;
        let hash = secret_hash(secret);
        let token = self.store.tokens.get(&hash).await?.found();
        let token = token.ok_or_else(|| refused("the token is unknown or revoked; enrol the runner again"))?.value;
        let Scope::Runner(runner) = &token.scope else { return Err(refused("the token is not a runner's")) };
        if token.expires_at.is_some_and(|end| end <= jiff::Timestamp::now()) {
            return Err(refused("the token has expired; enrol the runner again"));
        }
        if asked.user.as_deref().is_some_and(|user| !user.is_empty() && user != runner.as_str()) {
            return Err(refused("the token is another runner's"));
        }
        let record = self.store.runners.get(runner.as_str()).await?.found();
        if !record.is_some_and(|record| record.value.has_token(&hash)) {
            return Err(refused("the runner was removed or enrolled again elsewhere"));
        }
        Ok(runner.clone())
    }

    fn permissions(&self, runner: &RunnerId) -> Permissions {
        Permissions {
            name: runner.to_string(),
            account: subject::ACCOUNT_RUNNERS.to_owned(),
            publish: vec![subject::runner_may_publish(runner)],
            subscribe: subject::runner_may_subscribe(runner).to_vec(),
            max_payload: MAX_PAYLOAD_BYTES,
            ttl: self.config.credential_ttl,
        }
    }
}

fn refused(detail: &str) -> Error {
    Error::new(helix_protocol::ErrorCode::TokenInvalid, detail)
}
