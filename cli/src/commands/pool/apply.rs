//! `helixctl apply FILE`: pools as a file says, `[pool.NAME]` tables of `fleet.toml`. What would change is shown first;
//! `--yes` does it, building on exactly what was seen: whoever changed a pool in between is told, and nothing is lost.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use helix_protocol::PoolName;
use helix_protocol::api::pools::PoolView;
use helix_protocol::pool::PoolSpec;
use serde::{Deserialize, Serialize};

use super::fields;
use crate::client::Client;
use crate::error::{CliError, Kind, Result};
use crate::ui::Ui;

/// Arguments of `pool apply`.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// File with [pool.NAME] tables
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Do it; without it the plan is all
    #[arg(long)]
    yes: bool,
}

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// File with [pool.NAME] tables, beside the [[host]] tables of `provision`
    #[arg(value_name = "FILE", default_value = "fleet.toml")]
    file: PathBuf,
    /// Do it; without it the plan is all
    #[arg(long)]
    yes: bool,
}

impl From<ApplyArgs> for FileArgs {
    fn from(ApplyArgs { file, yes }: ApplyArgs) -> Self {
        Self { file, yes }
    }
}

/// The part of `fleet.toml` that is about pools; the rest is `provision`'s.
#[derive(Debug, Deserialize)]
struct Pools {
    #[serde(default)]
    pool: BTreeMap<PoolName, PoolSpec>,
}

/// What becomes of one pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Step {
    pool: PoolName,
    /// `make`, `change` or `keep`.
    what: &'static str,
    /// Each field that changes, with its old and its new value.
    changes: Vec<Change>,
    /// It was seen in this version.
    version: u64,
}

/// One field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Change {
    field: String,
    from: Option<String>,
    to: Option<String>,
}

/// What `apply --json` prints.
#[derive(Serialize)]
struct Outcome {
    plan: Vec<Step>,
    /// It was done.
    applied: bool,
}

/// Plans, and with `--yes` applies.
pub async fn run(client: &Client, args: &FileArgs, ui: &Ui) -> Result<ExitCode> {
    let wanted = read(&args.file)?;
    let there: BTreeMap<_, _> = client.pools().await?.pools.into_iter().map(|pool| (pool.name.clone(), pool)).collect();
    let plan = plan(&wanted, &there)?;
    let changing: Vec<_> = plan.iter().filter(|step| step.what != "keep").collect();
    if !ui.json {
        // What a plan is asked for is data; on the way to doing it, it is news.
        let lines: Vec<_> = plan.iter().flat_map(lines).collect();
        for line in lines {
            if args.yes { ui.note(&line) } else { ui.line(&line)? }
        }
    }
    let applied = args.yes && !changing.is_empty();
    if args.yes {
        for step in &changing {
            if let Some(spec) = wanted.get(&step.pool) {
                client.apply_pool(&step.pool, spec, step.version).await?;
            }
        }
    }
    let names: Vec<_> = changing.iter().map(|step| step.pool.to_string()).collect();
    let file = args.file.display();
    if ui.json {
        ui.json(&Outcome { plan, applied })?;
    } else if applied {
        names.iter().try_for_each(|name| ui.line(name))?;
    } else if names.is_empty() {
        ui.note("all pools are as the file says");
    } else {
        ui.note(&format!("nothing was changed; do it: helixctl apply {file} --yes"));
    }
    Ok(ExitCode::SUCCESS)
}

fn read(file: &std::path::Path) -> Result<BTreeMap<PoolName, PoolSpec>> {
    let bad = |why: String| {
        CliError::new(Kind::Usage, "cannot read the pools").at(file.display()).because(why).next(
            "write [pool.NAME] tables with min_ready and, if need be, kind, max, selector, …: docs/pools.md has all",
        )
    };
    let text = std::fs::read_to_string(file).map_err(|error| bad(error.to_string()))?;
    let pools: Pools = toml::from_str(&text).map_err(|error| bad(error.to_string().trim_end().to_owned()))?;
    if pools.pool.is_empty() {
        return Err(bad("it has no [pool.NAME]".to_owned()));
    }
    Ok(pools.pool)
}

