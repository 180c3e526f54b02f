//! Arguments that several commands share: secrets by name, and none by value.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;

use crate::error::{CliError, Kind, Result};
use crate::settings::Env;

/// Secrets of a session, as flags.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct SecretArgs {
    /// Secret of `helixctl secret set` that its agent gets as environment variable NAME; may be repeated
    #[arg(long = "secret", value_name = "NAME")]
    secrets: Vec<String>,
    /// The same with the value that this variable has here, without storing it; may be repeated
    #[arg(long = "secret-env", value_name = "NAME")]
    secrets_env: Vec<String>,
}

impl SecretArgs {
    /// Names, with a value where it is not a stored one.
    pub fn read(&self, command: &str, env: Env<'_>) -> Result<BTreeMap<String, Option<String>>> {
        let mut secrets = BTreeMap::new();
        for name in self.secrets.iter().chain(&self.secrets_env) {
            if let Some((name, _)) = name.split_once('=') {
                return Err(value_is_seen(name, command));
            }
        }
        secrets.extend(self.secrets.iter().map(|name| (name.clone(), None)));
        for name in &self.secrets_env {
            secrets.insert(name.clone(), Some(variable(name, env)?));
        }
        Ok(secrets)
    }
}

/// A time such as `90s`, `15m`, `12h`, `30d`; a number alone means seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => 0,
    };
    let number = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds));
    number
        .filter(|_| seconds > 0)
        .map(Duration::from_secs)
        .ok_or_else(|| "write it like 90s, 15m, 12h or 30d".to_owned())
}

/// Value of an environment variable.
pub fn variable(name: &str, env: Env<'_>) -> Result<String> {
    env(name).ok_or_else(|| {
        CliError::new(Kind::Usage, format!("the environment has no value for {name}"))
            .because("the variable is not set, empty, or not UTF-8 text")
            .next(format!("export {name}, or store it: helixctl secret set {name}"))
    })
}

/// A secret's value stands in the arguments.
pub fn value_is_seen(name: &str, command: &str) -> CliError {
    CliError::new(Kind::Usage, format!("the value of {name} must not be an argument"))
        .at(command)
        .because(
            "everybody on this machine can read the arguments of a command, and shells keep them: if this value \
             mattered, take another",
        )
        .next(format!(
            "printf %s \"$VALUE\" | helixctl secret set {name}; or take it from the environment: --{} {name}",
            if command.ends_with("set") { "value-from-env" } else { "secret-env" }
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        let seconds = |text| parse_duration(text).map(|time| time.as_secs());
        assert_eq!(["0s", "7", "15m", "12h", "30d"].map(seconds), [0, 7, 900, 43_200, 2_592_000].map(Ok));
        for bad in ["", "m", "1w", "1.5h", "-1s", "99999999999999999999s", "1000000000000000000d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_are_stored_ones_or_of_the_environment_and_never_arguments() {
        let env = |name: &str| (name == "KEY").then(|| "value".to_owned());
        let read = |secrets: &[&str], secrets_env: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            SecretArgs { secrets: owned(secrets), secrets_env: owned(secrets_env) }.read("helixctl run", &env)
        };
        let both = read(&["STORED"], &["KEY"]).expect("secrets");
        assert_eq!(both, [("KEY".to_owned(), Some("value".to_owned())), ("STORED".to_owned(), None)].into());
        for (secrets, secrets_env) in [(&["KEY=sk-1"][..], &[][..]), (&[], &["KEY=sk-1"]), (&[], &["MISSING"])] {
            let error = read(secrets, secrets_env).expect_err("refused");
            assert!(error.kind == Kind::Usage && !error.to_string().contains("sk-1"), "{error}");
        }
    }
}
