//! The guest: nats-server and helix-server as services, on its loopback as anywhere without TLS; systemd's socket proxy
//! carries clients to it from the bridge.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use helix_tests::Api;
use helix_tests::eventually::{eventually, secs};
use helix_tests::programs;
use helix_tests::random::secret_hex;
use helix_tests::server::{Secrets, Times, config};

use crate::harness::{Boot, Host, lab};

const PORT: u16 = 8080;
/// What clients connect to.
const OUTSIDE: u16 = 8081;
/// Files of its services.
const UNITS: [(&str, &str); 4] = [
    (
        "nats.service",
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=/usr/local/bin/nats-server -c /etc/helix/nats.conf\n\
         Restart=always\nLimitNOFILE=65536\n[Install]\nWantedBy=multi-user.target\n",
    ),
    (
        "helix-server.service",
        "[Unit]\nAfter=nats.service\nStartLimitIntervalSec=0\n\
         [Service]\nExecStart=/usr/local/bin/helix-server --config /etc/helix/server.toml\n\
         Restart=always\nRestartSec=1\n[Install]\nWantedBy=multi-user.target\n",
    ),
    ("outside.socket", "[Socket]\nListenStream=8081\n[Install]\nWantedBy=sockets.target\n"),
    (
        "outside.service",
        "[Service]\nExecStart=/lib/systemd/systemd-socket-proxyd --connections-max=1024 127.0.0.1:8080\n",
    ),
];

/// A machine whose power can be cut.
pub struct Machine {
    /// The admin's client.
    pub api: Api,
    host: Host,
}

impl Machine {
    /// Boots it and installs everything, which is on its disk then.
    pub async fn start() -> Result<Self> {
        let host = Boot::guest().start().await?;
        let admin = secret_hex(32)?;
        let at = |name: &str| PathBuf::from(format!("/etc/helix/{name}"));
        let secrets = Secrets {
            key: at("server.key"),
            admin: at("admin.token"),
            enrolment: at("runner.token"),
            nats: at("nats.password"),
            observer: at("observer.password"),
        };
        let settings = config(&secrets, PORT, "url = \"nats://127.0.0.1:4222\"\n", &Times::default(), None);
        host.write("/etc/helix/server.toml", &settings, 0o600).await?;
        // 32 bytes, and letters are bytes.
        for (name, secret) in [
            ("server.key", secret_hex(16)?),
            ("admin.token", admin.clone()),
            ("runner.token", secret_hex(32)?),
            ("nats.password", secret_hex(16)?),
            ("observer.password", secret_hex(16)?),
        ] {
            host.write(&format!("/etc/helix/{name}"), &secret, 0o600).await?;
        }
        for (name, text) in UNITS {
            host.write(&format!("/etc/systemd/system/{name}"), text, 0o644).await?;
        }
        let server = stripped(&programs::ours("helix-server")?, &host)?;
        let nats = programs::nats_server()?;
        host.install(&[(&server, "/usr/local/bin/helix-server", 0o755), (&nats, "/usr/local/bin/nats-server", 0o755)])
            .await?;
        host.run_ok(
            "mkdir -p /var/lib/nats && helix-server nats-config --config /etc/helix/server.toml \
             --store-dir /var/lib/nats --port 4222 >/etc/helix/nats.conf && systemctl daemon-reload && \
             systemctl enable -q --now nats.service helix-server.service outside.socket && sync",
        )
        .await?;
        let api = Api::new(&format!("http://{}:{OUTSIDE}", IpAddr::V4(host.address)), &admin)?;
        Ok(Self { api, host })
    }

    /// Waits until it reads and writes.
    pub async fn serves(&self) -> Result<()> {
        let served = eventually("the server serves", secs(180), || async {
            let answer = self.api.get("/readyz").await?;
            ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
            self.api.get("/api/v1/sessions?limit=1").await?.expect(200).map(drop)
        })
        .await;
        match served {
            Ok(()) => Ok(()),
            Err(fault) => Err(fault).context(self.journal().await.unwrap_or_default()),
        }
    }

    /// Its power is gone.
    pub async fn cut(&mut self) -> Result<()> {
        self.host.kill().await
    }

    /// It is there again.
    pub async fn boot(&mut self) -> Result<()> {
        self.host.boot().await
    }

    /// What its services said since the last boot.
    pub async fn journal(&self) -> Result<String> {
        self.host.run_ok("journalctl -b -o short-precise -u nats -u helix-server | tail -n 400").await
    }

    /// Its end.
    pub async fn stop(self) -> Result<()> {
        self.host.stop().await
    }
}

/// Without what only a debugger reads: a guest reads and writes slowly.
fn stripped(program: &Path, host: &Host) -> Result<PathBuf> {
    let small = lab::dir().join(format!("{}-helix-server", host.name));
    let status = std::process::Command::new("strip").arg("-o").arg(&small).arg(program).status().context("strip")?;
    ensure!(status.success(), "strip {}", program.display());
    Ok(small)
}
