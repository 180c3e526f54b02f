//! `[scale]`: who is told what room is missing.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use super::document::Document;
use super::{Checked, duration, refuse, secrets};
use crate::scale::{Hook, ScaleConfig};

const SECTION: &str = "scale";

/// Reads the section; notes faults. `None` without a hook.
pub(super) fn read(doc: &mut Document<'_>) -> Option<ScaleConfig> {
    let mut span = |key, default: &str, least, most| {
        let check = |text: &str| duration(text).and_then(|span| within(span, least, most));
        doc.text(SECTION, key, None).or(default).check(doc, check)
    };
    let (second, hour) = (Duration::from_secs(1), Duration::from_hours(1));
    let after = span("after", "30s", second, 24 * hour);
    let shrink_after = span("shrink_after", "15m", second, 7 * 24 * hour);
    let pause = span("pause", "10s", second, hour);
    let timeout = span("timeout", "30s", second, 10 * Duration::from_mins(1));
    let (command, webhook) = (doc.texts(SECTION, "command"), webhook(doc));
    let hook = match (command, webhook) {
        (Some(_), Some(_)) => {
            doc.fault(SECTION, "webhook", "there is a command, too", "give one of command and webhook");
            return None;
        }
        (Some(argv), None) => {
            if let Err((problem, fix)) = program(&argv) {
                doc.fault(SECTION, "command", &problem, &fix);
                return None;
            }
            Hook::Command(argv)
        }
        (None, Some(hook)) => hook,
        (None, None) => return None,
    };
    Some(ScaleConfig { hook, after: after?, shrink_after: shrink_after?, pause: pause?, timeout: timeout? })
}

fn within(span: Duration, least: Duration, most: Duration) -> Checked<Duration> {
    if (least..=most).contains(&span) {
        return Ok(span);
    }
    refuse(format!("{span:?} is out of range"), format!("use {least:?} to {most:?}"))
}

/// Found now rather than when sessions wait.
fn program(argv: &[String]) -> Checked<()> {
    let Some(program) = argv.first().map(Path::new) else {
        return refuse("it is empty", "write for example [\"/usr/local/bin/add-machines\", \"--small\"]");
    };
    if !program.is_absolute() {
        return refuse(format!("{} is not an absolute path", program.display()), "write the program's whole path");
    }
    match std::fs::metadata(program) {
        Err(error) => refuse(format!("{} cannot be used: {error}", program.display()), "name a program that is there"),
        Ok(found) if !found.is_file() || found.permissions().mode() & 0o111 == 0 => refuse(
            format!("{} is not executable", program.display()),
            format!("make it so: chmod +x {}", program.display()),
        ),
        Ok(_) => Ok(()),
    }
}

fn webhook(doc: &mut Document<'_>) -> Option<Hook> {
    let file = doc.optional_path(SECTION, "webhook_secret_file");
    let url = doc.text(SECTION, "webhook", None).or("").check(doc, |text| match text {
        "" => Ok(None),
        text => address(text).map(Some),
    })??;
    let Some(file) = file else {
        let fix = "name a file with mode 0600 that holds a random text: head -c 32 /dev/urandom | base64";
        doc.fault(SECTION, "webhook_secret_file", "what is told must be signed", fix);
        return None;
    };
    let secret = secrets::secret(doc, SECTION, "webhook_secret_file", &file)?;
    Some(Hook::Webhook { url, secret })
}

/// HTTPS, or HTTP to this very machine.
fn address(text: &str) -> Checked<String> {
    let fix = "write for example \"https://scale.example.org/helix\"; http is for 127.0.0.1, [::1] and localhost alone";
    let Ok(url) = reqwest::Url::parse(text) else {
        return refuse(format!("{text:?} is not a URL"), fix);
    };
    let is_here = matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
    match url.scheme() {
        _ if !url.username().is_empty() || url.password().is_some() => {
            refuse("it holds credentials, which would be in the log", "leave them out: calls are signed")
        }
        "https" => Ok(text.to_owned()),
        "http" if is_here => Ok(text.to_owned()),
        _ => refuse("it is not https: whoever is on the way could read and change what is told", fix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_program_that_can_be_run_is_taken() {
        let problem = |argv: &[&str]| {
            program(&argv.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>()).err().map(|(problem, _)| problem)
        };
        assert_eq!(problem(&["/bin/sh", "-c", "true"]), None);
        assert_eq!(problem(&[]).as_deref(), Some("it is empty"));
        assert_eq!(problem(&["sh"]).as_deref(), Some("sh is not an absolute path"));
        assert_eq!(problem(&["/etc/passwd"]).as_deref(), Some("/etc/passwd is not executable"));
        assert_eq!(problem(&["/"]).as_deref(), Some("/ is not executable"));
        assert!(problem(&["/nowhere/x"]).is_some_and(|problem| problem.contains("No such file")));
    }

    #[test]
    fn what_is_told_crosses_no_network_in_plaintext() {
        for good in ["https://h.example.org/x?y=1", "http://127.0.0.1:9/x", "http://[::1]:9", "http://localhost/"] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in [
            "http://h.example.org",
            "ftp://localhost/",
            "h.example.org",
            "https://u:p@h/",
            "",
            "http://127.0.0.2.evil/",
        ] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
