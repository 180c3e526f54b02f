//! Real sockets on both sides.

use std::path::Path;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::*;

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Says what it heard, once the other side has said all.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await?;
    stream.write_all(format!("heard {heard}").as_bytes()).await?;
    stream.shutdown().await
}

async fn server() -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let origin = format!("http://{}", listener.local_addr().expect("an address"));
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    (origin, task)
}

fn serving(socket: &Path, servers: Servers) -> JoinHandle<Infallible> {
    tokio::spawn(serve(UnixListener::bind(socket).expect("a socket"), Arc::new(servers)))
}

/// What comes back for these words.
async fn ask(socket: &Path, words: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.expect("somebody listens");
    // A connection that is refused may be gone before it is written to.
    let _ = stream.write_all(words.as_bytes()).await;
    let _ = stream.shutdown().await;
    let mut heard = String::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut heard)).await.expect("in time");
    // Reset: it has ended, too.
    read.map_or_else(|_| String::new(), |_| heard)
}

#[tokio::test]
async fn bytes_go_both_ways_and_half_closed_stays_half_closed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let socket = dir.path().join("s");
    // The first of these servers is away.
    let away = format!("http://127.0.0.1:{}", crate::forward::reserve(None).expect("a port").port());
    let (origin, server) = server().await;
    let servers = Servers::new(&[away, origin]);
    let task = serving(&socket, servers);
    for round in 0..3 {
        assert_eq!(ask(&socket, &format!("round {round}")).await, format!("heard round {round}"));
    }
    let long = "x".repeat(3_000_000);
    assert!(ask(&socket, &long).await == format!("heard {long}"), "not every byte arrived");

    // Without a server there is no answer, and that at once.
    server.abort();
    let _ = server.await;
    assert_eq!(ask(&socket, "nobody").await, "");
    task.abort();
}

#[tokio::test]
async fn what_is_too_much_is_refused_and_a_free_place_is_given_again() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let socket = dir.path().join("s");
    let (origin, _server) = server().await;
    let task = serving(&socket, Servers::new(&[origin]));
    let mut held = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        held.push(UnixStream::connect(&socket).await.expect("connected"));
    }
    assert_ne!(ask(&socket, "one more").await, "heard one more");
    drop(held.pop());
    let again = async {
        while ask(&socket, "again").await != "heard again" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("a place is free");
    task.abort();
}

/// A certificate that names these, and its key.
fn certificate(dir: &Path, names: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let (key, cert) = (dir.join("key.pem"), dir.join("cert.pem"));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"])
        .args(["-subj", "/CN=test", "-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-addext")
        .arg(format!("subjectAltName={names}"))
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .expect("openssl runs; install it: apt-get install openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (CertificateDer::from_pem_file(cert).expect("a certificate"), PrivateKeyDer::from_pem_file(key).expect("a key"))
}

#[tokio::test]
async fn an_https_server_is_reached_only_when_it_is_trusted() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().expect("temporary directory");
    let (certificate, key) = certificate(dir.path(), "DNS:localhost,IP:127.0.0.1");
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.clone()], key);
    let acceptor = TlsAcceptor::from(Arc::new(config.expect("a configuration")));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move { answer(acceptor.accept(stream).await?).await });
        }
    });
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a root");
    let trusting = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    for (name, host) in [("name", "localhost"), ("address", "127.0.0.1")] {
        let socket = dir.path().join(name);
        let origins = [format!("https://{host}:{port}")];
        let task = serving(&socket, Servers::with_tls(&origins, trusting.clone()));
        assert_eq!(ask(&socket, "in secret").await, "heard in secret", "{host}");
        let named = format!("heard GET / HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
        assert_eq!(ask(&socket, "GET / HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n").await, named);
        task.abort();
        let socket = dir.path().join(format!("{name}-stranger"));
        let task = serving(&socket, Servers::new(&origins));
        assert_eq!(ask(&socket, "in secret").await, "", "a server that nobody vouches for was believed");
        task.abort();
    }
    server.abort();
}
