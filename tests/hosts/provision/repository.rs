//! A repository of packages in the lab: Debian's own, served over HTTP by the test.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::harness::{Host, lab};

/// A repository at a port of the lab. Ends when it is dropped.
pub struct Repository {
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

    /// One for each release that these hosts have; their apt knows them.
    pub async fn offer(hosts: &[Host]) -> Result<Vec<Self>> {
        let mut made = BTreeMap::new();
        for host in hosts {
            let debs = host.debs();
            if !made.contains_key(&debs) {
                made.insert(debs.clone(), Self::serve(debs.clone()).await?);
            }
            made[&debs].is_known_to(host).await?;
        }
        Ok(made.into_values().collect())
    }

    /// From now on the host's apt knows it.
    async fn is_known_to(&self, host: &Host) -> Result<()> {
        let source = format!("deb [trusted=yes] http://{}:{} ./\n", lab::SERVER, self.port);
        host.write("/etc/apt/sources.list.d/lab.list", &source, 0o644).await
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
            .replace("%7e", "~")
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
