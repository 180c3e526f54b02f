//! The control plane of one machine, as docs/nats.md and the header of server.toml.example make it: our units, a nats-server
//! that they find, and a backup.

use anyhow::{Result, ensure};
use helix_tests::programs;

use crate::fleet;
use crate::harness::Boot;

/// What an operator types, as root.
const MADE: &str = "set -e
    install -d -m 700 -o helix-server -g helix-server /etc/helix/secrets
    cd /etc/helix/secrets
    umask 077
    helixctl key new server --out server.key --quiet >/dev/null
    for name in admin.token enrolment.token nats.password observer.password; do
      head -c 32 /dev/urandom | base64 >$name
    done
    chown helix-server: *
    install -m 644 /usr/share/doc/helix/server.toml.example /etc/helix/server.toml
    helix-server nats-config --config /etc/helix/server.toml --store-dir /var/lib/helix/nats --out /etc/helix/nats.conf
    chown helix-nats: /etc/helix/nats.conf
    systemctl start helix-nats helix-server";

/// helixctl as the admin.
const ADMIN: &str = "helixctl --url http://127.0.0.1:8080 --token-file /etc/helix/secrets/admin.token";

/// From nothing to a server on its own NATS, whose store is then lost and comes back.
pub async fn a_control_plane_is_backed_up() -> Result<()> {
    let host = Boot::container().start().await?;
    fleet::install(&host).await?;
    host.put(&programs::nats_server()?, "/usr/local/bin/nats-server", 0o755).await?;
    host.run_ok(MADE).await?;
    let mode = host.run_ok("stat -c '%a %U' /etc/helix/nats.conf /var/lib/helix/nats").await?;
    ensure!(mode == "600 helix-nats\n700 helix-nats", "{mode}");
    let user = host.run_ok("ps -o user= -p $(systemctl show --value -p MainPID helix-nats)").await?;
    ensure!(user.trim() == "helix-nats", "{user}");
    host.run_ok(&format!("printf value | {ADMIN} secret set KEPT")).await?;
    host.run_ok("helixctl backup /root/fleet.backup").await?;
    // Its disk is lost, and everything on it.
    host.run_ok("systemctl stop helix-server helix-nats && rm -rf /var/lib/helix/nats/*").await?;
    host.run_ok("systemctl start helix-nats && helixctl restore /root/fleet.backup && systemctl start helix-server")
        .await?;
    let kept = host.run_ok(&format!("{ADMIN} secret list")).await?;
    ensure!(kept.contains("KEPT"), "{kept}");
    // Passwords and certificates are taken over without a restart.
    let before = host.run_ok("systemctl show --value -p MainPID helix-nats").await?;
    host.run_ok("systemctl reload helix-nats").await?;
    ensure!(host.run_ok("systemctl show --value -p MainPID helix-nats").await? == before, "it was started anew");
    host.stop().await
}
