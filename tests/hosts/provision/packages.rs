//! Packages come by apt, from a repository in the lab: Debian's own packages, served over HTTP by the test.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinHandle;

use super::stage::{self, Stage};
use crate::harness::{Boot, lab};

/// Holds apt's lock, as a program does that installs; tells when it has it, and ends after some seconds.
const HOLD: &str = "systemd-run --quiet --unit=holder -p Type=notify -p NotifyAccess=all python3 -c 'import fcntl, os, time\n\
                    file = open(\"/var/lib/dpkg/lock-frontend\", \"w\"); fcntl.lockf(file, fcntl.LOCK_EX)\n\
                    os.system(\"systemd-notify --ready\"); time.sleep(4)'";

/// A repository at a port of the lab. Ends when it is dropped.
struct Repository {
    port: u16,
    task: JoinHandle<()>,
}

impl Drop for Repository {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Repository {
    async fn serve(debs: PathBuf) -> Result<Self> {
        let index = Arc::new(index(&debs).await?);
        let listener = TcpListener::bind((lab::SERVER, 0)).await?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (debs, index) = (debs.clone(), Arc::clone(&index));
                tokio::spawn(async move { answer(stream, &debs, &index).await });
            }
        });
        Ok(Self { port, task })
    }
}

/// `Packages`: what each file says of itself, where it is, and its digest.
async fn index(debs: &Path) -> Result<String> {
    let mut text = String::new();
    for entry in std::fs::read_dir(debs)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("a strange name")?.to_owned();
        let said = Command::new("dpkg-deb").arg("-f").arg(&path).output().await.context("dpkg-deb")?;
        let sum = Command::new("sha256sum").arg(&path).output().await?;
        let sum = String::from_utf8(sum.stdout)?.split_whitespace().next().context("no digest")?.to_owned();
        let size = std::fs::metadata(&path)?.len();
        let fields = String::from_utf8(said.stdout)?;
        writeln!(text, "{}\nFilename: ./{name}\nSize: {size}\nSHA256: {sum}\n", fields.trim_end())?;
    }
    ensure!(!text.is_empty(), "no packages in {}", debs.display());
    Ok(text)
}

/// As much of HTTP as apt asks for, request after request.
async fn answer(stream: TcpStream, debs: &Path, index: &str) -> Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut request, mut line) = (String::new(), String::new());
        if stream.read_line(&mut request).await? == 0 {
            return Ok(());
        }
        while stream.read_line(&mut line).await? > 2 {
            line.clear();
        }
        let path = request
            .split(' ')
            .nth(1)
            .unwrap_or_default()
            .trim_start_matches(['/', '.'])
            .replace("%2b", "+")
            .replace("%25", "%");
        let body = match path.as_str() {
            "Packages" => Some(index.as_bytes().to_vec()),
            name if !name.contains('/') => std::fs::read(debs.join(name)).ok(),
            _ => None,
        };
        let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
        let body = body.unwrap_or_default();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body).await?;
        stream.flush().await?;
    }
}

pub async fn packages_come_by_apt() -> Result<()> {
    let stage = Stage { with_packages: true, ..Stage::start([Boot::container()]).await? };
    let host = &stage.hosts[0];
    let repository = Repository::serve(host.debs()).await?;
    host.run_ok("dpkg --purge --force-depends openbox xterm 2>&1").await?;
    let bare = stage::traces(host).await?;

    // Nobody offers them yet: that is the cause, and nothing else was changed.
    let run = stage.provision(&[]).await?;
    run.expect(1, "failed")?;
    ensure!(run.stdout.contains("packages cannot be installed"), "{}", run.stdout);
    stage::same(&bare, &stage::traces(host).await?)?;

    // They are offered, while somebody else installs something: that is waited for.
    let source = format!("deb [trusted=yes] http://{}:{} ./\n", lab::SERVER, repository.port);
    host.write("/etc/apt/sources.list.d/lab.list", &source, 0o644).await?;
    host.run_ok(HOLD).await?;
    let run = stage.provision(&[]).await?;
    run.expect(0, "changed")?;
    let names: Vec<_> = run.host(0)["changes"].as_array().into_iter().flatten().map(|line| &line["name"]).collect();
    ensure!(names[..3] == ["tigervnc-scraping-server", "openbox", "xterm"], "{names:?}");
    ensure!(run.host(0)["first_frame_ms"].as_u64().is_some(), "no frame: {}", run.stdout);
    host.run_ok("command -v X0tigervnc openbox xterm").await?;
    stage.provision(&[]).await?.expect(0, "unchanged")?;
    stage.stop().await
}
