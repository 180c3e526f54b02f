//! helix-server: args → telemetry → config → build → serve → drain.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::serve::{Listener as _, ListenerExt as _};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use helix_server::app::App;
use helix_server::backup::{self, Done, Fault};
use helix_server::config::{Overrides, ServerConfig};
use helix_server::http::sockets;
use helix_server::keys::Keys;
use helix_server::nats_config::{self, Member, NatsSettings, Tls};
use helix_server::telemetry;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long requests and sockets may take to end once the process shall.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection may take to send the head of its next request: who only holds one open is cut off. Longer than
/// clients keep one that they may use again (90 s in reqwest and Go): one that is closed just as it is used again loses
/// its request, and no client repeats a POST.
const HEAD_DEADLINE: Duration = Duration::from_mins(2);
/// What a command says to settings that are wrong, as helixctl does.
const BAD_USAGE: u8 = 2;
/// `EX_CONFIG` of sysexits.h: a supervisor that starts it again changes nothing.
const BAD_CONFIG: u8 = 78;

/// Control plane of Helix: REST, WebSocket, dashboard over NATS JetStream
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    serve: Serve,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args)]
struct Serve {
    /// Settings (TOML)
    #[arg(long, value_name = "FILE", default_value = "/etc/helix/server.toml")]
    config: PathBuf,
    /// Address to listen on; overrides the file
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Check the settings, tell every fault, and end
    #[arg(long)]
    check_config: bool,
}

