//! `helixctl test-agents`: a session per kind and image, its start and its own check ([`check`]).
//!
//! On the server that every command talks to; with `--scratch`, or where no server is known, on a Helix of its own
//! ([`scratch`]), which gets the images that were built here and is ended afterwards. Sessions are ended whatever was found.

mod check;
mod scratch;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use futures::StreamExt as _;
use helix_protocol::api::CreateSession;
use helix_protocol::image::{Digest, ImageRef};
use helix_protocol::{KindName, RunnerId};
use serde::Serialize;

use self::check::{COMMAND, Checks};
use self::scratch::Scratch;
use super::image::CacheArgs;
use super::session::wait::{Goal, Watch};
use crate::args::GlobalArgs;
use crate::client::Client;
use crate::error::{CliError, Kind, Result};
use crate::settings::{self, process_env};
use crate::ui::{Hosts, Ui, span};
use crate::up::supervise::Signals;

/// Sessions at once: more of them make each one slow.
const AT_ONCE: usize = 4;

/// Arguments of `test-agents`.
#[derive(Debug, Args)]
pub struct TestAgentsArgs {
    /// Kind to test; may be repeated [default: all that runners and images have]
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<KindName>,
    /// Image to test, alone; may be repeated [default: every image of the server, and runners' own systems]
    #[arg(long = "image", value_name = "NAME[:TAG]")]
    images: Vec<ImageRef>,
    /// Test images of this tag alone [env: DOCKER_TAG_VERSION]
    #[arg(long, value_name = "TAG", conflicts_with = "images", env = "DOCKER_TAG_VERSION", hide_env = true)]
    tag: Option<String>,
    /// Test on a Helix of its own, with the images that were built here; done as well where no server is known
    #[arg(long, conflicts_with = "runner")]
    scratch: bool,
    /// The runner to test on
    #[arg(long, value_name = "ID")]
    runner: Option<RunnerId>,
    /// Sessions of each kind and image [env: NUM_AGENTS]
    #[arg(long, default_value_t = 1, value_name = "N", env = "NUM_AGENTS", hide_env = true)]
    agents: u32,
    /// Longest wait for a session, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Say each step of each session, too
    #[arg(long)]
    verbose: bool,
    /// Of the documents' script, which takes it and does nothing with it
    #[arg(long, hide = true)]
    force: bool,
    #[command(flatten)]
    cache: CacheArgs,
}

/// One session that is tested.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Case {
    /// None: the image's own choice.
    kind: Option<KindName>,
    image: Option<ImageRef>,
}

/// How it did.
#[derive(Debug, Serialize)]
struct Tested {
    kind: Option<KindName>,
    image: Option<ImageRef>,
    ok: bool,
    ready_ms: Option<u128>,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<CliError>,
}

/// Tests; exit code 1 when something failed.
pub async fn run(global: &GlobalArgs, args: &TestAgentsArgs, ui: &Ui) -> Result<ExitCode> {
    if !args.scratch {
        match settings::connection(global, &process_env) {
            Ok(connection) => return on(&Client::new(connection)?, args, ui).await,
            Err(error) if error.kind != Kind::Unreachable || global.state_dir.is_some() || args.runner.is_some() => {
                return Err(error);
            }
            Err(_) => ui.note("no server is known: testing on a Helix of its own"),
        }
    }
    let mut signals = Signals::catch()?;
    let scratch = Scratch::start(ui).await?;
    let tested = async {
        scratch.bring(&args.cache.store()?, &args.images, ui).await?;
        on(&scratch.client, args, ui).await
    };
    let tested = tokio::select! {
        tested = tested => tested,
        name = signals.next() => Err(CliError::failed("the test was broken off").because(format!("{name} came"))),
    };
    let ended = scratch.end().await;
    let code = tested?;
    ended.map(|()| code)
}

