//! A session's units as systemd and the kernel of its host see them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use helix_protocol::SessionId;
use helix_tests::eventually::eventually;

use crate::fleet::STATE_DIR;
use crate::harness::Host;

/// The services that a session of kind `command` has while it is Ready.
pub const OF_A_COMMAND: [&str; 5] = ["display", "wm", "forward", "guest", "app"];

/// [`Units::invocations`] of each of these sessions.
pub async fn invocations_of(host: &Host, sessions: &[&str]) -> Result<Vec<BTreeMap<String, String>>> {
    let mut all = Vec::new();
    for session in sessions {
        all.push(Units::of(host, session).invocations().await?);
    }
    Ok(all)
}

/// One session on one host.
#[derive(Clone, Copy)]
pub struct Units<'a> {
    host: &'a Host,
    session: &'a str,
}

impl<'a> Units<'a> {
    /// Of this session.
    pub const fn of(host: &'a Host, session: &'a str) -> Self {
        Self { host, session }
    }

    /// 16 hex digits.
    pub fn key(self) -> Result<String> {
        Ok(SessionId::parse(self.session)?.unit_key())
    }

    /// `helix-s<key>-<word>.service`.
    pub fn service(self, word: &str) -> Result<String> {
        Ok(format!("helix-s{}-{word}.service", self.key()?))
    }

    /// `helix-s<key>.slice`.
    pub fn slice(self) -> Result<String> {
        Ok(format!("helix-s{}.slice", self.key()?))
    }

    /// A property of one of its services.
    pub async fn property(self, word: &str, name: &str) -> Result<String> {
        self.host.run_ok(&format!("systemctl show --value -p {name} {}", self.service(word)?)).await
    }

    /// Main process of a service.
    pub async fn pid(self, word: &str) -> Result<u32> {
        let pid: u32 = self.property(word, "MainPID").await?.parse()?;
        ensure!(pid != 0, "{word} does not run");
        Ok(pid)
    }

    /// `InvocationID` of each of its services that is active: another one means another start.
    pub async fn invocations(self) -> Result<BTreeMap<String, String>> {
        let pattern = format!("helix-s{}-*.service", self.key()?);
        let text = self.host.run_ok(&format!("systemctl show -p Id,ActiveState,InvocationID '{pattern}'")).await?;
        let value = |block: &str, name: &str| {
            block.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
        };
        Ok(text
            .split("\n\n")
            .filter(|block| value(block, "ActiveState").as_deref() == Some("active"))
            .filter_map(|block| Some((value(block, "Id")?, value(block, "InvocationID")?)))
            .collect())
    }

    /// Name of the user that it runs as.
    pub async fn user(self) -> Result<String> {
        self.property("display", "User").await
    }

    /// Its control group, below the mount of the hierarchy.
    pub async fn cgroup(self) -> Result<String> {
        let group = self.host.run_ok(&format!("systemctl show --value -p ControlGroup {}", self.slice()?)).await?;
        ensure!(!group.is_empty(), "the slice has no control group");
        Ok(group)
    }

    /// A file of its control group (v2).
    pub async fn control(self, file: &str) -> Result<String> {
        self.host.run_ok(&format!("cat /sys/fs/cgroup{}/{file}", self.cgroup().await?)).await
    }

    /// A number in a file of lines `name number` (v2).
    pub async fn counter(self, file: &str, name: &str) -> Result<u64> {
        let text = self.control(file).await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.with_context(|| format!("no {name} in {text}"))?.parse().context("a number")
    }

    /// Waits until nothing of it is left on the host: units, processes of its user, files, mounts.
    pub async fn gone(self, user: &str, within: Duration) -> Result<()> {
        let key = self.key()?;
        let look = format!(
            "systemctl list-units --all --plain --no-legend 'helix-s{key}*'; \
             ps -o pid=,args= -u {user}; ls -d {STATE_DIR}/s/{key} {STATE_DIR}/s/{key}.new 2>/dev/null; \
             grep {key} /proc/mounts; find /sys/fs/cgroup -name 'helix-s{key}*' -type d; true"
        );
        eventually(&format!("nothing is left of {}", self.session), within, || async {
            let left = self.host.run_ok(&look).await?;
            ensure!(left.is_empty(), "left:\n{left}");
            Ok(())
        })
        .await
    }
}
