//! What fontconfig remembers of an image's fonts: made anew for each pack, with the times that directories have in the image.
//!
//! Sessions have a home of their own, where there is no such memory: without that of the image every start reads every font.
//! What packages' own scripts left is of the times before they were clamped, and of no use.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::mount::mount_bind;

use super::PackJob;
use super::root::{May, Root, finish};
use crate::error::{CliError, Result};

/// Where fontconfig keeps it.
const PLACE: &str = "var/cache/fontconfig";
/// Where it looks for fonts (`/etc/fonts/fonts.conf` of Debian and Ubuntu).
const FONTS: [&str; 2] = ["usr/share/fonts", "usr/local/share/fonts"];
/// What makes it.
const PROGRAM: &str = "usr/bin/fc-cache";

/// Lays the memory of fonts over what is packed; an empty one where nothing makes it.
pub fn remember(job: &PackJob, packed: &Root) -> Result<()> {
    let place = packed.path.join(PLACE);
    if !place.is_dir() {
        return Ok(());
    }
    let work = job.work.join("fonts");
    let failed = |path: &Path, error: std::io::Error| {
        CliError::failed("cannot keep what fontconfig remembers").at(path.display()).because(error)
    };
    fs::create_dir(&work).map_err(|error| failed(&work, error))?;
    let mut made = work.join("none");
    if packed.path.join(PROGRAM).exists() {
        let root = Root::writable(&job.layers, &job.names, &work, job.source_date)?;
        // As the pack does. fc-cache removes what it made of a directory that is newer than SOURCE_DATE_EPOCH.
        for fonts in FONTS {
            let latest = SystemTime::UNIX_EPOCH + Duration::from_secs(job.source_date);
            if let Some(place) = directory(&root.path, fonts) {
                clamp(&place, latest).map_err(|error| failed(&place, error))?;
            }
        }
        let mut command = root.command(May::Build, "/usr/bin/fc-cache");
        finish(command.args(["--system-only", "--force"]), "fontconfig cannot read the image's fonts")?;
        let written = work.join("upper").join(PLACE);
        if written.is_dir() {
            made = written;
        }
    }
    fs::create_dir_all(&made).map_err(|error| failed(&made, error))?;
    mount_bind(&made, &place).map_err(|error| failed(&place, error.into()))
}

/// That directory of the image; none where it is another thing: a link would lead out of the image.
fn directory(root: &Path, below: &str) -> Option<PathBuf> {
    Path::new(below).components().try_fold(root.to_owned(), |dir, name| {
        let place = dir.join(name);
        fs::symlink_metadata(&place).is_ok_and(|meta| meta.is_dir()).then_some(place)
    })
}

/// Gives this time to a directory, and to every one below, that is newer.
fn clamp(dir: &Path, latest: SystemTime) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            clamp(&entry.path(), latest)?;
        }
    }
    let dir = File::open(dir)?;
    if dir.metadata()?.modified()? > latest {
        dir.set_modified(latest)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_elsewhere_is_left_alone() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(root.join("usr/share/fonts/deep")).expect("made");
        fs::create_dir_all(root.join("usr/local")).expect("made");
        fs::create_dir(&outside).expect("made");
        std::os::unix::fs::symlink(&outside, root.join("usr/local/share")).expect("made");
        std::os::unix::fs::symlink(&outside, root.join("usr/share/fonts/link")).expect("made");
        assert_eq!(directory(&root, "usr/local/share"), None);
        assert_eq!(directory(&root, "usr/share/none"), None);
        let fonts = directory(&root, FONTS[0]).expect("a directory");
        let (latest, time) =
            (SystemTime::UNIX_EPOCH, |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()));
        clamp(&fonts, latest).expect("clamped");
        assert_eq!(time(&fonts.join("deep")).ok(), Some(latest));
        assert!(time(&outside).expect("there") > latest);
    }
}
