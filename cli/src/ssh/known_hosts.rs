//! Which key a host must have: `known_hosts` as ssh reads it. Pure; files are read by [`super::connection`].
//!
//! Strict always: a host without an entry is refused unless its key may be pinned at first use, and one whose entries
//! name other keys is refused whatever was asked. Hashed names, patterns, ports and `@revoked` count as in ssh;
//! `@cert-authority` lines do not, because host certificates are not taken.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::hmac;
use russh::keys::{Algorithm, PublicKey};

/// One line that is about the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// File.
    pub file: String,
    /// Line in it, from 1.
    pub line: usize,
    /// The key; none where it cannot be read: then it is no key that a host shows.
    pub key: Option<PublicKey>,
    /// The key must not be taken.
    pub revoked: bool,
}

/// What the entries say of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is the host's.
    Known,
    /// Nothing is known of the host.
    Unknown,
    /// The host's is another one: the line that says so.
    Changed(Entry),
    /// It is revoked: the line that says so.
    Revoked(Entry),
}

/// As known_hosts names a host: alone at port 22.
pub fn name_of(host: &str, port: u16) -> String {
    if port == 22 { host.to_ascii_lowercase() } else { format!("[{}]:{port}", host.to_ascii_lowercase()) }
}

/// The entries of a file for a host.
pub fn entries(text: &str, file: &str, name: &str) -> Vec<Entry> {
    let line = |(index, line): (usize, &str)| {
        let mut words = line.split_whitespace().peekable();
        let marker = words.next_if(|word| word.starts_with('@'));
        let revoked = match marker {
            None => false,
            Some("@revoked") => true,
            Some(_) => return None,
        };
        words.next().filter(|hosts| !hosts.starts_with('#') && is_about(hosts, name))?;
        let (kind, key) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let key = PublicKey::from_openssh(&format!("{kind} {key}")).ok();
        Some(Entry { file: file.to_owned(), line: index + 1, key, revoked })
    };
    text.lines().enumerate().filter_map(line).collect()
}

/// Judges the key that a host showed.
pub fn judge(entries: &[Entry], key: &PublicKey) -> Verdict {
    let same = |entry: &&Entry| entry.key.as_ref().is_some_and(|known| known.key_data() == key.key_data());
    let algorithm = |entry: &Entry| entry.key.as_ref().map(PublicKey::algorithm);
    if let Some(entry) = entries.iter().filter(|entry| entry.revoked).find(same) {
        return Verdict::Revoked(entry.clone());
    }
    let valid = || entries.iter().filter(|entry| !entry.revoked);
    if valid().any(|entry| same(&entry)) {
        return Verdict::Known;
    }
    // A key of another kind than those that are known is another key, too: whoever sits in between would show one.
    let first = valid().find(|entry| algorithm(entry) == Some(key.algorithm())).or_else(|| valid().next());
    first.map_or(Verdict::Unknown, |entry| Verdict::Changed(entry.clone()))
}

/// Kinds of keys to ask the host for: those that are known first, so that it shows one that can be compared.
pub fn preferred(entries: &[Entry], all: &[Algorithm]) -> Vec<Algorithm> {
    let keys = || entries.iter().filter(|entry| !entry.revoked).filter_map(|entry| entry.key.as_ref());
    let known = |algorithm: &&Algorithm| keys().any(|key| key.algorithm() == **algorithm);
    let (first, rest): (Vec<_>, Vec<_>) = all.iter().partition(known);
    first.into_iter().chain(rest).cloned().collect()
}

