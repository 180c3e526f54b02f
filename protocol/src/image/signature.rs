//! Who is believed about images: the keys of an `allowed_signers` file (ssh-keygen(1)), and signatures by them (SSHSIG).
//! Without such a key nothing is believed. Pure.

use ssh_key::{Algorithm, HashAlg, PublicKey, SshSig};

use super::{ImageManifest, ManifestError, SIGNATURE_NAMESPACE, SignedManifest};

/// Keys whose images are taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signers(Vec<PublicKey>);

/// Why a manifest is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Nobody is.
    #[error("no key is trusted for images")]
    NoKey,
    /// Not a signature at all.
    #[error("its signature cannot be read: {0}")]
    Unreadable(String),
    /// Of somebody else.
    #[error("it is signed by the key {key}, which is not trusted for images; trusted are: {trusted}")]
    UnknownKey {
        /// Fingerprint, `SHA256:…`.
        key: String,
        /// Those of the keys that are, with commas between.
        trusted: String,
    },
    /// Of a trusted key, and not over this.
    #[error("the signature by {0} is not over this manifest: it was changed, or signed for something else")]
    Wrong(String),
    /// It is signed, and no manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl Signers {
    /// The Ed25519 keys of an `allowed_signers` file that may sign images: those whose `namespaces` have
    /// [`SIGNATURE_NAMESPACE`], or that are not restricted. The public half of a key (`FILE.pub`) is such a file, too.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(key_for_images).collect())
    }

    /// Nobody is believed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `SHA256:…` of each.
    pub fn fingerprints(&self) -> Vec<String> {
        self.0.iter().map(|key| key.fingerprint(HashAlg::Sha256).to_string()).collect()
    }

    /// Fingerprint of the one of them that has signed it.
    pub fn signer(&self, signed: &SignedManifest) -> Option<String> {
        self.verify(signed).ok()?;
        let signature = SshSig::from_pem(&signed.signature).ok()?;
        Some(signature.public_key().fingerprint(HashAlg::Sha256).to_string())
    }

    /// What a manifest says that one of them has signed.
    pub fn verify(&self, signed: &SignedManifest) -> Result<ImageManifest, SignatureError> {
        if self.is_empty() {
            return Err(SignatureError::NoKey);
        }
        let signature = SshSig::from_pem(&signed.signature);
        let signature = signature.map_err(|error| SignatureError::Unreadable(error.to_string()))?;
        let by = signature.public_key();
        let Some(key) = self.0.iter().find(|key| key.key_data() == by) else {
            let key = by.fingerprint(HashAlg::Sha256).to_string();
            return Err(SignatureError::UnknownKey { key, trusted: self.fingerprints().join(", ") });
        };
        let wrong = |_| SignatureError::Wrong(key.fingerprint(HashAlg::Sha256).to_string());
        key.verify(SIGNATURE_NAMESPACE, signed.manifest.as_bytes(), &signature).map_err(wrong)?;
        Ok(signed.read()?)
    }
}

/// `PRINCIPALS [OPTIONS] ssh-ed25519 AAAA… [COMMENT]`.
fn key_for_images(line: &str) -> Option<PublicKey> {
    let line = line.trim();
    let at = line.find("ssh-ed25519 ").filter(|_| !line.starts_with('#'))?;
    let options = line[..at].split_once(char::is_whitespace).map_or("", |(_, options)| options.trim());
    if options.contains("cert-authority") {
        return None;
    }
    if let Some((_, rest)) = options.split_once("namespaces=\"") {
        let namespaces = rest.split('"').next().unwrap_or_default();
        namespaces.split(',').find(|namespace| *namespace == SIGNATURE_NAMESPACE)?;
    }
    let words: Vec<&str> = line[at..].split_whitespace().take(2).collect();
    PublicKey::from_openssh(&words.join(" ")).ok().filter(|key| key.algorithm() == Algorithm::Ed25519)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by `ssh-keygen -Y sign -n helix-image` and `-n other` with a key that was thrown away.
    const KEY: &str = include_str!("signature/key.pub");
    const MANIFEST: &str = include_str!("signature/manifest.json");
    const SIGNATURE: &str = include_str!("signature/manifest.sig");
    const FOR_OTHER: &str = include_str!("signature/manifest.other.sig");
    const STRANGER: &str = include_str!("signature/manifest.stranger.sig");

    fn signed(signature: &str) -> SignedManifest {
        SignedManifest { manifest: MANIFEST.to_owned(), signature: signature.to_owned() }
    }

    fn signers(options: &str) -> Signers {
        Signers::parse(&format!("# whom we believe\n\nhelix-provision {options} {KEY}\n"))
    }

    #[test]
    fn a_signature_of_ssh_keygen_by_a_trusted_key_is_believed() {
        for options in ["namespaces=\"helix-provision,helix-image\"", "namespaces=\"helix-image\"", ""] {
            let manifest = signers(options).verify(&signed(SIGNATURE)).expect(options);
            assert_eq!(manifest.name, "dev");
        }
        assert_eq!(Signers::parse(KEY).verify(&signed(SIGNATURE)).expect("a public key's own file").name, "dev");
    }

    #[test]
    fn everything_else_is_not() {
        let trusted = signers("namespaces=\"helix-image\"");
        for (signers, signed, says) in [
            (Signers::default(), signed(SIGNATURE), "no key is trusted"),
            (signers("namespaces=\"helix-provision\""), signed(SIGNATURE), "no key is trusted"),
            (signers("cert-authority"), signed(SIGNATURE), "no key is trusted"),
            (trusted.clone(), signed(STRANGER), "which is not trusted"),
            (trusted.clone(), signed(FOR_OTHER), "is not over this manifest"),
            (trusted.clone(), signed("no signature"), "cannot be read"),
            (
                trusted.clone(),
                SignedManifest { manifest: MANIFEST.replace("dev", "bad"), ..signed(SIGNATURE) },
                "is not over this manifest",
            ),
        ] {
            let error = signers.verify(&signed).expect_err(says).to_string();
            assert!(error.contains(says), "{error}");
        }
        let error = trusted.verify(&signed(STRANGER)).expect_err("a stranger").to_string();
        assert!(error.contains(&trusted.fingerprints()[0]) && error.matches("SHA256:").count() == 2, "{error}");
    }
}
