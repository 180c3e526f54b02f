//! NATS has no room: by its own bound, which it tells whoever stores, and on its disk, where it falls silent.

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use helix_tests::eventually::{eventually, secs};
use helix_tests::{programs, repository};
use serde_json::json;

use super::doctor::Look;
use super::stage::Stage;
use crate::harness::Boot;

/// `max_file_store` is reached: what is refused says so, doctor does, and all is well when there is room again.
pub async fn doctor_tells_that_nats_is_full() -> Result<()> {
    let mut stage = Stage::start([Boot::container()]).await?;
    let cluster = &mut stage.fleet.cluster;
    for file in [cluster.dir().join("nats.toml"), cluster.servers[0].settings().into()] {
        let text = std::fs::read_to_string(&file)?;
        std::fs::write(&file, text.replacen("[nats]\n", "[nats]\nmax_file_store = \"64MiB\"\n", 1))?;
    }
    // Streams with a bound of their own have their share from the beginning: everything begins anew.
    cluster.servers[0].terminate().await?;
    cluster.nats.empty().await?;
    cluster.servers[0].start().await?;
    let api = stage.fleet.api()?;
    let stores = async || api.put("/api/v1/secrets/BALLAST", &json!({ "value": "x" })).await;
    let well = || async {
        let answer = stores().await?;
        ensure!(answer.status.is_success(), "{} {}", answer.status, answer.text);
        Ok(())
    };
    eventually("the server stores", secs(30), well).await?;
    let before = Look::at(&stage, &[], "root").await?;
    ensure!(!before.wrong().contains("NATS"), "{}", before.wrong());

    let bus = jetstream::new(stage.fleet.cluster.bus().await?);
    let config = jetstream::stream::Config { name: "BALLAST".to_owned(), ..Default::default() };
    bus.create_stream(config).await?;
    let mebibyte = bytes::Bytes::from(vec![0; 1 << 20]);
    let mut filled = 0;
    while bus.publish("BALLAST", mebibyte.clone()).await?.await.is_ok() {
        filled += 1;
        ensure!(filled < 100, "it has no bound");
    }
    let refused = stores().await?;
    ensure!(refused.status == 503 && refused.text.contains("max_file_store is full"), "{}", refused.text);
    let look = Look::at(&stage, &[], "root").await?;
    ensure!(look.code == 1, "{}: {}", look.code, look.wrong());
    look.says("fail", "nats", "NATS refuses to store")?;

    bus.delete_stream("BALLAST").await?;
    eventually("the server stores again", secs(30), well).await?;
    let after = Look::at(&stage, &[], "root").await?;
    ensure!(after.wrong() == before.wrong(), "{}", after.wrong());
    stage.stop().await
}

/// Makes a stream, and stores a message of so many bytes in it; NATS has taken it when this ends.
const STORE: &str = r#"python3 - <<'END'
import json, socket
it = socket.create_connection(("127.0.0.1", 4222))
said = it.makefile("rb")
def publish(subject, data):
    it.sendall(b"PUB %s %d\r\n%s\r\n" % (subject, len(data), data))
it.sendall(b'CONNECT {"verbose": false}\r\n')
publish(b"$JS.API.STREAM.CREATE.S", json.dumps({"name": "S", "subjects": ["s"], "storage": "file"}).encode())
publish(b"s", b"x" * 100000)
it.sendall(b"PING\r\n")
while said.readline() != b"PONG\r\n":
    pass
END"#;

/// The disk of a machine that NATS runs on, as the package has it, is full.
pub async fn doctor_tells_that_the_disk_of_nats_is_full() -> Result<()> {
    let stage = Stage::start([Boot::container()]).await?;
    let host = &stage.hosts[0];
    let systemd = repository().join("systemd");
    host.install(&[
        (&programs::nats_server()?, "/usr/local/bin/nats-server", 0o755),
        (&systemd.join("helix-nats.service"), "/usr/lib/systemd/system/helix-nats.service", 0o644),
        (&systemd.join("sysusers.d/helix-nats.conf"), "/usr/lib/sysusers.d/helix-nats.conf", 0o644),
    ])
    .await?;
    let conf = "listen: \"127.0.0.1:4222\"\njetstream { store_dir: /var/lib/helix/nats, max_file_store: 100MB }\n";
    host.write("/etc/helix/nats.conf", conf, 0o644).await?;
    host.run_ok(
        "systemd-sysusers helix-nats.conf && mkdir -p /var/lib/helix/nats && \
         mount -t tmpfs -o size=8m,mode=700 nats /var/lib/helix/nats && chown helix-nats: /var/lib/helix/nats && \
         systemctl daemon-reload && systemctl start helix-nats",
    )
    .await?;
    eventually("NATS takes a message", secs(20), || host.run_ok(STORE)).await?;
    let before = Look::at(&stage, &[], "root").await?;
    ensure!(!before.wrong().contains("nats"), "{}", before.wrong());

    let fills = "dd if=/dev/zero of=/var/lib/helix/nats/ballast bs=4k 2>/dev/null; test -s /var/lib/helix/nats/ballast";
    host.run_ok(fills).await?;
    host.run_ok(STORE).await?;
    eventually("doctor tells", secs(20), || async {
        let look = Look::at(&stage, &[], "root").await?;
        look.says("fail", "nats", "could not write: its disk was full")?;
        ensure!(look.wrong().contains("systemctl restart helix-nats"), "{}", look.wrong());
        Ok(())
    })
    .await?;
    // As it says.
    host.run_ok("rm /var/lib/helix/nats/ballast && systemctl restart helix-nats").await?;
    eventually("NATS takes a message", secs(20), || host.run_ok(STORE)).await?;
    let after = Look::at(&stage, &[], "root").await.context("after it")?;
    ensure!(after.wrong() == before.wrong(), "{}", after.wrong());
    stage.stop().await
}
