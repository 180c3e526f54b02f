//! One layer: its inputs are brought, its step runs in a worker, and what it changed is put in its place.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt as _;
use helix_protocol::image::Digest;
use tokio::io::AsyncWriteExt as _;

use super::{Cache, StepDone, locked, millis, remove};
use crate::error::{CliError, Kind, Result, chain};
use crate::images::artifacts::file_digest;
use crate::images::cache::cannot;
use crate::images::plan::{Layer, Plan, Step};
use crate::images::sandbox;
use crate::images::worker::{Job, LayerJob};

/// A layer that nothing had to be done for.
pub fn there(layer: &Layer) -> StepDone {
    StepDone {
        step: layer.step.words(),
        recipe: layer.recipe.clone(),
        layer: Cache::layer_name(&layer.key),
        made: false,
        took_ms: 0,
    }
}

/// Makes a layer unless it is there; `begins` is called when work begins.
pub async fn make(
    cache: &Arc<Cache>,
    plan: &Plan,
    number: usize,
    force: bool,
    begins: &(dyn Fn() + Sync),
) -> Result<StepDone> {
    let layer = &plan.layers[number];
    let place = cache.layer(&layer.key);
    if place.exists() && !force {
        return Ok(there(layer));
    }
    let begun = Instant::now();
    let _lock = locked(cache, format!("layer-{}", Cache::layer_name(&layer.key))).await?;
    if place.exists() && !force {
        return Ok(there(layer));
    }
    begins();
    let work = cache.work()?;
    let log = cache.log(&layer.key);
    let made = run(cache, plan, number, &work.dir, &log).await;
    let kept = match made {
        Ok(()) => keep(cache, layer, &work.dir, &place),
        Err(error) => Err(error),
    };
    let removed = remove(cache, vec![work.dir.clone()]).await;
    kept?;
    removed?;
    Ok(StepDone { made: true, took_ms: millis(begun), ..there(layer) })
}

async fn run(cache: &Cache, plan: &Plan, number: usize, work: &Path, log: &Path) -> Result<()> {
    let layer = &plan.layers[number];
    fs::write(log, format!("{}: {}\n", layer.recipe, layer.step.words())).map_err(|error| cannot(log, &error))?;
    let inputs = work.join("build/inputs");
    fs::create_dir_all(&inputs).map_err(|error| cannot(&inputs, &error))?;
    if let (Some(url), Step::Download { sha256, .. }) = (&layer.url, &layer.step) {
        let file = download(cache, url, sha256).await?;
        fs::copy(&file, inputs.join("0")).map_err(|error| cannot(&inputs, &error))?;
    } else {
        for (position, (input, digest)) in layer.inputs.iter().enumerate() {
            let name = match &layer.step {
                Step::Command { inputs, .. } => inputs[position].0.clone(),
                _ => position.to_string(),
            };
            input.stage(&inputs.join(name), digest)?;
        }
    }
    let job = LayerJob {
        layers: cache.part("layers"),
        below: plan.layers[..number].iter().map(|layer| Cache::layer_name(&layer.key)).collect(),
        work: work.to_owned(),
        step: layer.step.clone(),
        archive: plan.archive.dir(cache),
        settings: plan.archive.settings.clone(),
        debs: cache.part("debs"),
        source_date: plan.archive.source_date,
        npm: if matches!(layer.step, Step::Npm { .. }) { npm_settings() } else { Vec::new() },
    };
    sandbox::run(&Job::Layer(Box::new(job)), log).await.map(drop).map_err(|error| told(error, layer, log))
}