async fn on(client: &Client, args: &TestAgentsArgs, ui: &Ui) -> Result<ExitCode> {
    let cases = cases(client, args).await?;
    if cases.is_empty() {
        return Err(CliError::new(Kind::Unreachable, "there is nothing to test")
            .at(&client.connection.url)
            .because("no runner of that server has such a kind, and no image is there for it")
            .next("helixctl runner list; helixctl image remote list; helixctl test-agents --scratch"));
    }
    let lines = ui.hosts();
    let wanted = cases.iter().flat_map(|case| (0..args.agents).map(move |_| case));
    let tests = futures::stream::iter(wanted).map(|case| test(client, case, args, &lines, ui));
    let tested: Vec<_> = tests.buffered(AT_ONCE).collect().await;
    drop(lines);
    let ok = tested.iter().all(|test| test.ok);
    ui.answer(&serde_json::json!({ "ok": ok, "tests": tested }), || {
        let row = |test: &Tested| {
            let ready = test
                .ready_ms
                .map_or_else(String::new, |ms| span(Duration::from_millis(u64::try_from(ms).unwrap_or(0))));
            let kind = test.kind.as_ref().map_or_else(|| "–".to_owned(), ToString::to_string);
            let image = test.image.as_ref().map_or_else(|| "–".to_owned(), ToString::to_string);
            vec![kind, image, if test.ok { "ok" } else { "FAIL" }.to_owned(), ready, test.found.clone()]
        };
        ui.table(&["KIND", "IMAGE", "STATE", "READY", "FOUND"], &tested.iter().map(row).collect::<Vec<_>>())
    })?;
    for error in tested.iter().filter_map(|test| test.error.as_ref()) {
        ui.error(error);
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What there is to test: kinds on runners' own systems, and each image with the kinds that it is for.
async fn cases(client: &Client, args: &TestAgentsArgs) -> Result<Vec<Case>> {
    let mut machine = BTreeSet::new();
    if args.images.is_empty() {
        let wanted = |id: &RunnerId| args.runner.as_ref().is_none_or(|wanted| wanted == id);
        let runners = client.runners().await?.runners;
        let facts = runners.into_iter().filter(|runner| wanted(&runner.id)).filter_map(|runner| runner.facts);
        machine.extend(facts.flat_map(|facts| facts.kinds));
    }
    let list = client.images().await?;
    let kinds_of: BTreeMap<Digest, Vec<KindName>> =
        list.images.into_iter().map(|image| (image.digest, image.manifest.kinds)).collect();
    let tags = list.names.into_iter().flat_map(|(name, tags)| {
        tags.into_iter().map(move |(tag, record)| (ImageRef::Tag { name: name.clone(), tag }, record.digest))
    });
    let is_wanted = |image: &ImageRef| match (image, &args.tag) {
        (ImageRef::Tag { tag, .. }, Some(wanted)) => tag == wanted,
        _ => true,
    };
    let tags = tags.filter(|(image, _)| is_wanted(image)).collect();
    Ok(chosen(&args.kinds, &args.images, &machine, tags, &kinds_of))
}

fn chosen(
    kinds: &[KindName],
    images: &[ImageRef],
    machine: &BTreeSet<KindName>,
    tags: Vec<(ImageRef, Digest)>,
    kinds_of: &BTreeMap<Digest, Vec<KindName>>,
) -> Vec<Case> {
    let mut cases = Vec::new();
    if images.is_empty() {
        // A kind that was named is tested where nobody has it, too: the server says why not.
        let wanted = if kinds.is_empty() { machine.iter().cloned().collect() } else { kinds.to_vec() };
        cases.extend(wanted.into_iter().map(|kind| Case { kind: Some(kind), image: None }));
        // Two tags of one image are one test.
        let mut seen = BTreeSet::new();
        for (image, digest) in tags.into_iter().filter(|(_, digest)| seen.insert(*digest)) {
            cases.extend(in_image(kinds, &image, kinds_of.get(&digest), false));
        }
        return cases;
    }
    for image in images {
        let digest = match image {
            ImageRef::Digest(digest) => Some(*digest),
            ImageRef::Tag { .. } => tags.iter().find(|(tag, _)| tag == image).map(|(_, digest)| *digest),
        };
        cases.extend(in_image(kinds, image, digest.and_then(|digest| kinds_of.get(&digest)), true));
    }
    cases
}

/// Kinds of one image. What was named kind by image is tested as it was named.
fn in_image(kinds: &[KindName], image: &ImageRef, has: Option<&Vec<KindName>>, was_named: bool) -> Vec<Case> {
    let has = has.map_or(&[][..], Vec::as_slice);
    let wanted: Vec<Option<KindName>> = match (kinds, has) {
        ([], []) => vec![None],
        ([], has) => has.iter().cloned().map(Some).collect(),
        (kinds, _) if was_named => kinds.iter().cloned().map(Some).collect(),
        (kinds, has) => kinds.iter().filter(|kind| has.contains(kind)).cloned().map(Some).collect(),
    };
    wanted.into_iter().map(|kind| Case { kind, image: Some(image.clone()) }).collect()
}

async fn test(client: &Client, case: &Case, args: &TestAgentsArgs, lines: &Hosts, ui: &Ui) -> Tested {
    let words = [case.kind.as_ref().map(ToString::to_string), case.image.as_ref().map(ToString::to_string)];
    let line = lines.line(&words.into_iter().flatten().collect::<Vec<_>>().join(" in "));
    let mut tested = Tested {
        kind: case.kind.clone(),
        image: case.image.clone(),
        ok: false,
        ready_ms: None,
        found: String::new(),
        error: None,
    };
    line.step("starting");
    match Box::pin(start(client, case, args, ui, &mut tested)).await {
        Ok(found) => (tested.ok, tested.found) = (true, found),
        Err(error) => (tested.found, tested.error) = (error.what.clone(), Some(error)),
    }
    line.end(&tested.found);
    tested
}

/// A session from its creation to its end; what was found in between.
async fn start(client: &Client, case: &Case, args: &TestAgentsArgs, ui: &Ui, tested: &mut Tested) -> Result<String> {
    let is_command = case.kind.as_ref().is_some_and(|kind| kind.as_str() == COMMAND);
    let request = CreateSession {
        kind: case.kind.clone(),
        image: case.image.clone(),
        runner: args.runner.clone(),
        input: is_command.then(|| "echo helix".to_owned()),
        labels: [("helix.test".to_owned(), "test-agents".to_owned())].into(),
        ..CreateSession::default()
    };
    let begun = Instant::now();
    let mut watch = Watch::open(client, Duration::from_secs(args.timeout)).await?;
    let created = client.create_session(&request).await?;
    let id = created.id;
    tested.kind = created.kind.or(created.spec.kind);
    let quiet = Ui::new(ui.json, !args.verbose);
    let checked = async {
        let ready = watch.until(&id, Goal::Ready, &quiet).await?;
        tested.ready_ms = Some(begun.elapsed().as_millis());
        // What was left open is the runner's word.
        tested.kind = ready.kind.or(tested.kind.take());
        if is_command {
            let session = watch.until(&id, Goal::Result, &quiet).await?;
            let status = session.result.map(|result| result.exit_status);
            let wrong = || CliError::failed(format!("the command ended with {status:?}")).at(format!("session {id}"));
            return if status == Some(0) { Ok("a command ran".to_owned()) } else { Err(wrong()) };
        }
        let mut stage = "";
        let kind = tested.kind.as_ref().map_or("", KindName::as_str);
        let checks = Checks { client, id: &id };
        let left = Duration::from_secs(args.timeout).saturating_sub(begun.elapsed());
        let found = tokio::time::timeout(left, Box::pin(checks.of(kind, &mut stage))).await;
        found.unwrap_or_else(|_elapsed| {
            Err(CliError::failed(stage)
                .at(format!("session {id}"))
                .because(format!("{} s are over since it was asked for", args.timeout))
                .next(format!("helixctl session logs {id}; --timeout SECONDS waits longer")))
        })
    };
    let checked = checked.await;
    // It goes whatever was found; what it said is in the error.
    let ended = async {
        client.stop_session(&id).await?;
        Watch::open(client, Duration::from_secs(args.timeout)).await?.until(&id, Goal::Ended, &quiet).await
    };
    let ended = Box::pin(ended).await;
    let found = checked?;
    ended.map(|_| found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str) -> KindName {
        KindName::parse(name.to_owned()).expect("a kind")
    }

    fn image(name: &str) -> ImageRef {
        name.parse().expect("an image")
    }

    #[test]
    fn every_kind_is_tested_where_it_belongs_and_one_image_once() {
        let (base, web) = (Digest::of(b"base"), Digest::of(b"web"));
        let machine = BTreeSet::from([kind("command"), kind("terminal")]);
        let tags = || vec![(image("base"), base), (image("base:old"), base), (image("web"), web)];
        let kinds_of = BTreeMap::from([(base, vec![kind("terminal")]), (web, vec![])]);
        let told = |kinds: &[&str], images: &[&str]| -> Vec<String> {
            let kinds: Vec<_> = kinds.iter().map(|name| kind(name)).collect();
            let images: Vec<_> = images.iter().map(|name| image(name)).collect();
            let words = |case: Case| {
                let words = [case.kind.map(|kind| kind.to_string()), case.image.map(|image| image.to_string())];
                words.map(|word| word.unwrap_or_else(|| "-".to_owned())).join(" ")
            };
            chosen(&kinds, &images, &machine, tags(), &kinds_of).into_iter().map(words).collect()
        };
        assert_eq!(told(&[], &[]), ["command -", "terminal -", "terminal base:latest", "- web:latest"]);
        assert_eq!(told(&["terminal"], &[]), ["terminal -", "terminal base:latest"]);
        assert_eq!(told(&[], &["base"]), ["terminal base:latest"]);
        assert_eq!(told(&["command"], &["base"]), ["command base:latest"], "as it was named");
        assert_eq!(told(&[], &["nowhere"]), ["- nowhere:latest"], "the server says that there is none");
    }
}
