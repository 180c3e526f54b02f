//! A property's value: typed as systemd wants it over D-Bus, printed as in a unit file.

use std::fmt;

use zbus::{OwnedVariant, Variant};

/// `MS_REC`: mounts below the source come along.
const RECURSIVE: u64 = 0x4000;

/// `CLONE_NEW…` and systemd's word for it.
const NAMESPACES: [(u64, &str); 7] = [
    (0x0200_0000, "cgroup"),
    (0x0800_0000, "ipc"),
    (0x4000_0000, "net"),
    (0x0002_0000, "mnt"),
    (0x2000_0000, "pid"),
    (0x1000_0000, "user"),
    (0x0400_0000, "uts"),
];

/// The value of one property. A wrong type is refused by systemd without the property's name, hence types here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `b`.
    Bool(bool),
    /// `i`.
    I32(i32),
    /// `u`.
    U32(u32),
    /// `t`; the greatest is infinity.
    U64(u64),
    /// `t`: the kinds of namespaces that may be made.
    Namespaces(u64),
    /// `s`.
    Text(String),
    /// `as`.
    Texts(Vec<String>),
    /// `(bas)`: allowed or denied.
    List(bool, Vec<String>),
    /// `a(sb)`: files, each of which must be there.
    Files(Vec<String>),
    /// `a(ss)`: path and mount options.
    Mounts(Vec<(String, String)>),
    /// `a(ssbt)`: source, destination, and whether a missing source is passed over.
    Binds(Vec<(String, String, bool)>),
}

impl Value {
    /// A text.
    pub fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    /// A list of what is allowed or denied.
    pub fn list(allowed: bool, names: &[&str]) -> Self {
        Self::List(allowed, names.iter().map(|name| (*name).to_owned()).collect())
    }
}

impl From<Value> for OwnedVariant {
    fn from(value: Value) -> Self {
        let value = match value {
            Value::Bool(value) => Variant::from(value),
            Value::I32(value) => Variant::from(value),
            Value::U32(value) => Variant::from(value),
            Value::U64(value) | Value::Namespaces(value) => Variant::from(value),
            Value::Text(value) => Variant::from(value),
            Value::Texts(value) => Variant::from(value),
            Value::List(allowed, names) => Variant::from((allowed, names)),
            Value::Files(files) => Variant::from(files.into_iter().map(|file| (file, false)).collect::<Vec<_>>()),
            Value::Mounts(mounts) => Variant::from(mounts),
            Value::Binds(binds) => {
                let typed = binds.into_iter().map(|(from, to, optional)| (from, to, optional, RECURSIVE));
                Variant::from(typed.collect::<Vec<_>>())
            }
        };
        // Only a file descriptor can fail to be owned.
        Self::try_from(value).expect("the value holds no file descriptor")
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => f.write_str(if *value { "yes" } else { "no" }),
            Self::I32(value) => value.fmt(f),
            Self::U32(value) => write!(f, "{value:04o}"),
            Self::U64(u64::MAX) => f.write_str("infinity"),
            Self::U64(value) => value.fmt(f),
            Self::Namespaces(kinds) => {
                let named = NAMESPACES.iter().filter(|(bit, _)| kinds & bit != 0);
                f.write_str(&named.map(|(_, name)| *name).collect::<Vec<_>>().join(" "))
            }
            Self::Text(value) => f.write_str(value),
            Self::Texts(values) | Self::Files(values) => f.write_str(&values.join(" ")),
            Self::List(allowed, names) => write!(f, "{}{}", if *allowed { "" } else { "~" }, names.join(" ")),
            Self::Mounts(mounts) => {
                let words: Vec<String> = mounts.iter().map(|(path, options)| format!("{path}:{options}")).collect();
                f.write_str(&words.join(" "))
            }
            Self::Binds(binds) => {
                let word = |(from, to, optional): &(String, String, bool)| {
                    format!("{}{from}:{to}", if *optional { "-" } else { "" })
                };
                f.write_str(&binds.iter().map(word).collect::<Vec<_>>().join(" "))
            }
        }
    }
}
