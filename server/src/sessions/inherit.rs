//! Pure: what a session that is asked for in a pool has of it. Its own word goes first.

use std::collections::BTreeMap;

use helix_protocol::pool::PoolSpec;
use helix_protocol::recording::RecordingChoice;
use helix_protocol::session::SessionSpec;

/// Fills in what a request leaves open; `says_nothing` of a recording becomes false where the pool says something.
pub fn spec(own: &mut SessionSpec, says_nothing: &mut bool, pool: &PoolSpec) {
    own.kind = own.kind.take().or_else(|| pool.kind.clone());
    own.geometry = own.geometry.or(pool.geometry);
    own.display_server = own.display_server.or(pool.display_server);
    own.image = own.image.take().or_else(|| pool.image.clone());
    for (name, value) in &pool.env {
        own.env.entry(name.clone()).or_insert_with(|| value.clone());
    }
    own.resources = own.resources.or(pool.resources);
    own.reserve = own.reserve.or(pool.reserve);
    own.network = own.network.or(pool.network);
    own.on_lost = own.on_lost.or(pool.on_lost);
    own.preemptible = own.preemptible.or(pool.preemptible);
    own.direct = own.direct.or(pool.direct);
    own.idle_timeout = own.idle_timeout.or(pool.idle_timeout);
    own.lifetime = own.lifetime.or(pool.lifetime);
    if let Some(choice) = pool.recording.filter(|_| *says_nothing) {
        *says_nothing = false;
        own.recording = RecordingChoice::options(choice);
    }
}

/// The pool's labels beside the own ones.
pub fn labels(own: &mut BTreeMap<String, String>, pool: &PoolSpec) {
    for (name, value) in &pool.labels {
        own.entry(name.clone()).or_insert_with(|| value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_of_its_pool_what_it_does_not_say_itself() {
        let pool: PoolSpec = serde_json::from_str(
            r#"{"kind": "terminal", "geometry": "800x600", "env": {"A": "pool", "B": "pool"}, "labels": {"team": "web"},
                "resources": {"memory": "1GiB", "cpu": 1}, "network": "none", "on_lost": "restart",
                "recording": {"keep": "7d"}, "direct": false}"#,
        )
        .expect("a pool");
        let mut own: SessionSpec =
            serde_json::from_str(r#"{"env": {"A": "own"}, "resources": {"cpu": 2}, "network": "host"}"#)
                .expect("a spec");
        let mut says_nothing = true;
        spec(&mut own, &mut says_nothing, &pool);
        insta::assert_json_snapshot!(own, @r#"
        {
          "kind": "terminal",
          "geometry": "800x600",
          "env": {
            "A": "own",
            "B": "pool"
          },
          "resources": {
            "cpu": 2.0,
            "memory": 1073741824
          },
          "network": "host",
          "on_lost": "restart",
          "recording": {
            "keep": "7d"
          },
          "direct": false
        }
        "#);
        assert!(!says_nothing);
        let mut unrecorded = SessionSpec::default();
        spec(&mut unrecorded, &mut false, &pool);
        assert_eq!(unrecorded.recording, None, "it asked not to be");
        let mut labels_of = BTreeMap::from([("team".to_owned(), "own".to_owned())]);
        labels(&mut labels_of, &pool);
        assert_eq!(labels_of["team"], "own");
    }
}
