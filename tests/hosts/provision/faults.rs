//! What bad input gets: the host as it was, the cause and the fix.

use anyhow::{Result, ensure};

use super::stage::{self, Stage};
use crate::harness::{Boot, lab};

/// Messages of sudo's in German, as its translation brings them, and German for all who log in. Names of locales other than
/// C.UTF-8 would have to be generated first.
const SPEAKS_GERMAN: &str = r#"printf 'LANG=C.UTF-8\nLANGUAGE=de\n' >/etc/environment
mkdir -p /usr/share/locale/de/LC_MESSAGES && python3 - <<'END'
import struct
pairs = [(b"", b"Content-Type: text/plain; charset=UTF-8\n"), (b"Sorry, try again.", b"Das stimmt nicht.")]
at, tables, texts = 28 + 16 * len(pairs), b"", b""
for column in (0, 1):
    for pair in pairs:
        tables += struct.pack("<II", len(pair[column]), at + len(texts))
        texts += pair[column] + b"\0"
with open("/usr/share/locale/de/LC_MESSAGES/sudoers.mo", "wb") as file:
    file.write(struct.pack("<IIIIIII", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, at) + tables + texts)
END"#;

/// Its error, in words.
pub fn words(run: &stage::Run) -> String {
    let error = &run.host(0)["error"];
    format!("{} {} {}", error["what"], error["why"], error["next"])
}

pub async fn who_is_not_known_is_refused() -> Result<()> {
    let stage = Stage::start([Boot::container()]).await?;
    let host = &stage.hosts[0];
    let (bare, good) = (stage::traces(host).await?, std::fs::read_to_string(stage.known_hosts())?);

    // Another key than the host's, behind a comment: the line is named.
    let other = std::fs::read_to_string(stage.dir.join(".config/helix/provision.key.pub"))?;
    std::fs::write(stage.known_hosts(), format!("# hosts\n{} {other}", host.address))?;
    for args in [&[][..], &["--accept-new-host-key"]] {
        let run = stage.provision(args).await?;
        run.expect(4, "refused")?;
        let place = format!("{} line 2", stage.known_hosts().display());
        ensure!(words(&run).contains(&place) && words(&run).contains("ssh-keygen -R"), "{}", words(&run));
        ensure!(run.host(0)["round_trips"] == 0, "{}", run.stdout);
    }
    // None at all: only where that is asked for, and then it is pinned.
    std::fs::write(stage.known_hosts(), "")?;
    let run = stage.provision(&["--check"]).await?;
    run.expect(4, "refused")?;
    ensure!(words(&run).contains("--accept-new-host-key"), "{}", words(&run));
    stage.provision(&["--check", "--accept-new-host-key"]).await?.expect(0, "would_change")?;
    stage.provision(&["--check"]).await?.expect(0, "would_change")?;
    ensure!(good.starts_with(std::fs::read_to_string(stage.known_hosts())?.trim()), "another key was pinned");

    // No login, no rights, no signing key, a token that may not.
    let run = stage.provision_as("nobody", &[]).await?;
    run.expect(4, "refused")?;
    ensure!(words(&run).contains("takes no key of ours for user nobody"), "{}", words(&run));
    ensure!(words(&run).contains("ssh-copy-id"), "{}", words(&run));
    host.run_ok("mv /etc/sudoers.d/ops /root/sudoers.ops").await?;
    let run = stage.provision_as("ops", &[]).await?;
    run.expect(4, "refused")?;
    ensure!(words(&run).contains("root"), "{}", words(&run));
    // With a password: a wrong one, then the right one. sudo's own words are understood, whatever language the host speaks.
    host.run_ok("echo 'ops:a secret' | chpasswd && echo 'ops ALL=(ALL) ALL' >/etc/sudoers.d/ops").await?;
    host.run_ok(SPEAKS_GERMAN).await?;
    let spoken = host.run_as("ops", "echo another | sudo -S -p '' true").await?;
    ensure!(spoken.stderr.contains("Das stimmt nicht"), "{spoken:?}");
    let file = stage.dir.join("sudo");
    let named = ["--check", "--sudo-password-file", file.to_str().unwrap_or_default()];
    std::fs::write(&file, "another\n")?;
    let run = stage.provision_as("ops", &named).await?;
    run.expect(4, "refused")?;
    ensure!(words(&run).contains("does not take the password"), "{}", words(&run));
    std::fs::write(&file, "a secret\n")?;
    stage.provision_as("ops", &named).await?.expect(0, "would_change")?;

    let missing = stage.command("root", &["--key", "/nowhere"])?.output().await?;
    ensure!(missing.status.code() == Some(2), "{}", String::from_utf8_lossy(&missing.stderr));
    ensure!(String::from_utf8_lossy(&missing.stderr).contains("helixctl key new"), "the way to a key is not named");
    let mut enrolment = stage.command("root", &[])?;
    let run = enrolment.env("HELIX_TOKEN", stage.fleet.cluster.enrolment_token()?).output().await?;
    ensure!(run.status.code() == Some(4), "{}", String::from_utf8_lossy(&run.stdout));
    stage::same(&bare, &stage::traces(host).await?)?;
    stage.stop().await
}