#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, and it is read once")]
enum Command {
    /// Print a complete nats.conf that fits the settings
    NatsConfig {
        /// Settings (TOML)
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Folder of JetStream's files
        #[arg(long, value_name = "DIR")]
        store_dir: PathBuf,
        /// Address on which it listens; off loopback only with a certificate
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1")]
        listen: IpAddr,
        /// Its port; -1 takes a free one
        #[arg(long, default_value_t = 4222, allow_negative_numbers = true)]
        port: i32,
        /// Certificate of this nats-server (PEM)
        #[arg(long, value_name = "FILE", requires = "tls_key")]
        tls_cert: Option<PathBuf>,
        /// Its key (PEM, mode 0600)
        #[arg(long, value_name = "FILE", requires = "tls_cert")]
        tls_key: Option<PathBuf>,
        /// Who signs the certificates of a cluster's members (PEM)
        #[arg(long, value_name = "FILE", requires = "tls_cert")]
        tls_ca: Option<PathBuf>,
        /// Name of this nats-server in a cluster
        #[arg(long, value_name = "NAME", requires = "peers")]
        node: Option<String>,
        /// Where the cluster's other members reach it
        #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:6222")]
        cluster_listen: SocketAddr,
        /// Every member of the cluster, with commas between
        #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', requires = "node")]
        peers: Vec<String>,
        /// Folder in which nats-server tells its port
        #[arg(long, value_name = "DIR")]
        ports_file_dir: Option<PathBuf>,
        /// Write it to a file of mode 0600 instead
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Copy all that NATS keeps of the fleet into one file (as `helixctl backup`)
    Backup {
        /// A file that is not there yet, or a directory
        to: PathBuf,
        /// Settings (TOML)
        #[arg(long, value_name = "FILE", default_value = "/etc/helix/server.toml")]
        config: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// Put a backup back (as `helixctl restore`)
    Restore {
        /// What `backup` made
        file: PathBuf,
        /// Settings (TOML)
        #[arg(long, value_name = "FILE", default_value = "/etc/helix/server.toml")]
        config: PathBuf,
        /// Replace what the store has
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Write the manual, a page for each command
    #[command(hide = true)]
    Manual {
        /// Directory that the pages are written to
        dir: PathBuf,
    },
}

#[derive(Args, Clone, Copy)]
struct Output {
    /// Print one compact JSON object
    #[arg(long)]
    json: bool,
    /// Say nothing but data and errors
    #[arg(long, short)]
    quiet: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    helix_names::without_plugins();
    // Fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    let (file, overrides) = match &cli.command {
        Some(Command::Manual { dir }) => return manual(dir),
        Some(Command::NatsConfig { config, .. } | Command::Backup { config, .. } | Command::Restore { config, .. }) => {
            (config, Overrides::default())
        }
        None => (&cli.serve.config, Overrides { listen: cli.serve.listen.clone() }),
    };
    let config = match ServerConfig::load(file, &|name| std::env::var(name).ok(), &overrides) {
        Ok(config) => config,
        Err(faults) => {
            say(&mut std::io::stderr(), &format!("helix-server cannot start:\n{faults}\n"));
            return if cli.command.is_some() { ExitCode::from(BAD_USAGE) } else { ExitCode::from(BAD_CONFIG) };
        }
    };
    let done = match cli.command {
        Some(Command::NatsConfig {
            config: _,
            store_dir,
            listen,
            port,
            tls_cert,
            tls_key,
            tls_ca,
            node,
            cluster_listen,
            peers,
            ports_file_dir,
            out,
        }) => {
            let tls = tls_cert.zip(tls_key).map(|(cert, key)| Tls { cert, key, ca: tls_ca });
            let cluster = node.map(|name| Member { name, listen: cluster_listen, peers });
            let settings = NatsSettings { store_dir, listen, port, ports_file_dir, tls, cluster };
            nats_config::render(&config, &settings).and_then(|text| {
                if let Some(file) = out {
                    return nats_config::write(&file, &text);
                }
                say(&mut std::io::stdout(), &text);
                Ok(())
            })
        }
        Some(Command::Backup { to, output, .. }) => return copied(output, Box::pin(save(&config, &to, output))).await,
        Some(Command::Restore { file, force, output, .. }) => {
            return copied(output, Box::pin(restore(&config, &file, force, output))).await;
        }
        None if cli.serve.check_config => {
            say(&mut std::io::stdout(), &format!("{} is good\n", file.display()));
            Ok(())
        }
        Some(Command::Manual { .. }) | None => run(config).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            say(&mut std::io::stderr(), &format!("helix-server: {err:#}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Writes the pages of the manual.
fn manual(dir: &Path) -> ExitCode {
    match clap_mangen::generate_to(Cli::command(), dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            say(&mut std::io::stderr(), &format!("helix-server: cannot write to {}: {err}\n", dir.display()));
            ExitCode::FAILURE
        }
    }
}

async fn save(config: &ServerConfig, to: &Path, output: Output) -> Result<Done, Fault> {
    let keys = keys(config)?;
    backup::save(config, &keys, to, &mut |text| note(output, text)).await
}

async fn restore(config: &ServerConfig, file: &Path, force: bool, output: Output) -> Result<Done, Fault> {
    let keys = keys(config)?;
    backup::restore(config, &keys, file, force, &mut |text| note(output, text)).await
}

fn keys(config: &ServerConfig) -> Result<Arc<Keys>, Fault> {
    Keys::derive(&config.secrets.key).map(Arc::new).map_err(|err| Fault::of(&err))
}

/// Data on standard output, the rest on standard error; exit codes as helixctl's.
async fn copied(output: Output, work: impl Future<Output = Result<Done, Fault>>) -> ExitCode {
    match work.await {
        Ok(done) if output.json => {
            let text = serde_json::to_string(&done).expect("texts and numbers encode");
            say(&mut std::io::stdout(), &format!("{text}\n"));
            ExitCode::SUCCESS
        }
        Ok(done) => {
            say(&mut std::io::stdout(), &format!("{}\n", done.file));
            let mib = done.bytes as f64 / f64::from(1 << 20);
            note(output, &format!("{} streams, {mib:.1} MiB, {:.1} s", done.streams.len(), done.seconds));
            ExitCode::SUCCESS
        }
        Err(fault) => {
            say(&mut std::io::stderr(), &format!("{fault}\n"));
            ExitCode::from(fault.kind.exit_code())
        }
    }
}

fn note(output: Output, text: &str) {
    if !output.quiet {
        say(&mut std::io::stderr(), &format!("{text}\n"));
    }
}

async fn run(config: ServerConfig) -> anyhow::Result<()> {
    telemetry::init(&config.log_level)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listen = config.listen;
    // Before NATS: a taken port is told at once.
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!(
            "cannot listen on {listen}; fix: end the process that has the port (ss -ltnp), or give another --listen"
        )
    })?;
    let address = listener.local_addr()?;
    let app = tokio::select! {
        app = App::build(config) => app?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let shutdown = app.shutdown.clone();
    let router = helix_server::http::router(app.clone());
    let mut serving = tokio::spawn(serve(listener, router, shutdown.clone()));
    tracing::info!(%address, server.id = %app.server_id, version = env!("CARGO_PKG_VERSION"), "listening");
    notify(&[NotifyState::Ready, NotifyState::Status(&format!("listening on {address}"))]);

    // In this order: a task that failed ends HTTP too.
    let failed = tokio::select! {
        biased;
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
        () = shutdown.cancelled() => true,
        served = &mut serving => {
            served.context("the HTTP task ended badly")?;
            anyhow::bail!("HTTP ended by itself");
        }
    };
    tracing::info!("draining");
    notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
    shutdown.cancel();
    let drained = async {
        app.relay.drained().await;
        serving.await
    };
    if let Ok(served) = tokio::time::timeout(DRAIN_DEADLINE, drained).await {
        served.context("the HTTP task ended badly")?;
    } else {
        tracing::warn!(deadline = ?DRAIN_DEADLINE, "some requests did not end in time and are cut off");
    }
    if tokio::time::timeout(DRAIN_DEADLINE, app.stop()).await.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
    tracing::info!("ended");
    anyhow::ensure!(!failed, "a task that this process cannot do without is dead; its log says which");
    Ok(())
}

/// Serves until `stopping`, then finishes what was begun. Upgraded sockets are not waited for. Not `axum::serve`: that
/// one waits for a request's head for ever.
async fn serve(listener: TcpListener, router: axum::Router, stopping: CancellationToken) {
    let mut listener = listener.tap_io(|socket| sockets::tune(socket, sockets::DEAF));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    let service = TowerToHyperService::new(router);
    let connections = TaskTracker::new();
    while let Some((socket, _)) = stopping.run_until_cancelled(listener.accept()).await {
        let connection = http.serve_connection(TokioIo::new(socket), service.clone()).with_upgrades();
        let stopping = stopping.clone();
        connections.spawn(async move {
            let mut connection = pin!(connection);
            // How a connection ends is its client's matter.
            tokio::select! {
                _ = connection.as_mut() => return,
                () = stopping.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Tells whoever started us (systemd, `helixctl up`); nobody listening is fine.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(err) = sd_notify::notify(states) {
        tracing::warn!(error = %err, "cannot notify the supervisor");
    }
}

/// Writes what a person or a pipe reads. A closed pipe is no error of ours.
fn say(to: &mut dyn std::io::Write, text: &str) {
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}
