//! `helixctl start-agents`, `stop-agents`, `scale`: how many agents of a pool are ready.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use helix_protocol::api::pools::{PoolView, ScalePool};
use helix_protocol::pool::{DEFAULT_POOL, PoolSpec};
use helix_protocol::{ErrorCode, KindName, PoolName};
use tokio::time::{Instant, timeout_at};

use super::why;
use crate::client::Client;
use crate::error::{CliError, Kind, Result};
use crate::feed::Feed;
use crate::settings::Env;
use crate::ui::{Ui, span};

/// Agents where neither `--agents` nor `NUM_AGENTS` says how many.
const DEFAULT_AGENTS: u32 = 2;
/// Variable of the documents' script for the same.
const NUM_AGENTS: &str = "NUM_AGENTS";

/// Which pool, and whether to wait.
#[derive(Debug, Args)]
pub struct WhichArgs {
    /// Name of the pool
    #[arg(long, default_value = DEFAULT_POOL)]
    pool: PoolName,
    /// Wait until as many are ready as shall be; exit code 1 where they do not get ready
    #[arg(long)]
    wait: bool,
    /// Longest wait in seconds; the pool goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

/// Arguments of `start-agents`.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Agents that are kept ready [env: NUM_AGENTS] [default: 2]
    #[arg(long, value_name = "N")]
    agents: Option<u32>,
    /// What runs in them; the runner's default kind, or the pool's, when left out
    #[arg(long)]
    kind: Option<KindName>,
    #[command(flatten)]
    which: WhichArgs,
}

/// Arguments of `stop-agents`.
#[derive(Debug, Args)]
pub struct StopArgs {
    #[command(flatten)]
    which: WhichArgs,
}

/// Arguments of `scale`.
#[derive(Debug, Args)]
pub struct ScaleArgs {
    /// Agents that are kept ready
    agents: u32,
    /// Most agents in all, those that somebody has included
    #[arg(long, value_name = "N")]
    max: Option<u32>,
    #[command(flatten)]
    which: WhichArgs,
}

/// Makes a pool have so many agents ready, and keep them so. Makes the pool where there is none.
pub async fn start(client: &Client, args: StartArgs, env: Env<'_>, ui: &Ui) -> Result<ExitCode> {
    let agents = wanted(args.agents, env)?;
    let name = &args.which.pool;
    let seen = match client.pool(name).await {
        Ok(view) => Some(view),
        Err(error) if error.code == Some(ErrorCode::PoolNotFound) => None,
        Err(error) => return Err(error),
    };
    let version = seen.as_ref().map_or(0, |view| view.version);
    let mut spec = seen.map_or_else(PoolSpec::default, |view| view.spec);
    spec.min_ready = agents;
    // Who asks for more than there may be means it.
    spec.max = spec.max.map(|max| max.max(agents));
    spec.kind = args.kind.or(spec.kind);
    let watch = Watch::begin(client, &args.which).await?;
    let view = client.apply_pool(name, &spec, version).await?;
    Box::pin(finish(watch, view, ui)).await
}

/// Ends the agents of a pool that are nobody's, and makes no more.
pub async fn stop(client: &Client, args: &StopArgs, ui: &Ui) -> Result<ExitCode> {
    let watch = Watch::begin(client, &args.which).await?;
    let how = ScalePool { min_ready: Some(0), max: None };
    let view = client.scale_pool(&args.which.pool, &how).await?;
    if view.claimed > 0 && !ui.json {
        let (claimed, name) = (view.claimed, &view.name);
        ui.note(&format!("{claimed} sessions of it go on; stop them, too: helixctl pool delete {name} --stop"));
    }
    Box::pin(finish(watch, view, ui)).await
}

/// Changes how many there are.
pub async fn scale(client: &Client, args: &ScaleArgs, ui: &Ui) -> Result<ExitCode> {
    let watch = Watch::begin(client, &args.which).await?;
    let how = ScalePool { min_ready: Some(args.agents), max: args.max };
    let view = client.scale_pool(&args.which.pool, &how).await?;
    Box::pin(finish(watch, view, ui)).await
}

