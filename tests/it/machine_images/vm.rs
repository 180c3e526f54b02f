//! A virtual machine of a clone of a disk: QEMU, which emulates the processor, on its own user-mode network. It ends with its
//! value.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use helix_tests::programs;

/// What begins the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    Bios,
    Uefi,
}

/// How it is told what the disk does not say.
pub enum Seed {
    /// A system credential, by SMBIOS.
    Credential(String),
    /// A disk with the label cidata.
    NoCloud { user_data: String },
}

pub struct Vm {
    child: Child,
    console: PathBuf,
}

const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

fn said(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

impl Vm {
    /// Starts one with a clone of `disk`.
    pub fn start(dir: &Path, name: &str, disk: &Path, firmware: Firmware, seed: &Seed) -> Result<Self> {
        let at = |ending: &str| dir.join(format!("{name}.{ending}"));
        let clone = at("qcow2");
        let format = disk.extension().and_then(|ending| ending.to_str()).context("a disk without a format")?;
        said(
            Command::new(programs::installed("qemu-img")?)
                .args(["create", "-q", "-f", "qcow2", "-F", format, "-b"])
                .arg(disk)
                .arg(&clone)
                // Larger than the disk.
                .arg("8G"),
        )?;
        let mut qemu = Command::new("setpriv");
        // It must not outlive the test, however that ends.
        qemu.args(["--pdeathsig", "KILL", "--"]).arg(programs::installed("qemu-system-x86_64")?);
        qemu.args("-accel tcg,thread=multi -machine q35,hpet=off,vmport=off -cpu max -smp 1 -m 1024".split(' '));
        qemu.args("-nodefaults -no-user-config -display none -vga none -no-reboot".split(' '));
        qemu.args("-netdev user,id=net -device virtio-net-pci,netdev=net,romfile= -device virtio-rng-pci".split(' '));
        let drive =
            |file: &Path, format: &str| format!("if=virtio,cache=unsafe,format={format},file={}", file.display());
        qemu.arg("-drive").arg(drive(&clone, "qcow2"));
        qemu.arg("-serial").arg(format!("file:{}", at("console").display()));
        if firmware == Firmware::Uefi {
            ensure!(Path::new(CODE).exists(), "{CODE} is missing: run packaging/setup.sh test");
            let vars = at("vars");
            fs::copy(VARS, &vars)?;
            qemu.arg("-drive").arg(format!("if=pflash,format=raw,unit=0,readonly=on,file={CODE}"));
            qemu.arg("-drive").arg(format!("if=pflash,format=raw,unit=1,file={}", vars.display()));
        }
        match seed {
            Seed::Credential(words) => {
                let file = at("smbios");
                let words = base64::engine::general_purpose::STANDARD.encode(words);
                fs::write(&file, format!("io.systemd.credential.binary:helix.join={words}"))?;
                qemu.arg("-smbios").arg(format!("type=11,path={}", file.display()));
            }
            Seed::NoCloud { user_data } => {
                let (image, text, meta) = (at("seed"), at("user-data"), at("meta-data"));
                fs::write(&text, user_data)?;
                fs::write(&meta, format!("instance-id: {name}\nlocal-hostname: clone-{name}\n"))?;
                let tool = |name: &str| programs::installed(name).map(Command::new);
                said(tool("mformat")?.args(["-C", "-i"]).arg(&image).args(["-f", "1440", "-v", "cidata", "::"]))?;
                said(tool("mcopy")?.arg("-i").arg(&image).arg(&text).arg("::user-data"))?;
                said(tool("mcopy")?.arg("-i").arg(&image).arg(&meta).arg("::meta-data"))?;
                qemu.arg("-drive").arg(drive(&image, "raw"));
            }
        }
        let log = fs::File::create(at("qemu.log"))?;
        let child = qemu.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        Ok(Self { child, console: at("console") })
    }

    /// What its console said.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// An error when it has ended.
    pub fn lives(&self) -> Result<()> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        if stat.contains(") Z ") {
            bail!("QEMU has ended:\n{}", self.console());
        }
        Ok(())
    }

    /// Ends it, as a power cut does.
    pub fn stop(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
