//! Agents that do not come up: the session is Failed, and says why in the agent's own words.

use helix_protocol::KindName;
use helix_protocol::session::{Desired, SessionPhase, SessionSpec};

use crate::harness::{Runner, spec};

/// A kind whose app runs this; `{{ agentd }}` and the like are filled in.
fn kind(command: &str) -> String {
    format!(
        "description = \"Does not come up\"\ncommand = {command}\ninput = \"optional\"\nreadiness = \"window\"\n\
         restart = \"on-failure\"\non_exit = \"end\"\n"
    )
}

fn of_kind(name: &str) -> SessionSpec {
    SessionSpec { kind: Some(KindName::parse(name).expect("valid kind")), ..spec() }
}

/// The bridge in its window, with this agent.
fn bridge(agent: &str) -> String {
    let window = r#""{{ agentd }}", "acp-bridge", "window", "xterm", "-e", "{{ agentd }}", "acp-bridge""#;
    kind(&format!("[{window}, \"--result\", \"\", \"--\", {agent}]"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_does_not_come_up_fails_its_session_with_its_last_lines() {
    let mut runner = Runner::start_with(|config| {
        let write = |name: &str, text: String| {
            std::fs::write(config.kinds_dir.join(format!("{name}.toml")), text).expect("written");
        };
        // It says itself that another start would change nothing.
        write("gives-up", kind(r#"["/bin/sh", "-c", "echo the licence is missing >&2; exit 78"]"#));
        write("dies", bridge(r#""/bin/sh", "-c", "echo the key is missing >&2; exit 3""#));
        write("missing", bridge(r#""no-such-agent""#));
    });
    for (name, lines) in [
        ("gives-up", &["the licence is missing"][..]),
        ("dies", &["ended at its start: exit status: 3", "the key is missing"]),
        ("missing", &["no-such-agent", "No such file"]),
    ] {
        runner.want(name, 1, Desired::Running, of_kind(name));
        let failed = runner.phase(name, SessionPhase::Failed).await;
        let cause = failed.cause.expect("a cause");
        assert_eq!(cause.unit.as_deref(), Some("app"), "{name}: {cause:?}");
        assert!(cause.message.contains("78"), "{name}: {cause:?}");
        for line in lines {
            assert!(cause.log_tail.iter().any(|told| told.contains(line)), "{name}: {cause:?}");
        }
        runner.assert_nothing_runs(name);
    }
}
