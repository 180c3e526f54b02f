//! What fontconfig remembers of an image's fonts: made anew for each pack, with the times that directories have in the image.
//!
//! Sessions have a home of their own, where there is no such memory: without that of the image every start reads every font.
//! What packages' own scripts left is of the times before they were clamped, and of no use.

use std::fs;
use std::path::Path;

use rustix::mount::mount_bind;

use super::PackJob;
use super::root::{May, Root, finish};
use crate::error::{CliError, Result};

/// Where fontconfig keeps it.
const PLACE: &str = "var/cache/fontconfig";
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
        // It takes SOURCE_DATE_EPOCH for the time of every directory that is newer, as the pack does.
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
