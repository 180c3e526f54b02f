//! `agentd rdp`: the session's end, run as unit `rdp` by the session's user, in a network of its own.
//!
//! One thread, which waits: a task per client, with an xrdp of its own and a port for what comes out of that. For each client
//! agentd says a number; the client's bytes come over the connection with this number, and what xrdp's libvnc says goes
//! over that with the next one. The unit ends when agentd is away, and when nobody has come for [`UNUSED`]; agentd starts
//! it again for the next client. When it is killed, the kernel ends its xrdps.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::task::LocalSet;

use super::xrdp::{self, Certificate};
use super::{BACK, network};
use crate::tools::CONTROL;

/// Clients at once: more than agentd lets in or wait, for those whose place another has and who are on their way out. Each
/// costs some twenty megabytes of the session's memory.
const MAX_CLIENTS: usize = 48;
/// Without a client for so long, the unit ends.
const UNUSED: Duration = Duration::from_mins(5);
/// For an xrdp to listen; it takes 20 ms, and tells nobody.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Before it is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(5);
/// Ports of xrdps, one after the other; nobody else is in this network.
const PORTS: std::ops::Range<u64> = 10_000..30_000;
/// The word with which this program becomes an xrdp that ends with us, however we end. `setpriv` would do it, too, but for
/// the capabilities that it sets in passing, which the unit may not.
const BECOME: &str = "xrdp";

/// What to connect with what. Nothing of it is secret.
#[derive(Debug, clap::Parser)]
#[command(name = "agentd rdp", about = "A session's desktop for RDP clients (internal)")]
struct Args {
    /// Only tell whether a network of its own can be had.
    #[arg(long = "try")]
    only_try: bool,
    /// agentd's socket.
    #[arg(long, required_unless_present = "only_try")]
    socket: Option<PathBuf>,
    /// Where certificate, key and settings are written; made where it is missing.
    #[arg(long, required_unless_present = "only_try")]
    dir: Option<PathBuf>,
    /// Leave the machine's network: the supervisor gives none.
    #[arg(long)]
    leave_network: bool,
}

/// Arguments of the unit, after the program's own path.
pub fn arguments(socket: &Path, dir: &Path, own_network: bool) -> Vec<String> {
    let mut words =
        vec!["rdp".to_owned(), format!("--socket={}", socket.display()), format!("--dir={}", dir.display())];
    if !own_network {
        words.push("--leave-network".to_owned());
    }
    words
}