/// A program in place of another: its path, and its text.
type Program = (String, String);

/// Machines that can be no runner, and one that is not there. What this host is not, its own programs say that it is.
pub async fn who_is_not_fit_is_refused() -> Result<()> {
    let stage = Stage::start([Boot::container()]).await?;
    let host = &stage.hosts[0];
    let bare = stage::traces(host).await?;
    let says = |program: &str, asked: &str, answer: &str| {
        let line =
            format!("#!/bin/sh\ncase \"$*\" in\n{asked}) {answer} ;;\n*) exec /usr/bin/{program} \"$@\" ;;\nesac\n");
        (format!("/usr/local/bin/{program}"), line)
    };
    let others: [(&[Program], &[&str]); 3] = [
        (
            &[says("uname", "-snm", "echo FreeBSD h1 x86_64")],
            &["its kernel is FreeBSD, not Linux", "a machine with Linux"],
        ),
        (
            &[
                says("uname", "-snm", "echo Linux h1 aarch64"),
                says("getconf", "GNU_LIBC_VERSION", "exit 1"),
                says("systemctl", "--version", "exit 1"),
            ],
            &["it is aarch64; agentd", "not glibc (musl?)", "it has no systemd", "use Debian 12, Ubuntu"],
        ),
        (
            &[
                says("getconf", "GNU_LIBC_VERSION", "echo glibc 2.17;; LONG_BIT) echo 32"),
                says("systemctl", "--version", "echo systemd 247"),
            ],
            &["32-bit", "its glibc is 2.17", "its systemd is 247; 252 or newer", "build agentd on the older system"],
        ),
    ];
    for (programs, told) in others {
        for (path, text) in programs {
            host.write(path, text, 0o755).await?;
        }
        let run = stage.provision(&[]).await?;
        run.expect(4, "refused")?;
        let error = words(&run);
        ensure!(error.contains("nothing was changed"), "{error}");
        ensure!(told.iter().all(|words| error.contains(words)), "{told:?} are not all in {error}");
        host.run_ok("rm /usr/local/bin/*").await?;
        stage::same(&bare, &stage::traces(host).await?)?;
    }
    host.partition()?;
    let run = stage.provision(&[]).await?;
    run.expect(3, "failed")?;
    ensure!(words(&run).contains("cannot connect") && !run.host(0)["error"]["next"].is_null(), "{}", words(&run));
    host.heal()?;
    stage::same(&bare, &stage::traces(host).await?)?;
    stage.provision(&[]).await?.expect(0, "changed")?;
    stage.stop().await
}

