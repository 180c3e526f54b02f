//! The file system of an image, as sessions in it see it. Links in it are followed as if it were the root.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use helix_mesa::Places;

/// Where units in an image find agentd.
pub const PROGRAM: &str = "/run/agentd";
/// PATH in an image.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Links that are followed for one path.
const MAX_LINKS: u32 = 40;

/// What a session in an image finds there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// The file system, outside.
    pub root: PathBuf,
    /// The user's shell.
    pub shell: &'static str,
    /// File of the Vulkan driver that draws without a graphics card.
    pub vulkan_icd: Option<PathBuf>,
}

impl Inside {
    /// Looks into an image.
    pub fn new(root: PathBuf) -> Self {
        let shell = if is_executable(&root, Path::new("/bin/bash")) { "/bin/bash" } else { "/bin/sh" };
        let vulkan_icd = Places::within(&root).find();
        let vulkan_icd = vulkan_icd.and_then(|file| Some(Path::new("/").join(file.strip_prefix(&root).ok()?)));
        Self { root, shell, vulkan_icd }
    }
}

/// True for a program of an image.
pub fn is_executable(root: &Path, path: &Path) -> bool {
    let file = resolve(root, path).and_then(|file| fs::metadata(file).ok());
    file.is_some_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// The file outside that a path inside leads to. None where it leads nowhere.
pub fn resolve(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut left: Vec<PathBuf> = parts(path);
    let mut at = root.to_owned();
    let mut links = 0;
    while let Some(part) = left.pop() {
        if part == Path::new("..") {
            if at != root {
                at.pop();
            }
            continue;
        }
        let next = at.join(part);
        match fs::read_link(&next) {
            Ok(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                if target.is_absolute() {
                    root.clone_into(&mut at);
                }
                left.extend(parts(&target));
            }
            Err(_) => at = next,
        }
    }
    fs::symlink_metadata(&at).is_ok().then_some(at)
}

/// The parts of a path, the last first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        _ => None,
    };
    path.components().filter_map(part).rev().collect()
}

/// `/etc/passwd` and `/etc/group` of a session in an image: the image's, and `agent`, who is its slot user.
pub fn users(root: &Path, shell: &str, (uid, gid): (u32, u32)) -> [(&'static str, String); 2] {
    let read = |name: &str| fs::read_to_string(root.join("etc").join(name)).unwrap_or_default();
    let without = |text: &str, id: u32| {
        let id = id.to_string();
        let other = |line: &&str| {
            let mut fields = line.split(':');
            fields.next() != Some("agent") && fields.nth(1) != Some(id.as_str())
        };
        text.lines().filter(other).fold(String::new(), |text, line| text + line + "\n")
    };
    let passwd = without(&read("passwd"), uid) + &format!("agent:x:{uid}:{gid}:Helix session:/home/agent:{shell}\n");
    let group = without(&read("group"), gid) + &format!("agent:x:{gid}:\n");
    [("passwd", passwd), ("group", group)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_inside_and_never_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::create_dir_all(root.join("etc/alternatives")).unwrap();
        symlink("usr/bin", root.join("bin")).unwrap();
        fs::write(root.join("usr/bin/dash"), "").unwrap();
        fs::set_permissions(root.join("usr/bin/dash"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("/usr/bin/dash", root.join("etc/alternatives/sh")).unwrap();
        symlink("/etc/alternatives/sh", root.join("usr/bin/sh")).unwrap();
        symlink("../../../../../../etc/hostname", root.join("usr/bin/out")).unwrap();
        symlink("round", root.join("round")).unwrap();
        let found = |path: &str| resolve(root, Path::new(path));
        assert_eq!(found("/bin/sh"), Some(root.join("usr/bin/dash")));
        assert!(is_executable(root, Path::new("/bin/sh")));
        assert_eq!(found("/bin/out"), None, "the host's file");
        assert_eq!(found("/round"), None);
        assert_eq!(found("/bin/nothing"), None);
        assert_eq!(found("/../../usr/bin/dash"), Some(root.join("usr/bin/dash")));
    }

    #[test]
    fn the_agent_is_its_slot_user_and_nobody_else_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nagent:x:1:1::/:\nother:x:977:1::/:\n")
            .unwrap();
        let [(_, passwd), (name, group)] = users(dir.path(), "/bin/sh", (977, 976));
        assert_eq!(passwd, "root:x:0:0::/root:/bin/sh\nagent:x:977:976:Helix session:/home/agent:/bin/sh\n");
        assert_eq!((name, group.as_str()), ("group", "agent:x:976:\n"));
    }
}
