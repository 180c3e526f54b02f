//! Files that are written for a session before its first unit starts: each once, since a display that runs knows the
//! first cookie. No unit has run when they are written first, so no path in its directories can lead elsewhere yet.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::display;
use crate::supervisor::{SessionFile, SessionPaths};

/// Writes what is missing, the X cookie included.
pub fn write(paths: &SessionPaths, files: &[SessionFile]) -> io::Result<()> {
    if !paths.xauthority.exists() {
        write_file(&paths.xauthority, 0o600, &display::new_authority()?)?;
    }
    for file in files {
        // `home/x` needs no care here: HOME is the directory of that name.
        let path = paths.root.join(&file.path);
        if !path.exists() {
            write_file(&path, file.mode, &file.content)?;
        }
    }
    Ok(())
}

fn write_file(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let name = |error: io::Error| io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()));
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(name)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary).map_err(name)?;
    file.write_all(content).map_err(name)?;
    fs::rename(&temporary, path).map_err(name)
}
