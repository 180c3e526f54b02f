//! xrdp's settings and certificate.
//!
//! One xrdp serves one client, so that what comes out of it is known to be that client's. What it serves is a VNC port of
//! its own network, with what the client typed as user and password.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// As packages call it.
pub(super) const PROGRAM: &str = "xrdp";

/// Where a unit's certificate and key are.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
}

/// Makes a certificate that vouches for nobody, P-256, and writes it with its key to `dir`; whatever is written here is
/// private (umask). Each unit has another one.
pub(super) fn certify(dir: &Path) -> anyhow::Result<Certificate> {
    let made =
        rcgen::generate_simple_self_signed(vec!["helix-session".to_owned()]).context("no certificate can be made")?;
    let paths = Certificate { certificate: dir.join("cert.pem"), key: dir.join("key.pem") };
    let write =
        |path: &Path, text: String| fs::write(path, text).with_context(|| format!("cannot write {}", path.display()));
    write(&paths.certificate, made.cert.pem())?;
    write(&paths.key, made.signing_key.serialize_pem())?;
    Ok(paths)
}

/// Settings of an xrdp that listens on port `rdp` and connects to port `vnc`, both of 127.0.0.1.
pub(super) fn settings(certificate: &Certificate, rdp: u16, vnc: u16) -> String {
    let Certificate { certificate, key } = certificate;
    let mut text = String::new();
    let sections: [(&str, &[(&str, &str)]); 4] = [
        (
            "Globals",
            &[
                ("ini_version", "1"),
                // One client, one process.
                ("fork", "false"),
                ("port", &format!("tcp://127.0.0.1:{rdp}")),
                ("tcp_nodelay", "true"),
                ("tcp_keepalive", "true"),
                ("security_layer", "tls"),
                ("crypt_level", "high"),
                ("certificate", &certificate.to_string_lossy()),
                ("key_file", &key.to_string_lossy()),
                ("ssl_protocols", "TLSv1.2, TLSv1.3"),
                ("autorun", "desktop"),
                // A client that sends none (mstsc) is asked by xrdp.
                ("require_credentials", "false"),
                ("allow_channels", "true"),
                ("allow_multimon", "false"),
                ("max_bpp", "32"),
                ("new_cursors", "true"),
                ("use_fastpath", "both"),
            ],
        ),
        // What it logs may name what a client typed.
        (
            "Logging",
            &[("LogFile", "/dev/null"), ("LogLevel", "ERROR"), ("EnableSyslog", "false"), ("EnableConsole", "false")],
        ),
        (
            "Channels",
            &[("drdynvc", "true"), ("cliprdr", "true"), ("rdpdr", "false"), ("rdpsnd", "false"), ("rail", "false")],
        ),
        (
            "desktop",
            &[
                ("name", "desktop"),
                ("lib", "libvnc.so"),
                ("username", "ask"),
                ("password", "ask"),
                ("ip", "127.0.0.1"),
                ("port", &vnc.to_string()),
            ],
        ),
    ];
    for (section, values) in sections {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "[{section}]");
        for (name, value) in values {
            let _ = writeln!(text, "{name}={value}");
        }
    }
    text
}