/// The line that pins a key.
pub fn line_of(name: &str, key: &PublicKey) -> String {
    let text = key.to_openssh().unwrap_or_default();
    format!("{name} {}\n", text.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}

fn is_about(hosts: &str, name: &str) -> bool {
    if let Some(hashed) = hosts.strip_prefix("|1|") {
        return hashed_is(hashed, name).unwrap_or(false);
    }
    let mut found = false;
    for pattern in hosts.split(',') {
        match pattern.strip_prefix('!') {
            Some(pattern) if matches(pattern.as_bytes(), name.as_bytes()) => return false,
            Some(_) => {}
            None => found |= matches(pattern.as_bytes(), name.as_bytes()),
        }
    }
    found
}

fn hashed_is(hashed: &str, name: &str) -> Option<bool> {
    let (salt, hash) = hashed.split_once('|')?;
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &BASE64_STANDARD.decode(salt).ok()?);
    Some(hmac::verify(&key, name.as_bytes(), &BASE64_STANDARD.decode(hash).ok()?).is_ok())
}

/// `*` and `?` as in ssh; letters of either case.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => matches(rest, name) || !name.is_empty() && matches(pattern, &name[1..]),
        (Some((b'?', rest)), Some((_, name))) => matches(rest, name),
        (Some((one, rest)), Some((other, name))) => one.eq_ignore_ascii_case(other) && matches(rest, name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILIG2T/B0l0gaqj3puu510tu9N1OkQ4znY3LYuEm5zCF";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G1sz07DnfFlrouTcysQlj2P+jpNSOEWD9OJ3X";

    fn key(text: &str) -> PublicKey {
        PublicKey::from_openssh(text).expect("a key")
    }

    #[test]
    fn lines_are_about_a_host_as_ssh_takes_them() {
        let about = [
            ("box", "box"),
            ("a,box", "box"),
            ("*.example.org", "x.example.org"),
            ("[box]:2222", "[box]:2222"),
            ("b?x", "BOX"),
        ];
        for (hosts, name) in about {
            assert!(is_about(hosts, name), "{hosts} {name}");
        }
        for (hosts, name) in [("box", "box2"), ("*,!box", "box"), ("[box]:2222", "box"), ("|1|x|y", "box")] {
            assert!(!is_about(hosts, name), "{hosts} {name}");
        }
        let (salt, name) = (b"01234567890123456789", "box");
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt), name.as_bytes());
        let hashed = format!("|1|{}|{}", BASE64_STANDARD.encode(salt), BASE64_STANDARD.encode(tag.as_ref()));
        assert!(is_about(&hashed, "box") && !is_about(&hashed, "other"));
    }

    #[test]
    fn a_key_is_known_or_not_or_another_one() {
        let text = format!("# comment\n\nbox {ONE}\n@revoked box {OTHER}\n@cert-authority box {OTHER}\nelse {OTHER}\n");
        let entries = entries(&text, "known_hosts", "box");
        assert_eq!(entries.len(), 2);
        assert_eq!(judge(&entries, &key(ONE)), Verdict::Known);
        assert!(matches!(judge(&entries, &key(OTHER)), Verdict::Revoked(entry) if entry.line == 4));
        assert!(matches!(judge(&entries[..1], &key(OTHER)), Verdict::Changed(entry) if entry.line == 3));
        assert_eq!(judge(&[], &key(ONE)), Verdict::Unknown);
        // What cannot be read is no reason to trust whoever comes.
        let broken = super::entries(&format!("box {ONE}box {OTHER}\n"), "known_hosts", "box");
        assert!(matches!(judge(&broken, &key(OTHER)), Verdict::Changed(_)), "{broken:?}");
    }

    #[test]
    fn a_key_of_another_kind_is_another_key() {
        let ecdsa = Algorithm::Ecdsa { curve: russh::keys::EcdsaCurve::NistP256 };
        let key = russh::keys::PrivateKey::random(&mut russh::keys::key::safe_rng(), ecdsa.clone()).expect("made");
        let line = line_of("box", key.public_key());
        let entries = entries(&line, "known_hosts", "box");
        assert!(matches!(judge(&entries, &super::tests::key(ONE)), Verdict::Changed(_)));
        assert_eq!(preferred(&entries, &[Algorithm::Ed25519, ecdsa.clone()]), [ecdsa, Algorithm::Ed25519]);
    }
}