fn wanted(flag: Option<u32>, env: Env<'_>) -> Result<u32> {
    match (flag, env(NUM_AGENTS)) {
        (Some(agents), _) => Ok(agents),
        (None, None) => Ok(DEFAULT_AGENTS),
        (None, Some(text)) => text.parse().map_err(|_| {
            CliError::new(Kind::Usage, format!("{text:?} is no number of agents"))
                .at(NUM_AGENTS)
                .next("export NUM_AGENTS=2, or give --agents 2")
        }),
    }
}

async fn finish(watch: Option<Watch>, view: PoolView, ui: &Ui) -> Result<ExitCode> {
    let waited = watch.is_some();
    let view = match watch {
        Some(watch) => watch.until_ready(view, ui).await?,
        None => view,
    };
    ui.answer(&view, || ui.line(view.name.as_str()))?;
    if !waited && !ui.json {
        let (ready, shall, name) = (view.ready, view.spec.min_ready, &view.name);
        ui.note(&format!("{ready} of {shall} are ready; look at it: helixctl pool show {name}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// A feed that was opened before the change, so that nothing of it is missed.
struct Watch {
    client: Client,
    feed: Feed,
    patience: Duration,
    deadline: Instant,
}

impl Watch {
    async fn begin(client: &Client, args: &WhichArgs) -> Result<Option<Self>> {
        if !args.wait {
            return Ok(None);
        }
        let patience = Duration::from_secs(args.timeout);
        let feed = Feed::open(&client.connection).await?;
        Ok(Some(Self { client: client.clone(), feed, patience, deadline: Instant::now() + patience }))
    }

    async fn until_ready(mut self, mut view: PoolView, ui: &Ui) -> Result<PoolView> {
        let progress = ui.progress();
        let mut told = None;
        loop {
            let (name, ready, shall) = (&view.name, view.ready, view.spec.min_ready);
            let left = if shall == 0 { view.ready + view.starting + view.pending } else { 0 };
            if ready >= shall && left == 0 {
                return Ok(view);
            }
            progress.now(&format!("pool {name}: {ready} of {shall} ready"));
            if told != Some(ready) {
                progress.done(&format!("pool {name}: {ready} of {shall} ready"));
                told = Some(ready);
            }
            // It is tried again for ever; whoever waits here wants to know.
            if let (Some(_), Some(why)) = (view.retry_at, why(&view)) {
                return Err(CliError::failed(format!("agents of pool {name} do not get ready"))
                    .because(why)
                    .next(format!("helixctl pool show {name}")));
            }
            match timeout_at(self.deadline, self.feed.happened()).await {
                Ok(happened) => happened?,
                Err(_elapsed) => {
                    let why = why(&view).unwrap_or_else(|| "they are still starting".to_owned());
                    let error =
                        format!("{ready} of {shall} agents of pool {name} are ready after {}", span(self.patience));
                    return Err(CliError::new(Kind::TimedOut, error)
                        .because(why)
                        .next(format!("it goes on: helixctl pool show {name}")));
                }
            }
            view = self.client.pool(&view.name).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_many_is_said_by_the_flag_then_the_variable_then_nobody() {
        let env = |value: Option<&'static str>| move |_: &str| value.map(str::to_owned);
        assert_eq!(wanted(Some(0), &env(Some("5"))).expect("the flag"), 0);
        assert_eq!(wanted(None, &env(Some("5"))).expect("the variable"), 5);
        assert_eq!(wanted(None, &env(None)).expect("nobody"), DEFAULT_AGENTS);
        let error = wanted(None, &env(Some("many"))).expect_err("no number");
        assert_eq!((error.kind, error.place.as_deref()), (Kind::Usage, Some("NUM_AGENTS")));
    }
}
