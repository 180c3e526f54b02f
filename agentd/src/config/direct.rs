//! `[direct]`: ports of sessions on an address of this machine, for a list of networks.

use std::net::IpAddr;
use std::str::FromStr;

use serde::Deserialize;

/// Where sessions' ports are opened, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Direct {
    /// Address to listen on.
    pub listen: IpAddr,
    /// What viewers call it.
    pub host: String,
    /// Networks from which viewers come; never empty.
    pub allow: Vec<Network>,
}

impl Direct {
    /// Whether whoever comes from there is let to the door.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.allow.iter().any(|network| network.contains(address))
    }
}

/// The table as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DirectTable {
    listen: Option<String>,
    host: Option<String>,
    #[serde(default)]
    allow: Vec<String>,
}

impl DirectTable {
    /// Checks it. The faults say what is wrong and what to write.
    pub(super) fn check(self) -> Result<Direct, Vec<(String, &'static str)>> {
        let mut faults = Vec::new();
        let listen = self.listen.as_deref().map(IpAddr::from_str);
        if !matches!(listen, Some(Ok(_))) {
            let given = self.listen.unwrap_or_default();
            faults.push((format!("`listen` is {given:?} and no address"), "write listen = \"10.0.0.5\""));
        }
        let listen = listen.and_then(Result::ok);
        if listen.is_some_and(|listen| listen.is_unspecified()) && self.host.is_none() {
            faults.push((
                "`listen` is every address, which nobody can connect to".to_owned(),
                "add host = \"…\", as viewers name this machine",
            ));
        }
        if self.host.as_deref().is_some_and(|host| !is_host(host)) {
            faults.push(("`host` is no name and no address".to_owned(), "write host = \"runner-1.example.org\""));
        }
        if self.allow.is_empty() {
            faults.push((
                "`allow` is missing or empty: nobody could come, and nobody shall come from everywhere by mistake"
                    .to_owned(),
                "write allow = [\"10.0.0.0/8\"]",
            ));
        }
        let mut allow = Vec::new();
        for text in &self.allow {
            match text.parse() {
                Ok(network) => allow.push(network),
                Err(NetworkError) => faults.push((
                    format!("`allow`: {text:?} is no network"),
                    "write for example \"10.0.0.0/8\" or \"fd00::/8\"",
                )),
            }
        }
        match listen {
            Some(listen) if faults.is_empty() => {
                Ok(Direct { listen, host: self.host.unwrap_or_else(|| listen.to_string()), allow })
            }
            _ => Err(faults),
        }
    }
}

fn is_host(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
    (1..=253).contains(&text.len()) && text.chars().all(fits)
}

/// Addresses that begin alike, `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// A text is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkError;

impl Network {
    /// Whether this address is one of them. IPv4 inside of IPv6 is IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let wide = |address: IpAddr| match address.to_canonical() {
            IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, true),
            IpAddr::V6(address) => (u128::from(address), false),
        };
        let ((own, own_kind), (other, kind)) = (wide(self.address), wide(address));
        let differ = (own ^ other).checked_shr(128 - u32::from(self.bits)).unwrap_or(0);
        own_kind == kind && differ == 0
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| NetworkError)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits > most { Err(NetworkError) } else { Ok(Self { address, bits }) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn nobody_is_let_in_from_everywhere_by_mistake() {
        let check = |text: &str| toml::from_str::<DirectTable>(text).unwrap().check();
        let good = check("listen = \"10.0.0.5\"\nallow = [\"10.0.0.0/8\"]").unwrap();
        assert_eq!((good.host.as_str(), good.allow.len()), ("10.0.0.5", 1));
        assert!(good.allows("10.9.9.9".parse().unwrap()) && !good.allows("192.0.2.1".parse().unwrap()));
        for (bad, named) in [
            ("listen = \"10.0.0.5\"", "allow"),
            ("listen = \"10.0.0.5\"\nallow = []", "allow"),
            ("listen = \"10.0.0.5\"\nallow = [\"10.0.0.0/99\"]", "10.0.0.0/99"),
            ("allow = [\"10.0.0.0/8\"]", "listen"),
            ("listen = \"here\"\nallow = [\"10.0.0.0/8\"]", "here"),
            ("listen = \"0.0.0.0\"\nallow = [\"10.0.0.0/8\"]", "every address"),
            ("listen = \"10.0.0.5\"\nhost = \"a b\"\nallow = [\"10.0.0.0/8\"]", "host"),
        ] {
            let faults = check(bad).unwrap_err();
            assert!(faults.len() == 1 && faults[0].0.contains(named), "{bad}: {faults:?}");
        }
    }

    #[test]
    fn a_network_is_the_addresses_that_begin_alike() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
            ("0.0.0.0/0", "192.0.2.1", "fd00::1"),
            ("::/0", "fd00::1", "192.0.2.1"),
            ("192.0.2.0/25", "::ffff:192.0.2.127", "192.0.2.128"),
            ("fd00::/8", "fdff::1", "fe00::1"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{inside} in {network:?}");
            assert!(!network.contains(outside.parse().unwrap()), "{outside} in {network:?}");
        }
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/", "10.0.0.0/-1", "fd00::/129", "here"] {
            assert_eq!(bad.parse::<Network>(), Err(NetworkError), "{bad}");
        }
    }
}