/// Pools that the file does not name are not its matter.
fn plan(wanted: &BTreeMap<PoolName, PoolSpec>, there: &BTreeMap<PoolName, PoolView>) -> Result<Vec<Step>> {
    let step = |(pool, spec): (&PoolName, &PoolSpec)| {
        let seen = there.get(pool);
        let old: BTreeMap<_, _> = seen.map(|view| fields(&view.spec)).transpose()?.into_iter().flatten().collect();
        let new: BTreeMap<_, _> = fields(spec)?.into_iter().collect();
        let mut names: Vec<_> = old.keys().chain(new.keys()).cloned().collect();
        names.sort();
        names.dedup();
        let change = |field: String| {
            let (from, to) = (old.get(&field).cloned(), new.get(&field).cloned());
            (from != to).then_some(Change { field, from, to })
        };
        let changes: Vec<_> = names.into_iter().filter_map(change).collect();
        let what = match (seen, changes.is_empty()) {
            (None, _) => "make",
            (Some(_), true) => "keep",
            (Some(_), false) => "change",
        };
        Ok(Step { pool: pool.clone(), what, changes, version: seen.map_or(0, |view| view.version) })
    };
    wanted.iter().map(step).collect()
}

/// Values of the environment may be secrets.
fn lines(step: &Step) -> Vec<String> {
    let shown = |field: &str, value: Option<&String>| match value {
        None => "nothing".to_owned(),
        Some(_) if field == "env" => "…".to_owned(),
        Some(value) => value.clone(),
    };
    let mut lines = vec![format!("{} pool {}", step.what, step.pool)];
    for Change { field, from, to } in &step.changes {
        lines.push(match step.what {
            "make" => format!("  {field} = {}", shown(field, to.as_ref())),
            _ => format!("  {field}: {} -> {}", shown(field, from.as_ref()), shown(field, to.as_ref())),
        });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("fleet.toml");
        std::fs::write(&path, text).expect("written");
        (folder, path)
    }

    #[test]
    fn a_plan_says_field_by_field_what_changes() {
        let (_folder, path) = file(
            "[[host]]\nhost = \"box\"\n\
             [pool.ci]\nkind = \"terminal\"\nmin_ready = 3\nselector = { site = \"cellar\" }\nenv = { KEY = \"hidden\" }\n\
             [pool.web]\nmin_ready = 1\n\
             [pool.same]\nmin_ready = 2\n",
        );
        let wanted = read(&path).expect("read");
        let view = |spec: &str| {
            let json = format!(
                r#"{{"name": "x", "spec": {spec}, "version": 4, "ready": 0, "starting": 0, "pending": 0, "claimed": 0,
                    "queued": 0, "changed_by": "a", "changed_at": "2026-01-01T00:00:00Z",
                    "created_at": "2026-01-01T00:00:00Z"}}"#
            );
            serde_json::from_str::<PoolView>(&json).expect("a pool")
        };
        let name = |name: &str| PoolName::parse(name).expect("valid");
        let there = BTreeMap::from([
            (name("ci"), view(r#"{"min_ready": 1, "env": {"KEY": "old"}, "max": 5}"#)),
            (name("same"), view(r#"{"min_ready": 2}"#)),
            (name("other"), view(r#"{"min_ready": 9}"#)),
        ]);
        let plan = plan(&wanted, &there).expect("a plan");
        assert_eq!(plan.iter().map(|step| step.version).collect::<Vec<_>>(), [4, 4, 0]);
        let text: Vec<_> = plan.iter().flat_map(lines).collect();
        insta::assert_snapshot!(text.join("\n"), @r#"
        change pool ci
          env: … -> …
          kind: nothing -> "terminal"
          max: 5 -> nothing
          min_ready: 1 -> 3
          selector: nothing -> {"site":"cellar"}
        keep pool same
        make pool web
          min_ready = 1
        "#);
    }

    #[test]
    fn a_bad_file_is_named_with_its_fault() {
        for (text, word) in
            [("", "[pool.NAME]"), ("[pool.ci]\nmin_redy = 1\n", "min_redy"), ("[pool.\"a b\"]\n", "a b")]
        {
            let (_folder, path) = file(text);
            let error = read(&path).expect_err(text);
            assert_eq!(error.kind, Kind::Usage);
            assert!(error.why.as_deref().is_some_and(|why| why.contains(word)), "{error}");
        }
    }
}