pub async fn a_change_that_does_not_work_is_undone() -> Result<()> {
    let stage = Stage::start([Boot::container()]).await?;
    let host = &stage.hosts[0];
    let bare = stage::traces(host).await?;

    // Everything that is wrong is told at once, before anything is changed.
    host.run_ok("mount --bind /usr /usr && mount -o remount,ro,bind /usr").await?;
    let run = stage
        .provision(&[
            "--server",
            &format!("http://{}:1", host.address),
            "--slots",
            "99",
            "--nats",
            "nats://10.77.0.1:1",
        ])
        .await?;
    run.expect(4, "refused")?;
    for fault in
        ["/usr is read-only", "does not reach the server", "99 sessions", "does not reach the NATS 10.77.0.1:1"]
    {
        ensure!(words(&run).contains(fault), "{fault} is not in {}", words(&run));
    }
    host.run_ok("mount -o remount,rw,bind /usr && umount --lazy /usr").await?;
    stage::same(&bare, &stage::traces(host).await?)?;

    // agentd refuses its settings.
    let run = stage.provision(&["--nats", "bad nats"]).await?;
    run.expect(1, "reverted")?;
    ensure!(
        words(&run).contains("agentd refuses its settings") && words(&run).contains("is not a NATS address"),
        "{}",
        words(&run)
    );
    stage::same(&bare, &stage::traces(host).await?)?;

    // It starts and comes to nobody that is a NATS: first on a bare host, then on one that works.
    let nobody = format!("nats://{}:{}", lab::SERVER, stage.fleet.cluster.servers[0].port());
    let nowhere = ["--nats", nobody.as_str(), "--confirm-within", "12"];
    let run = stage.provision(&nowhere).await?;
    run.expect(5, "reverted")?;
    ensure!(words(&run).contains("does not come online"), "{}", words(&run));
    stage::same(&bare, &stage::traces(host).await?)?;
    stage.provision(&[]).await?.expect(0, "changed")?;
    let good = stage::traces(host).await?;
    stage.provision(&nowhere).await?.expect(5, "reverted")?;
    stage::same(&good, &stage::traces(host).await?)?;
    stage.provision(&[]).await?.expect(0, "unchanged")?;
    stage.stop().await
}

pub async fn what_is_not_signed_is_not_taken() -> Result<()> {
    let stage = Stage::start([Boot::container()]).await?;
    let host = &stage.hosts[0];
    stage.provision(&[]).await?.expect(0, "changed")?;
    let good = stage::traces(host).await?;
    let other = stage.dir.join("other.key");
    let other = other.to_str().unwrap_or_default();
    ensure!(stage.helixctl(&["key", "new", "--out", other])?.output().await?.status.success(), "no key was made");
    let run = stage.provision(&["--key", other, "--label", "a=b"]).await?;
    run.expect(4, "refused")?;
    ensure!(words(&run).contains("another signing key"), "{}", words(&run));

    // The host itself proves it, whatever helixctl thinks: here the key is the right one, and may not sign this.
    let signers = "/etc/helix/allowed_signers";
    host.run_ok(&format!("sed -i 's/namespaces=\"[^\"]*\"/namespaces=\"other\"/' {signers}")).await?;
    let run = stage.provision(&["--label", "a=b"]).await?;
    run.expect(1, "failed")?;
    ensure!(words(&run).contains("not signed by a key that this host takes"), "{}", words(&run));
    host.run_ok(&format!("sed -i 's/namespaces=\"other\"/namespaces=\"helix-provision,helix-image\"/' {signers}"))
        .await?;
    let without_times =
        |text: &str| text.lines().filter(|line| !line.starts_with("/etc/helix ")).collect::<Vec<_>>().join("\n");
    ensure!(without_times(&stage::traces(host).await?) == without_times(&good), "something was changed");
    stage.provision(&[]).await?.expect(0, "unchanged")?;
    stage.stop().await
}
