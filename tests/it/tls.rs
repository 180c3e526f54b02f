//! A server behind TLS, with a certificate of an authority of the operator's own: whoever dials it believes whom the machine
//! believes, over HTTP and over WebSockets alike.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use helix_tests::certificates::Certificates;
use helix_tests::cluster::READY;
use helix_tests::process::{exit_code, run};
use helix_tests::runner::{Runner, RunnerSpec};
use helix_tests::tls_proxy::TlsProxy;
use helix_tests::{Cluster, programs};
use serde_json::json;

/// helixctl with these authorities: exit code, what it prints, what it says.
async fn helixctl(cluster: &Cluster, authorities: &Path, url: &str, args: &[&str]) -> Result<(i32, String, String)> {
    let text = |path: &Path| path.to_str().map(str::to_owned).context("path is not UTF-8");
    let env = [("HOME".to_owned(), text(cluster.dir())?), ("SSL_CERT_FILE".to_owned(), text(authorities)?)];
    let token = text(&cluster.secrets.admin)?;
    let args = [&["--url", url, "--token-file", &token], args].concat();
    let output = run(&programs::ours("helixctl")?, &args, &env, READY).await?;
    let words = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    Ok((exit_code(output.status), words(output.stdout), words(output.stderr)))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_the_machine_s_is_believed_by_all_that_dial() -> Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    let known = Certificates::make(cluster.dir(), "web-")?;
    let proxy = TlsProxy::start(&known, cluster.servers[0].port()).await?;
    let url = proxy.url();
    // Runners are told to dial what they know the server by.
    let settings = cluster.servers[0].settings().to_owned();
    let text = std::fs::read_to_string(&settings)?;
    std::fs::write(&settings, format!("advertise_url = {url:?}\n{text}"))?;
    cluster.servers[0].terminate().await?;
    cluster.servers[0].start().await?;

    // The runner enrols over HTTP, and a command's streams come by its dial and by helixctl's own WebSocket.
    let spec = RunnerSpec { authority: Some(known.ca.clone()), ..RunnerSpec::new("r1") };
    let mut runner = Runner::new(cluster.dir(), spec, std::slice::from_ref(&url), &cluster.secrets.enrolment)?;
    runner.start().await?;
    cluster.runners.push(runner);
    cluster.ready(&json!({"id": "desk", "kind": "terminal"})).await?;
    let exec = ["session", "exec", "desk", "--", "echo", "by", "TLS"];
    let (code, stdout, stderr) = helixctl(&cluster, &known.ca, &url, &exec).await?;
    ensure!((code, stdout.as_str()) == (0, "by TLS"), "{code} {stdout} {stderr}");
    let picture = cluster.api()?.get("/api/v1/sessions/desk/screenshot").await?;
    ensure!(picture.status == 200, "{} {}", picture.status, picture.text);

    // Who is not known is not believed, and what to do is said; a machine that knows nobody can speak plain HTTP.
    let other = Certificates::make(cluster.dir(), "other-")?;
    let (code, _, stderr) = helixctl(&cluster, &other.ca, &url, &["status"]).await?;
    ensure!(
        code == 3 && stderr.contains("invalid peer certificate") && stderr.contains("update-ca-certificates"),
        "{code} {stderr}"
    );
    let nobody = Path::new("/nonexistent/authorities");
    let (code, _, stderr) = helixctl(&cluster, nobody, &url, &["status"]).await?;
    ensure!(
        code == 1 && stderr.contains("No CA certificates") && stderr.contains("ca-certificates"),
        "{code} {stderr}"
    );
    let (code, _, stderr) = helixctl(&cluster, nobody, &cluster.servers[0].url(), &["status"]).await?;
    ensure!(code == 0, "{code} {stderr}");
    cluster.shutdown().await
}
