//! `[nats]`: where NATS is, and how much it holds. The documents' variables say its host and its port one by one.
//!
//! Off loopback there is only TLS: passwords, runners' tokens and all that is stored cross that connection.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use async_nats::ServerAddr;
use helix_protocol::resources::Bytes;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::document::Document;
use super::{Checked, refuse};

/// The server's own NATS connection.
#[derive(Debug, Clone)]
pub struct NatsConfig {
    /// `nats://HOST:PORT` or `tls://HOST:PORT`; several of one cluster with commas between.
    pub url: String,
    /// Certificates (PEM) of who signs those of nats-servers; the machine's own where absent.
    pub ca: Option<Ca>,
    /// User in account HELIX.
    pub user: String,
    /// Copies of every stream that is made.
    pub replicas: usize,
    /// Largest message; with the two below it, what `nats-config` writes.
    pub max_payload: Bytes,
    /// Most that JetStream keeps in memory.
    pub max_memory_store: Bytes,
    /// Most that it keeps on disk.
    pub max_file_store: Bytes,
}

/// Whom to believe, instead of those that the machine believes.
#[derive(Debug, Clone)]
pub struct Ca {
    /// Where they stand.
    pub file: PathBuf,
    /// The certificates: what runners are told at enrolment.
    pub pem: String,
}

/// Copies that nats-server can keep.
const REPLICAS: RangeInclusive<usize> = 1..=5;
/// From what the largest report and an answer to it need, to the most that nats-server carries.
const PAYLOAD: RangeInclusive<Bytes> = Bytes(1 << 20)..=Bytes(64 << 20);
/// A store holds at least a few records.
const STORE: RangeInclusive<Bytes> = Bytes(16 << 20)..=Bytes(1 << 50);

/// Reads the section; notes faults.
pub(super) fn read(doc: &mut Document<'_>) -> Option<NatsConfig> {
    let url = url(doc);
    let ca_file = doc.optional_path("nats", "ca_file");
    let ca = ca_file.and_then(|file| ca(doc, file));
    let user = doc.text("nats", "user", None).or("server").check(doc, |text| Ok(text.to_owned()));
    let replicas = doc.integer("nats", "replicas", None).or("1").check(doc, replicas);
    let max_payload = doc.text("nats", "max_payload", None).or("64MiB").check(doc, |text| amount(text, &PAYLOAD));
    let max_memory_store =
        doc.text("nats", "max_memory_store", None).or("2GiB").check(doc, |text| amount(text, &STORE));
    let max_file_store = doc.text("nats", "max_file_store", None).or("20GiB").check(doc, |text| amount(text, &STORE));
    Some(NatsConfig {
        url: url?,
        ca,
        user: user?,
        replicas: replicas?,
        max_payload: max_payload?,
        max_memory_store: max_memory_store?,
        max_file_store: max_file_store?,
    })
}

/// The file's address, with the parts that the environment says in place of its own.
fn url(doc: &mut Document<'_>) -> Option<String> {
    let given = doc.text("nats", "url", None).or("nats://127.0.0.1:4222").check(doc, address);
    let host = doc.variable("NATS_SERVER_HOST").check(doc, host);
    let port = doc.variable("NATS_SERVER_PORT").check(doc, port);
    let given = given?;
    let place = if host.is_some() { "environment variable NATS_SERVER_HOST" } else { "nats.url" };
    if host.is_none() && port.is_none() {
        return Some(given);
    }
    // Of several, the variables name one.
    let first = given.split(',').next().unwrap_or_default();
    let parsed = first.parse::<ServerAddr>().ok()?;
    let scheme = if first.starts_with("tls://") { "tls" } else { "nats" };
    let host = host.unwrap_or_else(|| parsed.host().to_owned());
    let port = port.unwrap_or_else(|| parsed.port());
    let url = format!("{scheme}://{}:{port}", if host.contains(':') { format!("[{host}]") } else { host });
    address(&url).map_err(|(problem, fix)| doc.fault_at(place, &problem, &fix)).ok()
}

/// Addresses of NATS, each with its scheme, without blanks.
pub(super) fn address(text: &str) -> Checked<String> {
    let all = text.split(',').map(|one| one_address(one.trim())).collect::<Result<Vec<_>, _>>()?;
    if all.iter().any(|one| is_tls(one)) && !all.iter().all(|one| is_tls(one)) {
        return refuse("some addresses have TLS and some have not", "write tls:// before each");
    }
    Ok(all.join(","))
}

/// True where the connection is to be one of TLS.
pub fn is_tls(url: &str) -> bool {
    url.starts_with("tls://")
}

fn one_address(text: &str) -> Checked<String> {
    let fix = "write for example \"nats://127.0.0.1:4222\"; user and password have settings of their own";
    let host = text.strip_prefix("nats://").or_else(|| text.strip_prefix("tls://"));
    match (host, text.parse::<ServerAddr>()) {
        (Some(host), _) if host.contains('@') => refuse("the address carries a user or password", fix),
        (Some(host), Ok(parsed)) if !host.is_empty() => {
            if is_tls(text) || is_loopback(parsed.host()) {
                return Ok(text.to_owned());
            }
            let problem =
                format!("{text} is not on loopback, and passwords and tokens would cross the network in plaintext");
            let port = parsed.port();
            let fix = format!(
                "write [nats] url = \"tls://{}:{port}\" and give nats-server a certificate: docs/nats.md",
                parsed.host()
            );
            refuse(problem, fix)
        }
        _ => refuse(format!("{text:?} is not a NATS address"), fix),
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn ca(doc: &mut Document<'_>, file: PathBuf) -> Option<Ca> {
    let read = std::fs::read_to_string(&file).map_err(|err| format!("{} cannot be read: {err}", file.display()));
    let checked = read.and_then(|pem| {
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        match certificates {
            Ok(certificates) if !certificates.is_empty() => Ok(pem),
            _ => Err(format!("{} holds no certificate in PEM", file.display())),
        }
    });
    match checked {
        Ok(pem) => Some(Ca { file, pem }),
        Err(problem) => {
            doc.fault("nats", "ca_file", &problem, "name the file with the certificate of your CA (BEGIN CERTIFICATE)");
            None
        }
    }
}

fn host(text: &str) -> Checked<String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let is_name = bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    if is_name && !bare.is_empty() || bare.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok(bare.to_owned());
    }
    refuse(format!("{text:?} is not a host"), "write a name or an address alone, for example 127.0.0.1")
}

fn port(text: &str) -> Checked<u16> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => refuse(format!("{text:?} is not a port"), "write 1 to 65535; nats-server's own is 4222"),
    }
}

fn replicas(text: &str) -> Checked<usize> {
    match text.parse() {
        Ok(count) if REPLICAS.contains(&count) => Ok(count),
        _ => refuse(
            format!("{text} is not a number of copies"),
            "use 1, or 3 or 5 with a cluster of as many nats-servers",
        ),
    }
}

/// An amount of bytes within bounds.
pub(super) fn amount(text: &str, range: &RangeInclusive<Bytes>) -> Checked<Bytes> {
    match text.parse::<Bytes>() {
        Ok(bytes) if range.contains(&bytes) => Ok(bytes),
        Ok(bytes) => refuse(format!("{bytes} is out of range"), format!("use {} to {}", range.start(), range.end())),
        Err(error) => refuse(error.to_string(), "write for example \"64MiB\""),
    }
}
