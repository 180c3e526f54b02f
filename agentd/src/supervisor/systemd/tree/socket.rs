//! agentd's sockets for a session's forward, tools, recorder and rdp units, each in a directory of root's: nothing of the
//! session can take its place.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, lchown};
use std::path::Path;

use tokio::net::UnixListener;

use super::super::layout::{Layout, SOCKET};
use super::super::slots::SlotUser;
use super::{Result, TreeError, failed, make_dir};
use crate::supervisor::UnitName;

/// Listens for the unit's user, in the place of an agentd that is gone. Waits for nothing.
pub fn listen(layout: &Layout, slot: &SlotUser, unit: UnitName) -> Result<UnixListener> {
    let (dir, _) = layout.agentd_dir(unit).ok_or_else(|| TreeError::Outside(unit.as_str().into()))?;
    let socket = dir.join(SOCKET);
    // A session that an older agentd has opened has no such directory.
    if !dir.exists() {
        make_dir(&dir)?;
        let_through(&dir, unit)?;
    }
    // Bound under another name first: whoever can see the socket can connect to it.
    let draft = socket.with_extension("new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed("remove", &draft)(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&draft).map_err(failed("listen on", &draft))?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).map_err(failed("set mode of", &draft))?;
    lchown(&draft, Some(slot.uid), Some(slot.gid)).map_err(failed("give away", &draft))?;
    fs::rename(&draft, &socket).map_err(failed("rename", &draft))?;
    Ok(listener)
}

/// The unit that the directory is bound into must get to the socket; tools and recorder, which come again by themselves, also
/// watch for it. On the host nobody but root comes this far.
pub(super) fn let_through(dir: &Path, unit: UnitName) -> Result<()> {
    let mode = if unit == UnitName::Forward { 0o711 } else { 0o755 };
    fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(failed("set mode of", dir))
}