/// Runs `agentd rdp`; `args` are the arguments after that word.
pub fn main(args: impl Iterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    let mut args = args.peekable();
    if args.peek().is_some_and(|word| word == BECOME) {
        return become_xrdp(args.skip(1));
    }
    let args = Args::parse_from(std::iter::once(OsString::from("agentd rdp")).chain(args));
    if args.leave_network || args.only_try {
        network::leave()?;
    }
    let (Some(socket), Some(dir)) = (args.socket, args.dir) else { return Ok(ExitCode::SUCCESS) };
    // xrdp would make it, in a way that RestrictSUIDSGID= refuses.
    let sockets = dir.join("sockdir");
    std::fs::create_dir_all(&sockets).with_context(|| format!("cannot make {}", sockets.display()))?;
    let certificate = xrdp::certify(&dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let unit = Rc::new(Unit { socket, dir, certificate, clients: Cell::new(0), left: Notify::new() });
    LocalSet::new().block_on(&runtime, unit.run())?;
    Ok(ExitCode::SUCCESS)
}

struct Unit {
    socket: PathBuf,
    dir: PathBuf,
    certificate: Certificate,
    clients: Cell<usize>,
    /// A client has left.
    left: Notify,
}

impl Unit {
    /// Serves clients until agentd is away, or nobody comes.
    async fn run(self: Rc<Self>) -> anyhow::Result<()> {
        let mut control = UnixStream::connect(&self.socket).await.context("agentd does not answer")?;
        control.write_u64(CONTROL).await.context("agentd does not listen")?;
        loop {
            let number = tokio::select! {
                number = control.read_u64() => number,
                () = self.unused() => return Ok(()),
            };
            // agentd is away, and with it every client.
            let Ok(number) = number else { return Ok(()) };
            let unit = self.clone();
            unit.clients.set(unit.clients.get() + 1);
            tokio::task::spawn_local(async move {
                if let Err(error) = unit.serve(number).await {
                    complain(format_args!("a client is not served: {error:#}"));
                }
                unit.clients.set(unit.clients.get() - 1);
                unit.left.notify_one();
            });
        }
    }

    /// Completes when there has been no client for a while.
    async fn unused(&self) {
        loop {
            if self.clients.get() == 0 {
                // Whoever comes meanwhile ends this wait: it is begun anew with each number.
                return tokio::time::sleep(UNUSED).await;
            }
            self.left.notified().await;
        }
    }

    async fn serve(&self, number: u64) -> anyhow::Result<()> {
        let mut client = self.connect(number).await?;
        if self.clients.get() > MAX_CLIENTS {
            anyhow::bail!("{MAX_CLIENTS} clients are there already");
        }
        let vnc = Loopback::bind().await.context("no port for the display")?;
        let port = PORTS.start + (number / 2) % (PORTS.end - PORTS.start);
        let port = u16::try_from(port).context("no port for xrdp")?;
        let file = self.dir.join(format!("{number}.ini"));
        let settings = xrdp::settings(&self.certificate, port, vnc.port()?);
        std::fs::write(&file, settings).with_context(|| format!("cannot write {}", file.display()))?;
        let served = async {
            let mut xrdp = start(&file)?;
            let mut to_xrdp = connect(&mut xrdp, port).await?;
            let ((mut from_client, mut to_client), (mut from_xrdp, mut to_xrdp)) = (client.split(), to_xrdp.split());
            tokio::select! {
                // One side's end is the other's: nothing is left to be said to who has left.
                _ = copy(&mut from_client, &mut to_xrdp) => Ok(()),
                _ = copy(&mut from_xrdp, &mut to_client) => Ok(()),
                ended = self.show(number + BACK, &vnc) => ended,
                status = xrdp.wait() => Err(anyhow::anyhow!("xrdp ended: {}", status?)),
            }
        };
        let served = served.await;
        // Nobody is left to read it.
        let _ = std::fs::remove_file(&file);
        served
    }

    /// Passes on what xrdp says as a VNC viewer; it comes once, when its client has said who it is.
    async fn show(&self, number: u64, vnc: &Loopback) -> anyhow::Result<()> {
        let mut viewer = vnc.accept().await.context("xrdp's viewer cannot be let in")?;
        viewer.set_nodelay(true)?;
        let mut gate = self.connect(number).await?;
        // A side that breaks off is the end as well as one that says so.
        let _ = copy_bidirectional(&mut viewer, &mut gate).await;
        // What xrdp shows of the end is its client's to see, until agentd ends it.
        std::future::pending().await
    }

    async fn connect(&self, number: u64) -> anyhow::Result<UnixStream> {
        let connected = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            stream.write_u64(number).await?;
            io::Result::Ok(stream)
        };
        connected.await.context("agentd does not answer")
    }
}

/// A port of both loopback addresses: xrdp 0.10 takes 127.0.0.1 for ::1, and tries no other where the kernel has that.
struct Loopback {
    four: TcpListener,
    /// None where the kernel has no IPv6.
    six: Option<TcpListener>,
}

impl Loopback {
    async fn bind() -> io::Result<Self> {
        let four = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let six = TcpListener::bind((Ipv6Addr::LOCALHOST, four.local_addr()?.port())).await.ok();
        Ok(Self { four, six })
    }

    fn port(&self) -> io::Result<u16> {
        self.four.local_addr().map(|address| address.port())
    }

    async fn accept(&self) -> io::Result<TcpStream> {
        let six = async {
            match &self.six {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        // Both are cancel safe.
        let (stream, _) = tokio::select! {
            accepted = self.four.accept() => accepted,
            accepted = six => accepted,
        }?;
        Ok(stream)
    }
}

fn start(settings: &Path) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("where is this program?")?;
    Command::new(program)
        .args(["rdp", BECOME])
        .arg(settings)
        .stdin(Stdio::null())
        // It repeats its settings there.
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("xrdp cannot be started")
}

/// Replaces this process by an xrdp with these settings.
fn become_xrdp(settings: impl Iterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("cannot be bound to its parent")?;
    let mut command = std::process::Command::new(xrdp::PROGRAM);
    Err(command.args(["--nodaemon", "-c"]).args(settings).exec()).context("xrdp cannot be started; is it installed?")
}

/// A connection to an xrdp that was just started.
async fn connect(xrdp: &mut Child, port: u16) -> anyhow::Result<TcpStream> {
    let tries = async {
        loop {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                Ok(stream) => return stream.set_nodelay(true).map(|()| stream),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => tokio::time::sleep(TRY_AGAIN).await,
                Err(error) => return Err(error),
            }
        }
    };
    tokio::select! {
        connected = tokio::time::timeout(START_TIMEOUT, tries) => {
            connected.context("xrdp does not listen")?.context("xrdp cannot be reached")
        }
        status = xrdp.wait() => anyhow::bail!("xrdp ended at its start: {}", status?),
    }
}

/// Into the unit's log.
fn complain(what: std::fmt::Arguments<'_>) {
    // Nobody is left to tell where that fails.
    let _ = writeln!(io::stderr(), "{what}");
}
