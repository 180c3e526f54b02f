//! A CA of a test, and one certificate that it signed.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// Files in PEM.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// Who signed.
    pub ca: PathBuf,
    /// The certificate, for servers and for members of a cluster.
    pub cert: PathBuf,
    /// Its key, 0600.
    pub key: PathBuf,
}

impl Certificates {
    /// Makes them in `dir`, with names that begin with `name`; of loopback.
    pub fn make(dir: &Path, name: &str) -> Result<Self> {
        Self::make_for(dir, name, &["localhost", "127.0.0.1"])
    }

    /// The same for other names and addresses.
    pub fn make_for(dir: &Path, name: &str, hosts: &[&str]) -> Result<Self> {
        let at = |what: &str| dir.join(format!("{name}{what}"));
        let files = Self { ca: at("ca.pem"), cert: at("nats.pem"), key: at("nats.key") };
        let mut root = CertificateParams::new(Vec::new())?;
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_key = KeyPair::generate()?;
        std::fs::write(&files.ca, root.self_signed(&root_key)?.pem())?;
        let issuer = Issuer::new(root, root_key);
        let mut leaf = CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>())?;
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let leaf_key = KeyPair::generate()?;
        std::fs::write(&files.cert, leaf.signed_by(&leaf_key, &issuer)?.pem())?;
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&files.key)?;
        file.write_all(leaf_key.serialize_pem().as_bytes())?;
        Ok(files)
    }
}
