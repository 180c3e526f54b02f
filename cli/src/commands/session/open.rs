//! `session open`: a link to the desktop, and the browser on it.

use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use helix_protocol::SessionId;
use helix_protocol::api::{CreateLink, Link};

use crate::client::Client;
use crate::error::{CliError, Result};
use crate::settings::process_env;
use crate::ui::Ui;

const PAGE_PREFIX: &str = "helix-open-";
const PAGE_SUFFIX: &str = ".html";
/// A browser has read its page by then.
const PAGE_LIFE: Duration = Duration::from_mins(1);

/// Arguments of `session open`.
#[derive(Debug, Args)]
pub struct OpenArgs {
    /// Session id
    id: SessionId,
    /// Only print the link
    #[arg(long)]
    print: bool,
    /// A link to look at the desktop and do nothing there
    #[arg(long)]
    view_only: bool,
    /// Life of the link in seconds, at most 7 days; 12 hours when left out
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=604_800))]
    ttl: Option<u64>,
}

/// Makes the link, prints it, opens it.
pub async fn run(client: &Client, args: OpenArgs, ui: &Ui) -> Result<()> {
    let dir = process_env("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    remove_old_pages(&dir);
    let link = client.create_link(&args.id, &CreateLink { ttl_seconds: args.ttl, view_only: args.view_only }).await?;
    ui.answer(&link, || ui.line(&link.url))?;
    if args.print || ui.json {
        return Ok(());
    }
    let Some(opener) = browser() else {
        ui.note("no browser can be opened from here (no xdg-open, or no display): open the link yourself");
        return Ok(());
    };
    open(&opener, &dir, &args.id, &link, ui)
}

/// `xdg-open`, where there is a display to open something on.
fn browser() -> Option<PathBuf> {
    process_env("DISPLAY").or_else(|| process_env("WAYLAND_DISPLAY"))?;
    crate::up::programs::in_path("xdg-open")
}

/// The link holds a token, and a command line is readable by everybody on the machine. So the browser is given a
/// page of this user alone that leads on to it. The browser reads it at some time after the opener has ended, so it
/// stays until a later `open`; when nothing was opened it goes at once.
fn open(opener: &Path, dir: &Path, id: &SessionId, link: &Link, ui: &Ui) -> Result<()> {
    let page = dir.join(format!("{PAGE_PREFIX}{}-{}{PAGE_SUFFIX}", id.unit_key(), std::process::id()));
    let failed = |error: std::io::Error| {
        CliError::failed("cannot open the browser")
            .at(page.display())
            .because(error)
            .next("open the printed link yourself")
    };
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&page).map_err(failed)?;
    let status = std::io::Write::write_all(&mut file, redirect_page(&link.url).as_bytes()).and_then(|()| {
        std::process::Command::new(opener)
            .arg(&page)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
    });
    if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
        let _ = std::fs::remove_file(&page);
    }
    let status = status.map_err(failed)?;
    if !status.success() {
        ui.warn(&format!("xdg-open ended with {status}: open the link yourself"));
    }
    Ok(())
}

/// Removes this user's pages of former calls. What cannot be removed is left: it is no reason not to open a session.
fn remove_old_pages(dir: &Path) {
    let user = rustix::process::geteuid().as_raw();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(PAGE_PREFIX) && name.ends_with(PAGE_SUFFIX));
        // Of the entry itself, not of what a link leads to.
        let Some(meta) = ours.then(|| entry.metadata().ok()).flatten() else { continue };
        let age = meta.modified().ok().and_then(|time| time.elapsed().ok());
        if meta.is_file() && meta.uid() == user && age.is_some_and(|age| age > PAGE_LIFE) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
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

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).expect("listed");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn only_old_pages_are_removed() {
        let temp = tempfile::tempdir().expect("a directory");
        let old = std::time::SystemTime::now() - 2 * PAGE_LIFE;
        for (name, is_old) in [
            ("helix-open-a-1.html", true),
            ("helix-open-b-2.html", false),
            ("helix-open-c-3.txt", true),
            ("other.html", true),
        ] {
            let file = std::fs::File::create(temp.path().join(name)).expect("created");
            if is_old {
                file.set_modified(old).expect("aged");
            }
        }
        remove_old_pages(temp.path());
        assert_eq!(names(temp.path()), ["helix-open-b-2.html", "helix-open-c-3.txt", "other.html"]);
        remove_old_pages(&temp.path().join("missing"));
    }

    #[test]
    fn the_page_stays_only_if_it_was_opened() {
        let temp = tempfile::tempdir().expect("a directory");
        let id = SessionId::parse("a").expect("valid id");
        let link = Link { url: "http://h/#token=a".into(), expires_at: jiff::Timestamp::UNIX_EPOCH };
        let ui = Ui::new(false, true);
        let open = |opener: &str| open(Path::new(opener), temp.path(), &id, &link, &ui);
        assert!(open("/nonexistent/xdg-open").is_err());
        assert_eq!(names(temp.path()), [""; 0]);
        assert_eq!(open("/bin/false"), Ok(()));
        assert_eq!(names(temp.path()), [""; 0]);
        assert_eq!(open("/bin/true"), Ok(()));
        assert_eq!(names(temp.path()).len(), 1);
    }
}
