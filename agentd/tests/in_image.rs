//! `agentd in-image`: a program in the root of an image, with the session's own directories and nothing of the machine's.

#![allow(clippy::unwrap_used)] // a test may panic

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use helix_agentd::images::enter;
use helix_protocol::image::Digest;

/// A state directory with one image: a shell, three programs and their libraries, and a tool that is nowhere else.
struct Place {
    dir: tempfile::TempDir,
    image: Digest,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = Digest::of(b"an image");
        let root = dir.path().join("images/roots").join(image.hex()).join("root");
        for sub in ["etc", "usr/bin", "tmp", "proc", "sys", "dev", "run", "home", "var"] {
            fs::create_dir_all(root.join(sub)).unwrap();
        }
        for program in ["/bin/sh", "/bin/cat", "/bin/touch", "/bin/ls", "/usr/bin/id"] {
            let name = Path::new(program).file_name().unwrap();
            fs::copy(program, root.join("usr/bin").join(name)).unwrap();
            let libraries = Command::new("ldd").arg(program).output().unwrap();
            for library in
                String::from_utf8(libraries.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/'))
            {
                let to = root.join(library.trim_start_matches('/'));
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::copy(library, to).unwrap();
            }
        }
        std::os::unix::fs::symlink("usr/bin", root.join("bin")).unwrap();
        for file in ["passwd", "group", "hosts", "resolv.conf", "machine-id"] {
            fs::write(root.join("etc").join(file), "the image's\n").unwrap();
        }
        fs::write(root.join("etc/only-here"), "yes\n").unwrap();
        for sub in ["images/mnt", "session", "workspace"] {
            fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        Self { dir, image }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, script: &str) -> Output {
        let program = Path::new(env!("CARGO_BIN_EXE_agentd"));
        let (session, workspace) = (self.at("session"), self.at("workspace"));
        let dirs = [session.as_path(), workspace.as_path()];
        let arguments = enter::arguments(self.dir.path(), self.image, program, &dirs, &workspace);
        let mut command = Command::new(program);
        command.args(arguments).args(["sh", "-c", script]);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").output().unwrap()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_program_is_in_its_image_as_the_same_user() {
    assert_eq!(enter::unavailable(Path::new(env!("CARGO_BIN_EXE_agentd"))), None, "this machine can do it");
    let place = Place::new();
    let output = place.run("cat /etc/only-here; pwd; id -u; echo written > mine; touch ../session/too; exit 3");
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(said(&output), format!("yes\n{}\n{uid}\n", place.at("workspace").display()));
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(fs::read_to_string(place.at("workspace/mine")).unwrap(), "written\n");
    assert!(place.at("session/too").exists());
    // Nothing is left of it outside.
    assert_eq!(fs::read_dir(place.at("images/mnt")).unwrap().count(), 0);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(place.dir.path().to_str().unwrap()), "{mounts}");
}

#[test]
fn an_image_is_read_only_and_the_machine_is_not_there() {
    let place = Place::new();
    for script in ["touch /etc/mine", "touch /usr/bin/mine", "echo x > /etc/only-here"] {
        let output = place.run(script);
        assert!(
            !output.status.success() && said(&output).contains("Read-only file system"),
            "{script}: {}",
            said(&output)
        );
    }
    assert_eq!(said(&place.run("ls /home /run; ls /usr")), "/home:\n\n/run:\nagentd\nbin\n");
    let output = place.run("no-such-program");
    assert_eq!(output.status.code(), Some(127), "{}", said(&output));
    // Who is who, and where names are found, the machine knows.
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    assert_eq!(said(&place.run("cat /etc/passwd")), passwd);
}
