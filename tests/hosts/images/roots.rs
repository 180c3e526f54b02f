//! Two machines with different systems (Debian 12 and 13), two clones, two places, two caches: one image, bit for bit.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use helix_tests::{archive, programs};
use serde_json::Value;

use crate::harness::{Boot, Host, Suite, lab, say, start_all};

/// The builder's own program and those beside it; no host has it.
const MMDEBSTRAP: [&str; 3] = ["/usr/bin/mmdebstrap", "/usr/bin/mmtarfilter", "/usr/libexec/mmdebstrap"];
const RECIPE: &str = "name = \"tools\"\ndescription = \"x\"\npackages = [\"fontconfig\", \"less\"]\n\
    [from]\ndistribution = \"debian\"\nsuite = \"bookworm\"\nmirror = \"http://127.0.0.1:8000/debian\"\nkeyring = \"/srv/archive/keys.gpg\"\n\
    [[users]]\nname = \"builder\"\nuid = 1500\n\
    [[commands]]\nrun = \"cp $INPUTS/in.txt /opt/out; uname -n >>/opt/out; date >/var/log/when\"\ninputs = [\"in.txt\"]\n\
    [[files]]\npath = \"/etc/motd\"\ncontent = \"hello\\n\"\nowner = \"builder\"\n";

pub async fn two_root_systems_build_one_image() -> Result<()> {
    let dir = lab::dir().join("two-roots");
    let tar = dir.join("archive.tar");
    let (made, to) = (dir.clone(), tar.clone());
    tokio::task::spawn_blocking(move || {
        let archive = made.join("srv/archive");
        std::fs::create_dir_all(&archive)?;
        archive::make_here(&archive)?;
        let mut tar = Command::new("tar");
        tar.arg("-cf").arg(to).arg("--exclude=srv/archive/gpg").arg("-C").arg(&made).args(["srv", "-C", "/"]);
        ensure!(tar.args(MMDEBSTRAP.map(|path| path.trim_start_matches('/'))).status()?.success(), "tar");
        Ok(())
    })
    .await??;
    let [old, new] = start_all([Boot::container(), Boot::container().suite(Suite::Trixie)]).await?;
    let (first, second) = tokio::try_join!(built(&old, &tar, "/build/a"), built(&new, &tar, "/build/elsewhere/deep"))?;
    say(&format!(
        "on Debian 12: {} in {} ms; on Debian 13: {} in {} ms",
        first["digest"], first["took_ms"], second["digest"], second["took_ms"]
    ));
    ensure!(
        first["packed"]["tar"].is_string() && second["packed"]["tar"].is_string(),
        "not packed there: {first} {second}"
    );
    ensure!(first["packed"]["tar"] == second["packed"]["tar"], "tars differ:\n{first}\n{second}");
    ensure!(first["digest"] == second["digest"], "digests differ:\n{first}\n{second}");
    old.stop().await?;
    new.stop().await?;
    Ok(std::fs::remove_dir_all(dir)?)
}

/// A build from nothing, beside another one.
const BUILD: Duration = Duration::from_mins(4);
/// Serves the archive; returns once it listens.
const SERVE: &str = r#"systemd-run --quiet -p Type=notify -p NotifyAccess=all python3 -c '
import functools, http.server, os
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="/srv/archive")
it = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), handler)
os.system("systemd-notify --ready")
it.serve_forever()'"#;

/// What `helixctl image build` says there.
async fn built(host: &Host, archive: &Path, dir: &str) -> Result<Value> {
    host.put(archive, "/tmp/archive.tar", 0o644).await?;
    host.put(&programs::ours("helixctl")?, "/usr/local/bin/helixctl", 0o755).await?;
    // What containers write lies on an overlay, where layers cannot.
    let prepare = format!(
        "tar -C / -xf /tmp/archive.tar && rm /tmp/archive.tar && mkdir /build && mount -t tmpfs -o size=2G none /build && mkdir -p {dir} && {SERVE}"
    );
    host.run_ok(&prepare).await?;
    host.write(&format!("{dir}/tools.toml"), RECIPE, 0o644).await?;
    host.write(&format!("{dir}/in.txt"), "in\n", 0o644).await?;
    let build = format!(
        "cd {dir} && helixctl key new --out ./sign.key >&2 && \
         helixctl image build ./tools.toml --cache-dir {dir}/cache --key ./sign.key --json"
    );
    let said = host.run_within(&build, BUILD).await?;
    serde_json::from_str(said.lines().last().context("it says nothing")?).with_context(|| said.clone())
}
