//! A fleet of one runner that trusts a key, and images that are signed with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use helix_protocol::image::{BIND_TARGETS, Digest, FORMAT, ImageManifest, SIGNATURE_NAMESPACE, SignedManifest};
use helix_protocol::subject;
use helix_tests::programs;
use helixctl::images::pack::pack;
use helixctl::images::store::Store;
use serde_json::Value;

use super::shipped;
use crate::fleet::{Fleet, RunnerSettings};
use crate::harness::{Boot, Host, Suite, lab};

/// Whom a host trusts.
pub const SIGNERS: &str = "/etc/helix/allowed_signers";
/// Complete images of a host.
pub const ROOTS: &str = "/var/lib/helix/agentd/images/roots";
/// What no image of these tests needs, of what hosts have.
const LEFT_OUT: &[&str] = &[
    "./boot",
    "./dev/*",
    "./home/*",
    "./usr/lib/git-core",
    "./usr/lib/modules",
    "./usr/lib/python3*",
    "./usr/lib/systemd",
    "./usr/lib/udev",
    "./usr/lib/x86_64-linux-gnu/dri",
    "./usr/lib/x86_64-linux-gnu/libLLVM*",
    "./usr/lib/x86_64-linux-gnu/libgs.so*",
    "./usr/lib/x86_64-linux-gnu/libx265*",
    "./usr/lib/x86_64-linux-gnu/libz3*",
    "./usr/lib/x86_64-linux-gnu/perl",
    "./usr/share/ghostscript",
    "./usr/share/mime",
    "./usr/share/perl",
    "./usr/share/poppler",
    "./usr/share/tcltk",
    "./var/cache/*",
    "./var/lib/apt/*",
];
/// Seconds since 1970 that every file is clamped to.
const DATE: u64 = 1_700_000_000;

pub struct Stage {
    pub fleet: Fleet,
    pub host: Host,
    suite: Suite,
    dir: PathBuf,
}

impl Stage {
    pub async fn start(suite: Suite, more: &'static str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let dir = lab::dir().join(format!("images-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&dir)?;
        for name in ["key", "stranger"] {
            let file = dir.join(name);
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(file))?;
        }
        let (fleet, host) = tokio::try_join!(Fleet::start(), Boot::container().suite(suite).start())?;
        let stage = Self { fleet, host, suite, dir };
        stage.host.write(SIGNERS, &stage.signers("key")?, 0o644).await?;
        stage.fleet.join(&stage.host, &RunnerSettings { slots: 12, more, ..RunnerSettings::default() }).await?;
        Ok(stage)
    }

    /// An image with a tool that says this word, tagged here.
    pub async fn build(&self, name: &str, word: &str) -> Result<Digest> {
        self.build_for(helix_protocol::image::own_arch(), name, word).await
    }

    /// The same for other machines, as it says.
    pub async fn build_for(&self, arch: &str, name: &str, word: &str) -> Result<Digest> {
        let (dir, from) = (self.dir.clone(), self.suite.root(false)?.tree());
        let (arch, name, word) = (arch.to_owned(), name.to_owned(), word.to_owned());
        tokio::task::spawn_blocking(move || built(&dir, &from, &arch, &name, &word)).await?
    }

    /// Pushes an image of a recipe that ships with the project, to a host that trusts who built it.
    pub async fn push_shipped(&self, name: &str) -> Result<Value> {
        let built = shipped::place()?;
        self.host.write(SIGNERS, &signer(&built.join("key.pub"))?, 0o644).await?;
        self.host.run_ok("systemctl reload-or-restart agentd.service").await?;
        let store = built.join("store");
        self.helixctl(&["image", "push", name, "--cache-dir", store.to_str().context("not UTF-8")?]).await
    }

    /// `helixctl image push NAME`.
    pub async fn push(&self, name: &str) -> Result<Value> {
        let store = self.dir.join("store");
        self.helixctl(&["image", "push", name, "--cache-dir", store.to_str().context("not UTF-8")?]).await
    }

    /// A command of the operator's; what it prints.
    pub async fn helixctl(&self, args: &[&str]) -> Result<Value> {
        let api = self.fleet.api()?;
        let mut command = tokio::process::Command::new(programs::ours("helixctl")?);
        command.args(args).arg("--json").env("HELIX_URL", api.base()).env("HELIX_TOKEN", api.token());
        let output = command.env("HOME", &self.dir).kill_on_drop(true).output().await?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "helixctl {}: {words}", args.join(" "));
        serde_json::from_slice(&output.stdout).with_context(|| words.into_owned())
    }

    /// Bytes of all chunks that the host has.
    pub async fn chunk_bytes(&self) -> Result<u64> {
        let sum = "find /var/lib/helix/agentd/images/chunks -type f -printf '%s\\n' | awk '{ sum += $1 } END { print sum + 0 }'";
        Ok(self.host.run_ok(sum).await?.trim().parse()?)
    }

    /// `allowed_signers` with another key.
    pub fn stranger(&self) -> Result<String> {
        self.signers("stranger")
    }

    /// Fingerprint of the key that signs.
    pub fn fingerprint(&self) -> Result<String> {
        let output = run(Command::new("ssh-keygen").args(["-l", "-f"]).arg(self.dir.join("key.pub")))?;
        Ok(output.split_whitespace().nth(1).context("no fingerprint")?.to_owned())
    }

    /// A chunk that the first image has and the second has not.
    pub fn own_chunk(&self, one: &Digest, other: &Digest) -> Result<Digest> {
        let store = Store::open(&self.dir.join("store"))?;
        let chunks = |digest| Ok::<_, anyhow::Error>(store.index(&store.manifest(digest)?)?);
        let others = chunks(other)?;
        let own = chunks(one)?.into_iter().find(|chunk| !others.contains(chunk));
        Ok(own.context("they are the same")?.digest)
    }

    /// Puts something else in the place of a chunk of the server's.
    pub async fn damage(&self, chunk: Digest) -> Result<()> {
        let jetstream = async_nats::jetstream::new(self.fleet.cluster.bus().await?);
        jetstream.publish(subject::image_chunk(&chunk), "damaged".into()).await?.await?;
        Ok(())
    }

    pub async fn stop(self) -> Result<()> {
        self.host.stop().await?;
        std::fs::remove_dir_all(&self.dir)?;
        self.fleet.stop().await
    }

    fn signers(&self, key: &str) -> Result<String> {
        signer(&self.dir.join(format!("{key}.pub")))
    }
}

