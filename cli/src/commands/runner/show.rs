//! `helixctl runner show`.

use helix_protocol::RunnerId;
use helix_protocol::api::RunnerView;
use helix_protocol::runner::{ImagePull, LackingImage};

use super::list::{kinds, label_list, status_word};
use crate::client::Client;
use crate::commands::reap::until;
use crate::commands::session::{self, limits};
use crate::error::Result;
use crate::ui::Ui;

/// What keeps a runner from taking images that could run them.
const NO_KEY: &str = "images: it trusts no key for them; helixctl provision pins yours";

/// Shows one runner.
pub async fn run(client: &Client, id: &RunnerId, ui: &Ui) -> Result<()> {
    let runner = client.runner(id).await?;
    ui.answer(&runner, || show(ui, &runner))
}

/// An image on its way, and how far it is.
pub fn far(pull: &ImagePull) -> String {
    let ImagePull { digest, bytes, total } = pull;
    match total {
        0 => digest.to_string(),
        total => format!("{digest} {} %", bytes * 100 / total),
    }
}

/// An image of a pool that is not here, and why.
pub fn lack(LackingImage { digest, reason }: &LackingImage) -> String {
    format!("{digest}: {reason}")
}

fn show(ui: &Ui, runner: &RunnerView) -> Result<()> {
    let mut rows = vec![
        ("runner", runner.id.to_string()),
        ("status", status_word(runner)),
        ("slots used", format!("{} of {}", runner.active_tasks, runner.slots)),
        ("enrolled", runner.enrolled_at.to_string()),
        ("token since", runner.token_since.map_or_else(|| "unknown".to_owned(), |since| since.to_string())),
        ("heard", runner.last_seen_at.map_or_else(|| "never".to_owned(), |seen| seen.to_string())),
    ];
    rows.extend(runner.degraded.iter().map(|degraded| ("takes nothing new", degraded.detail.clone())));
    rows.extend(runner.unsteady_until.map(|until| ("unsteady until", until.to_string())));
    if let Some(facts) = &runner.facts {
        rows.extend([
            ("host", facts.hostname.clone()),
            ("version", facts.version.clone()),
            ("kinds", kinds(facts)),
            ("default kind", facts.default_kind.to_string()),
            ("geometry", facts.default_geometry.to_string()),
            ("backend", facts.backend.clone()),
            ("isolation", facts.isolation.clone()),
            ("limits", facts.limits.clone()),
            ("enforced", limits::names(&facts.enforced)),
            ("most per session", limits::amounts(&facts.max_resources)),
            ("reservable", limits::reserved(&facts.reservable)),
            ("memory", format!("{} MiB", facts.memory_bytes / (1 << 20))),
            ("processors", facts.cpus.to_string()),
        ]);
        for reason in &facts.missing {
            rows.push(("not enforced", reason.clone()));
        }
        for (kind, reserve) in &facts.kind_reserve {
            rows.push(("reserved", format!("{kind}: {}", limits::reserved(reserve))));
        }
        for (kind, reason) in &facts.unavailable_kinds {
            rows.push(("unavailable", format!("{kind}: {reason}")));
        }
        if let Some(reason) = &facts.no_rdp {
            rows.push(("unavailable", format!("RDP: {reason}")));
        }
    }
    if let Some(facts) = &runner.facts {
        match &facts.no_images {
            Some(reason) => rows.push(("unavailable", format!("images: {reason}"))),
            None if facts.image_keys.is_empty() => rows.push(("unavailable", NO_KEY.to_owned())),
            None => rows.extend(facts.image_keys.iter().map(|key| ("images of key", key.clone()))),
        }
    }
    rows.extend(runner.images.present.iter().map(|image| ("image", image.to_string())));
    rows.extend(runner.images.pulls.iter().map(|pull| ("fetches image", far(pull))));
    rows.extend(runner.images.lacking.iter().map(|lacking| ("lacks image", lack(lacking))));
    rows.extend(
        runner
            .leftovers
            .kept
            .iter()
            .map(|kept| ("keeps", format!("{} since {}, {}", kept.path, kept.since, until(kept.until)))),
    );
    rows.extend(label_list(runner).into_iter().map(|label| ("label", label)));
    session::facts(ui, &rows)
}
