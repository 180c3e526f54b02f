//! `session open`: a link to the desktop, and the browser on it.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::Args;
use helix_protocol::SessionId;
use helix_protocol::api::{CreateLink, Link};

use crate::client::Client;
use crate::error::{CliError, Result};
use crate::settings::process_env;
use crate::ui::Ui;

/// Arguments of `session open`.
#[derive(Debug, Args)]
pub struct OpenArgs {
    /// Session id
    id: SessionId,
    /// Only print the link
    #[arg(long)]
    print: bool,
    /// Life of the link in seconds, at most 7 days; 12 hours when left out
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=604_800))]
    ttl: Option<u64>,
}

/// Makes the link, prints it, opens it.
pub async fn run(client: &Client, args: OpenArgs, ui: &Ui) -> Result<()> {
    let link = client.create_link(&args.id, &CreateLink { ttl_seconds: args.ttl }).await?;
    ui.answer(&link, || ui.line(&link.url))?;
    if args.print || ui.json {
        return Ok(());
    }
    let Some(opener) = browser() else {
        ui.note("no browser can be opened from here (no xdg-open, or no display): open the link yourself");
        return Ok(());
    };
    open(&opener, &args.id, &link, ui)
}

/// `xdg-open`, where there is a display to open something on.
fn browser() -> Option<PathBuf> {
    process_env("DISPLAY").or_else(|| process_env("WAYLAND_DISPLAY"))?;
    crate::up::programs::in_path("xdg-open")
}

/// The link holds a token, and a command line is readable by everybody on the machine. So the browser is given a
/// page of this user alone that leads on to it.
fn open(opener: &Path, id: &SessionId, link: &Link, ui: &Ui) -> Result<()> {
    let dir = process_env("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let page = dir.join(format!("helix-open-{}-{}.html", id.unit_key(), std::process::id()));
    let failed = |error: std::io::Error| {
        CliError::failed("cannot open the browser")
            .at(page.display())
            .because(error)
            .next("open the printed link yourself")
    };
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&page)
        .and_then(|mut file| std::io::Write::write_all(&mut file, redirect_page(&link.url).as_bytes()))
        .map_err(failed)?;
    let status = std::process::Command::new(opener)
        .arg(&page)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(failed)?;
    if !status.success() {
        ui.warn(&format!("xdg-open ended with {status}: open the link yourself"));
    }
    Ok(())
}

fn redirect_page(url: &str) -> String {
    let url = url.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
    format!(
        "<!doctype html><meta charset=\"utf-8\"><meta name=\"referrer\" content=\"no-referrer\">\
         <meta http-equiv=\"refresh\" content=\"0; url={url}\"><title>Helix</title>\
         <a href=\"{url}\">Open the desktop</a>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_cannot_be_broken_out_of() {
        let page = redirect_page("http://h/\"><script>alert(1)</script>#token=a&b");
        assert!(!page.contains("<script>"), "{page}");
        assert!(page.contains("#token=a&amp;b"), "{page}");
    }
}
