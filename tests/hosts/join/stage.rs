//! A server, and a host on which somebody types.

use anyhow::{Context, Result, ensure};
use helix_protocol::api::RunnerView;
use helix_protocol::runner::Liveness;
use helix_tests::cluster::READY;
use helix_tests::eventually::{eventually, secs};
use helix_tests::process::run;
use helix_tests::programs;

use crate::fleet::{self, Fleet};
use crate::harness::{Boot, Host, lab};

/// A server, and a host with Helix installed that belongs to no fleet.
pub struct Stage {
    pub fleet: Fleet,
    pub host: Host,
    pub server: String,
    /// What the documents' reader exports.
    pub exports: String,
}

impl Stage {
    pub async fn start(boot: Boot) -> Result<Self> {
        let (fleet, host) = tokio::try_join!(Fleet::start(), boot.start())?;
        fleet::install(&host).await?;
        host.run_ok("mkdir -p scripts && cp /usr/share/helix/scripts/run-external-zed-agent.sh scripts/").await?;
        let port = fleet.cluster.servers.first().context("no server")?.port();
        let server = format!("http://{}:{port}", lab::SERVER);
        let exports = format!("export NATS_URL=nats://{}:{}", lab::SERVER, fleet.cluster.nats.port());
        Ok(Self { fleet, host, server, exports })
    }

    /// What somebody types on the host.
    pub async fn types(&self, line: &str) -> Result<String> {
        self.host.run_ok(&format!("{}; {line}", self.exports)).await
    }

    /// The same of a line that is refused: exit code, and what it says.
    pub async fn refused(&self, line: &str) -> Result<(i32, String)> {
        let said = self.host.run(&format!("{}; {line}", self.exports)).await?;
        ensure!(said.code != 0, "{line}: {said:?}");
        Ok((said.code, said.stderr))
    }

    /// helixctl where the operator is.
    pub async fn operator(&self, args: &[&str]) -> Result<String> {
        let api = self.fleet.api()?;
        let env = [("HELIX_TOKEN".to_owned(), api.token().to_owned()), ("HOME".to_owned(), "/nonexistent".to_owned())];
        let args = [&["--url", api.base()], args].concat();
        let output = run(&programs::ours("helixctl")?, &args, &env, READY).await?;
        ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// A token for any number of runners.
    pub async fn reusable(&self) -> Result<String> {
        self.operator(&["token", "create", "--runner", "--reusable"]).await
    }

    pub async fn runner(&self, id: &str) -> Result<RunnerView> {
        self.fleet.api()?.get(&format!("/api/v1/runners/{id}")).await?.json()
    }

    pub async fn is_online(&self, id: &str) -> Result<()> {
        let view = self.runner(id).await?;
        ensure!(view.liveness == Liveness::Online && view.facts.is_some(), "the join said so: {view:?}");
        Ok(())
    }

    pub async fn stop(self) -> Result<()> {
        self.host.stop().await?;
        self.fleet.stop().await
    }
}

/// systemd forgets a unit that is gone in its own time, a moment.
pub async fn nothing_is_left(host: &Host, bare: &str) -> Result<()> {
    eventually("nothing is left", secs(5), || async {
        let left = traces(host).await?;
        ensure!(left == bare, "left:\n{left}\nbefore:\n{bare}");
        Ok(())
    })
    .await
}

/// A line that fetches a page; hosts have no curl.
pub fn get(server: &str, port: u16, path: &str) -> String {
    format!(
        "bash -c 'exec 3<>/dev/tcp/{server}/{port} && printf \"GET {path} HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n\" >&3 \
         && tail -n 1 <&3'"
    )
}

/// All that a join could leave.
pub async fn traces(host: &Host) -> Result<String> {
    let look = "find /etc /var/lib /run /tmp /srv -xdev \\( -path /run/systemd -o -path /srv/inbox \\) -prune -o \
                \\( -name '*helix*' -o -name '*agentd*' -o -path '*helix*' \\) ! -name join.lock -print | sort; \
                systemctl list-units --all --plain --no-legend 'agentd@*' 'agentd-hold@*' 'helix-s*'; \
                pgrep -a agentd; true";
    host.run_ok(look).await
}
