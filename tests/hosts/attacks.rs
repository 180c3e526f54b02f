//! Cross-session attacks: what one session tries against another, against agentd and against the machine.
//!
//! One container host, agentd as a service, a session that is the victim and one that attacks, and such a pair with
//! `network = none`. Every attack of the [`table`] runs twice, each time on a victim with a fresh secret:
//!
//! 1. the *control*: in a [`replica`] of the attacker's own unit without the protection concerned. It has to succeed,
//!    else the attack proves nothing;
//! 2. the real thing: in the attacker's agent itself, and in a replica of its workspace unit with nothing changed. It
//!    has to fail.
//!
//! [`races`] has the attacks on what agentd does with a session's files, [`bus`] those on NATS. The programs of the
//! attacks are Python scripts in `attacks/`, one per class; an attacker knows everything but the secret.

mod bus;
mod races;
mod replica;
mod stage;
mod table;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use self::replica::{Settings, filled};
use self::stage::{Outcome, Stage, Victim};
use self::table::{ATTACKS, Attack, Pair, Proof};
use crate::harness::{Case, say};

/// What every attack answers when no way led anywhere; anything else is a fault of the attack.
const FAILED: i32 = 3;

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![
        Case::always("attacks::no_session_reaches_another", no_session_reaches_another),
        Case::always("attacks::agentd_follows_no_session", races::agentd_follows_no_session),
        Case::always("attacks::no_session_starves_the_machine", races::no_session_starves_the_machine),
        Case::always("attacks::no_runner_speaks_for_another", bus::no_runner_speaks_for_another),
    ]
}

/// What came of one attack.
struct Line {
    attack: &'static Attack,
    control: Result<bool>,
    protected: Result<bool>,
}

async fn no_session_reaches_another() -> Result<()> {
    let stage = Stage::set().await?;
    let started = Instant::now();
    let only = std::env::var("HELIX_TEST_ATTACK").unwrap_or_default();
    let mut lines = Vec::new();
    for attack in ATTACKS.iter().filter(|attack| attack.name.contains(&only)) {
        let control = control(&stage, attack).await;
        let protected = protected(&stage, attack).await;
        lines.push(Line { attack, control, protected });
    }
    let (table, faults) = told(&lines);
    say(&format!("{} attacks in {:?}\n{table}", lines.len(), started.elapsed()));
    ensure!(faults.is_empty(), "{faults}");
    stage.nothing_was_forged().await?;
    stage.close().await
}

/// The table for people, and what is wrong with it.
fn told(lines: &[Line]) -> (String, String) {
    let (mut table, mut faults) = (String::new(), String::new());
    let word = |outcome: &Result<bool>| match outcome {
        Ok(true) => "succeeds",
        Ok(false) => "fails",
        Err(_) => "error",
    };
    for Line { attack, control, protected } in lines {
        let Attack { class, name, .. } = attack;
        let _ = writeln!(table, "  {class:10} {name:24} control {:9} protected {}", word(control), word(protected));
        for (run, outcome) in [("control", control), ("protected", protected)] {
            if let Err(fault) = outcome {
                let _ = writeln!(faults, "{name}: {run}: {fault:#}");
            }
        }
        if matches!(control, Ok(false)) {
            let _ = writeln!(faults, "the control of {name} did not succeed, so {name} proves nothing");
        }
        if matches!(protected, Ok(true)) {
            let _ = writeln!(faults, "{name} SUCCEEDED against a protected session");
        }
    }
    (table, faults)
}

/// Without the protection; true if it succeeded.
async fn control(stage: &Stage, attack: &Attack) -> Result<bool> {
    let victim = match attack.victim {
        [] => stage.victim(attack.pair).await?,
        edits => stage.exposed_victim(attack.pair, edits).await?,
    };
    let succeeded = control_on(stage, attack, &victim).await;
    stage.clear(victim).await?;
    succeeded
}

async fn control_on(stage: &Stage, attack: &Attack, victim: &Victim) -> Result<bool> {
    let pair = stage.pair(attack.pair);
    ensure!(victim.has(attack.needs), "the victim has no {}: {}", attack.needs, victim.said);
    let known = stage.knowledge(attack.pair, victim).await?;
    let settings = Settings::of(&stage.host, &pair.attacker.unit("app")).await?;
    let victims = Settings::of(&stage.host, &pair.victim.unit("app")).await?;
    let edited = settings.edited(attack.attacker, &victims, &known)?;
    let line = edited.command("--wait --pipe", &known, attack.script);
    let outcome = Outcome::from(stage.host.run(&line).await?);
    let succeeded = judge(stage, attack, victim, &known, &outcome).await?;
    if !succeeded {
        say(&format!("control of {}: {outcome:?}\n{line}", attack.name));
    }
    Ok(succeeded)
}

/// Against a real session: from the agent, then from where git works.
async fn protected(stage: &Stage, attack: &Attack) -> Result<bool> {
    let victim = stage.victim(attack.pair).await?;
    let succeeded = protected_on(stage, attack, &victim).await;
    stage.clear(victim).await?;
    succeeded
}

async fn protected_on(stage: &Stage, attack: &Attack, victim: &Victim) -> Result<bool> {
    let pair = stage.pair(attack.pair);
    // A keyring cannot even be used here.
    let expected = attack.needs == "keyring" || victim.has(attack.needs);
    ensure!(expected, "the victim has no {}: {}", attack.needs, victim.said);
    let known = stage.knowledge(attack.pair, victim).await?;
    let from_agent = pair.attacker.run(&stage.host, attack.script, &known).await?;
    let mut succeeded = judge(stage, attack, victim, &known, &from_agent).await?;
    if let Pair::Host = attack.pair
        && attack.class != "limits"
    {
        let settings = Settings::of(&stage.host, &pair.attacker.unit("workspace")).await?;
        let line = settings.command("--wait --pipe", &known, attack.script);
        let from_git = Outcome::from(stage.host.run(&line).await?);
        succeeded |= judge(stage, attack, victim, &known, &from_git).await.context("from the workspace unit")?;
    }
    Ok(succeeded)
}

/// True if the attack got what it wanted.
async fn judge(
    stage: &Stage,
    attack: &Attack,
    victim: &Victim,
    known: &BTreeMap<String, String>,
    outcome: &Outcome,
) -> Result<bool> {
    ensure!(matches!(outcome.code, 0 | FAILED), "it did not run: {outcome:?}");
    match attack.proof {
        Proof::Done => Ok(outcome.code == 0),
        Proof::Finds(secret) => {
            let wanted = stage.secret(secret, attack.pair, victim)?;
            ensure!(!wanted.is_empty(), "there is no secret {secret}");
            // Also where the attack itself took it for a failure.
            Ok(outcome.out.contains(&wanted) || outcome.err.contains(&wanted))
        }
        Proof::Host(check) => {
            let check = filled(check, known)?;
            Ok(stage.host.run(&check).await?.code == 0)
        }
    }
}
