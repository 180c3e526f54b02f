//! What a host takes: a manifest of files, signed with the operator's key (SSHSIG, as `ssh-keygen -Y sign` makes it).
//!
//! The host proves it with its own `ssh-keygen -Y verify`, against the public half that it was given at its first
//! provisioning, before anything of it is used. Without a key nothing is installed.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use helix_protocol::image::SIGNATURE_NAMESPACE;
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, HashAlg, PrivateKey};

use super::wanted::WantedFile;
use crate::error::{CliError, Kind, Result};
use crate::settings::{Env, xdg};

/// Where the host keeps whom it believes.
pub const ALLOWED_SIGNERS: &str = "/etc/helix/allowed_signers";
/// The only name in that file, and what signatures are for.
pub const NAMESPACE: &str = "helix-provision";

/// The operator's signing key.
pub struct SigningKey(PrivateKey);

impl SigningKey {
    /// `~/.config/helix/provision.key`.
    pub fn default_path(env: Env<'_>) -> Result<PathBuf> {
        Ok(xdg(env, "XDG_CONFIG_HOME", ".config")?.join("helix/provision.key"))
    }

    /// The public half, beside the key.
    pub fn public_path(path: &Path) -> PathBuf {
        path.with_extension("key.pub")
    }

    /// Reads the key.
    pub fn load(path: &Path) -> Result<Self> {
        let bad = |why: String, next: &str| {
            CliError::new(Kind::Usage, "cannot read the signing key").at(path.display()).because(why).next(next)
        };
        let make = format!("helixctl key new --out {}", path.display());
        let meta = std::fs::metadata(path).map_err(|error| bad(error.to_string(), &make))?;
        let mode = meta.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(bad(format!("others can read it (mode {mode:04o})"), &format!("chmod 600 {}", path.display())));
        }
        let key = PrivateKey::read_openssh_file(path).map_err(|error| bad(error.to_string(), &make))?;
        if key.is_encrypted() || key.algorithm() != Algorithm::Ed25519 {
            return Err(bad("it is not an Ed25519 key without a passphrase".to_owned(), &make));
        }
        Ok(Self(key))
    }

    /// Makes a key in a file that is not there yet, and `FILE.pub` beside it.
    pub fn create(path: &Path) -> Result<Self> {
        let bad = |why: String, next: &str| {
            CliError::failed("cannot make a signing key").at(path.display()).because(why).next(next)
        };
        let disk = |error: std::io::Error| bad(error.to_string(), "name another file: --out FILE");
        let key = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519);
        let mut key = key.map_err(|error| bad(error.to_string(), "try again"))?;
        key.set_comment(NAMESPACE);
        let text = key.to_openssh(LineEnding::LF).map_err(|error| bad(error.to_string(), "try again"))?;
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(disk)?;
        }
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path).map_err(disk)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(disk)?;
        let key = Self(key);
        std::fs::write(Self::public_path(path), format!("{} {NAMESPACE}\n", key.public())).map_err(disk)?;
        Ok(key)
    }

    /// `ssh-ed25519 AAAA…`.
    pub fn public(&self) -> String {
        let text = self.0.public_key().to_openssh().unwrap_or_default();
        text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    /// `SHA256:…`, for people to compare.
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }

    /// The line of [`ALLOWED_SIGNERS`]: what it installs there, and the images that its sessions run in.
    pub fn allowed_signers(&self) -> String {
        format!("{NAMESPACE} namespaces=\"{NAMESPACE},{SIGNATURE_NAMESPACE}\" {}\n", self.public())
    }

    /// A signature of what `provision` installs, as a file for `ssh-keygen -Y verify`.
    pub fn sign(&self, text: &str) -> Result<String> {
        self.sign_as(NAMESPACE, text)
    }

    /// The same for something else: a signature counts for its namespace alone.
    pub fn sign_as(&self, namespace: &str, text: &str) -> Result<String> {
        let bad = |error: russh::keys::ssh_key::Error| CliError::failed("cannot sign the manifest").because(error);
        let signature = self.0.sign(namespace, HashAlg::Sha512, text.as_bytes()).map_err(bad)?;
        signature.to_pem(LineEnding::LF).map_err(bad)
    }
}

/// What is signed: for whom, and of each file digest, mode, number in the upload, and place.
pub fn manifest(runner: &str, files: &[WantedFile]) -> String {
    let mut text = format!("# helix-provision 1 {runner}\n");
    for (number, file) in files.iter().enumerate() {
        let _ = writeln!(text, "{} {:o} {number} {}", file.sha256, file.mode, file.path);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_private_made_once_and_signs_what_it_verifies() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("new/provision.key");
        let key = SigningKey::create(&path).expect("made");
        assert!(SigningKey::create(&path).is_err(), "it is not overwritten");
        assert_eq!(SigningKey::load(&path).expect("read").public(), key.public());
        let text = manifest("r1", &[WantedFile::new("/etc/x", 0o600, "content")]);
        assert!(text.ends_with(" 600 0 /etc/x\n"), "{text}");
        let signature = key.sign(&text).expect("signed");
        let signature = russh::keys::ssh_key::SshSig::from_pem(&signature).expect("a signature");
        let public = key.0.public_key();
        assert!(public.verify(NAMESPACE, text.as_bytes(), &signature).is_ok());
        assert!(public.verify("other", text.as_bytes(), &signature).is_err());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("changed");
        assert_eq!(SigningKey::load(&path).err().expect("refused").kind, Kind::Usage);
    }
}