/// The line of `allowed_signers` for a public key.
fn signer(public: &Path) -> Result<String> {
    let public = std::fs::read_to_string(public)?;
    Ok(format!("helix-provision namespaces=\"helix-provision,helix-image\" {public}"))
}

fn built(dir: &Path, from: &Path, arch: &str, name: &str, word: &str) -> Result<Digest> {
    let tree = dir.join("tree");
    if !tree.exists() {
        let left_out: Vec<String> = LEFT_OUT.iter().map(|path| format!("--exclude={path}")).collect();
        let copy = format!(
            "set -o pipefail; mkdir {tree} && tar -C {from} {} -cf - . | tar -C {tree} -xpf - && cd {tree} && \
             mkdir -p home/agent run/session run/display run/sync run/tools run/rdp && touch etc/hosts etc/resolv.conf etc/machine-id && \
             if [ -x usr/bin/fc-cache ]; then mkdir -p var/cache/fontconfig && \
             find usr/share/fonts usr/local/share/fonts -type d -newermt @{DATE} -exec touch -d @{DATE} {{}} + && chroot . fc-cache -s -f; fi",
            left_out.join(" "),
            tree = tree.display(),
            from = from.display(),
        );
        run(Command::new("bash").args(["-c", &copy]))?;
    }
    for target in BIND_TARGETS {
        ensure!(tree.join(&target[1..]).exists(), "{target} is missing");
    }
    std::fs::write(tree.join("etc/helix-image"), format!("{word}\n"))?;
    std::fs::write(tree.join("usr/bin/tool"), format!("#!/bin/sh\necho {word}\n"))?;
    run(Command::new("chmod").arg("755").arg(tree.join("usr/bin/tool")))?;
    let store = Store::open(&dir.join("store"))?;
    let packed = pack(&tree, DATE, &store)?;
    let manifest = ImageManifest {
        format: FORMAT,
        name: name.to_owned(),
        arch: arch.to_owned(),
        distribution: "debian".to_owned(),
        suite: "of the hosts".to_owned(),
        source_date: DATE,
        kinds: Vec::new(),
        labels: std::collections::BTreeMap::new(),
        recipe: Digest::of(word.as_bytes()),
        tar_bytes: packed.tar_bytes,
        tar: packed.tar,
        index: packed.index,
        sbom: store.put_chunk(b"{}")?.chunk.digest,
    };
    let manifest = serde_json::to_string(&manifest)?;
    let file = dir.join("manifest");
    std::fs::write(&file, &manifest)?;
    let _ = std::fs::remove_file(dir.join("manifest.sig"));
    run(Command::new("ssh-keygen")
        .args(["-q", "-Y", "sign", "-n", SIGNATURE_NAMESPACE, "-f"])
        .arg(dir.join("key"))
        .arg(&file))?;
    let signature = std::fs::read_to_string(dir.join("manifest.sig"))?;
    let digest = store.put_manifest(&SignedManifest { manifest, signature })?;
    store.set_tag(name, "latest", digest)?;
    Ok(digest)
}

pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