/// The error of a step, with what it said last and where all of it is.
fn told(mut error: CliError, layer: &Layer, log: &Path) -> CliError {
    let text = fs::read_to_string(log).unwrap_or_default();
    let said = |begin: &str, end: &str| {
        let line = text.lines().find_map(|line| line.split_once(begin))?;
        Some(line.1.split(end).next().unwrap_or_default().trim().to_owned())
    };
    let unknown = said("Unable to locate package ", " ")
        .or_else(|| said("Package '", "' has no installation candidate"))
        .or_else(|| said("Package ", " is not available"));
    if let Some(package) = unknown {
        return CliError::new(Kind::Usage, format!("there is no package {package}"))
            .at(format!("packages of recipe {}", layer.recipe))
            .because("the distribution's archive has none of that name")
            .next("correct the name; for newer packages of the archive: helixctl image build --update");
    }
    if text.contains("404  Not Found") {
        error.next =
            Some("the archive has moved on since its lists were read: helixctl image build --update".to_owned());
    } else if text.contains("No space left on device") {
        error.next = Some("helixctl image gc, or another directory: --cache-dir DIR".to_owned());
    }
    let lines = sandbox::last_lines(log);
    let why = error.why.take().unwrap_or_default();
    // A worker that was killed has told its last lines already.
    error.why = Some(if why.contains(&lines) { why } else { format!("{why}\n{lines}") });
    error.what = format!("{}: {}: {}", layer.recipe, layer.step.words(), error.what);
    error.place.get_or_insert_with(|| log.display().to_string());
    error.next.get_or_insert_with(|| format!("see the whole log: {}", log.display()));
    error
}

/// Puts the layer in its place. One that is there is used by somebody, perhaps: it goes aside until rubbish is removed.
fn keep(cache: &Cache, layer: &Layer, work: &Path, place: &Path) -> Result<()> {
    let new = work.join("layer");
    let keep = || -> io::Result<()> {
        fs::create_dir(&new)?;
        fs::rename(work.join("upper"), new.join("fs"))?;
        fs::write(new.join("layer.json"), serde_json::to_vec(&(&layer.key, &layer.recipe, &layer.step))?)?;
        if place.exists() {
            let trash = cache.part("trash");
            fs::create_dir_all(&trash)?;
            let aside = tempfile::Builder::new().prefix("layer-").tempdir_in(trash)?.keep();
            fs::rename(place, aside.join("layer"))?;
        }
        fs::rename(&new, place)
    };
    keep().map_err(|error| cannot(place, &error))
}

/// A file from the network, whose bytes are what the recipe says.
async fn download(cache: &Cache, url: &str, sha256: &str) -> Result<std::path::PathBuf> {
    let path = cache.part("downloads").join(sha256);
    let wanted = format!("sha256:{sha256}").parse::<Digest>();
    let failed = |kind, why: String| {
        CliError::new(kind, "cannot get an agent").at(url).because(why).next("correct url and sha256 in [[agents]]")
    };
    let wanted = wanted.map_err(|error| failed(Kind::Usage, error.to_string()))?;
    if file_digest(&path).is_ok_and(|digest| digest == wanted) {
        return Ok(path);
    }
    let answer = reqwest::get(url).await.and_then(reqwest::Response::error_for_status);
    let answer = answer.map_err(|error| failed(Kind::Unreachable, chain(&error)))?;
    let new = tempfile::Builder::new().prefix(".new-").tempfile_in(cache.part("downloads"));
    let new = new.map_err(|error| cannot(&path, &error))?;
    let mut file = tokio::fs::File::create(new.path()).await.map_err(|error| cannot(&path, &error))?;
    let mut bytes = answer.bytes_stream();
    while let Some(piece) = bytes.next().await {
        let piece = piece.map_err(|error| failed(Kind::Unreachable, chain(&error)))?;
        file.write_all(&piece).await.map_err(|error| cannot(&path, &error))?;
    }
    file.flush().await.map_err(|error| cannot(&path, &error))?;
    let digest = file_digest(new.path()).map_err(|error| cannot(&path, &error))?;
    if digest != wanted {
        return Err(failed(Kind::Failed, format!("its digest is {digest}, the recipe says {wanted}")));
    }
    new.persist(&path).map_err(|error| cannot(&path, &error.error))?;
    Ok(path)
}

/// How this user's npm reaches its registry: its file, and its variables.
fn npm_settings() -> Vec<(String, String)> {
    let home = std::env::var_os("HOME").map(std::path::PathBuf::from).unwrap_or_default();
    let text = fs::read_to_string(home.join(".npmrc")).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with(['#', ';']));
    let of_file = lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
    let of_environment = std::env::vars().filter_map(|(name, value)| {
        let name = name.to_lowercase();
        let name = name.strip_prefix("npm_config_")?.replace('_', "-");
        ["registry", "proxy", "https-proxy", "noproxy"].contains(&&*name).then_some((name, value))
    });
    of_file.chain(of_environment).collect()
}
