//! Pure: whether an agent that is ready is what a session asks for. What cannot be changed any more once an agent runs
//! (its environment, its project, its limits) must be as asked already.

use helix_protocol::KindName;
use helix_protocol::api::CreateSession;
use helix_protocol::record::SessionRecord;
use helix_protocol::resources::{Network, OnLost};
use helix_protocol::session::ObservedSession;

/// An agent that is ready and nobody's, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Agent<'a> {
    /// Its record.
    pub record: &'a SessionRecord,
    /// What its runner reported.
    pub seen: &'a ObservedSession,
    /// Its runner's default kind.
    pub default_kind: Option<&'a KindName>,
    /// It takes prompts.
    pub takes_prompts: bool,
}

/// True where `asked`, whose image is a digest, is what the agent is. `named` says that the request names the pool: what it leaves open is the
/// pool's to say then; elsewhere it means what it always meant.
pub fn fits(asked: &CreateSession, named: bool, records: bool, agent: Agent<'_>) -> bool {
    let Agent { record, seen, default_kind, takes_prompts } = agent;
    let spec = &record.spec;
    // Whoever reads on: each field is here, so that a new one is not forgotten.
    let CreateSession {
        id,
        kind,
        project,
        project_path,
        input,
        geometry,
        display_server,
        image,
        pool: _,
        runner,
        labels: _,
        env,
        resources,
        reserve,
        network,
        on_lost,
        preemptible,
        recording,
        secrets,
        spec_task,
        // Of whoever takes it.
        idle_timeout: _,
        lifetime: _,
    } = asked;
    let kind = kind.as_ref().map_or(named || default_kind == Some(&seen.kind), |kind| *kind == seen.kind);
    let display = seen.display.as_ref().is_some_and(|display| geometry.is_none_or(|asked| asked == display.geometry));
    let runner = runner.as_ref().is_none_or(|runner| *runner == seen.runner);
    let input = input.as_deref().is_none_or(|input| input.trim().is_empty() || takes_prompts);
    let env = env.iter().all(|(name, value)| spec.env.get(name) == Some(value));
    let limits = resources.or(spec.resources) == spec.resources && reserve.or(spec.reserve) == spec.reserve;
    let network = network.map_or(named || spec.network.unwrap_or_default() == Network::default(), |asked| {
        asked == spec.network.unwrap_or_default()
    });
    let on_lost = on_lost.map_or(named || spec.on_lost.unwrap_or_default() == OnLost::default(), |asked| {
        asked == spec.on_lost.unwrap_or_default()
    });
    let preemptible = preemptible
        .map_or(named || !spec.preemptible.unwrap_or_default(), |asked| asked == spec.preemptible.unwrap_or_default());
    let recorded = recording.map_or(named || records == spec.recording.is_some(), |asked| {
        let asked = asked.options();
        let keep = asked.and_then(|options| options.keep);
        asked.is_some() == spec.recording.is_some()
            && (keep.is_none() || keep == spec.recording.and_then(|options| options.keep))
    });
    let image = image.as_ref().map_or(named || spec.image.is_none(), |asked| spec.image.as_ref() == Some(asked));
    let open = id.is_none() && project.is_none() && project_path.is_none() && secrets.is_empty() && spec_task.is_none();
    let server = display_server.is_none_or(|asked| asked == spec.display_server.unwrap_or_default());
    let lives = network && on_lost && preemptible && recorded;
    open && kind && display && runner && input && env && limits && lives && server && image
}

#[cfg(test)]
mod tests;
