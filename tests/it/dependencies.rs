//! What the programs must never need: a second TLS provider, or a newer system than the oldest that we support.

use anyhow::{Result, ensure};
use helix_tests::eventually::secs;
use helix_tests::process::{exit_code, run};
use helix_tests::up::words;
use helix_tests::{programs, repository};

/// `cargo tree -i <package>` of the whole workspace: exit code and everything it said.
async fn who_needs(package: &str) -> Result<(i32, String)> {
    let manifest = repository().join("Cargo.toml").display().to_string();
    // A target that cargo has not fetched anything for cannot be asked about offline: this machine's own it is.
    let args = ["tree", "--locked", "--offline", "--workspace", "--manifest-path", &manifest, "-i", package];
    let output = run(&programs::installed("cargo")?, &args, &[], secs(60)).await?;
    Ok((exit_code(output.status), words(&output)))
}

#[tokio::test]
async fn ring_is_the_only_tls_provider() -> Result<()> {
    for package in ["aws-lc-rs", "openssl-sys"] {
        let (_, said) = who_needs(package).await?;
        // Not in the lock file, or only for machines that this is none of.
        let nobody = said.contains("did not match any packages") || said.contains("nothing to print");
        ensure!(nobody, "{package} is among the dependencies:\n{said}");
    }
    let (code, said) = who_needs("ring").await?;
    ensure!(code == 0 && said.contains("rustls"), "{said}");
    Ok(())
}

/// As `packaging/link.rs` has it: Debian 12 has glibc 2.36, Ubuntu 22.04 has 2.35.
#[test]
fn no_program_needs_a_newer_glibc_than_ubuntu_22_04_has() -> Result<()> {
    for name in ["agentd", "helix-server", "helixctl", "helix-backend-suite", "helix-gpui-probe"] {
        let program = std::fs::read(programs::ours(name)?)?;
        let text = String::from_utf8_lossy(&program);
        let minor = |at: usize| text[at..].split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok();
        let newest = text.match_indices("GLIBC_2.").filter_map(|(at, found)| minor(at + found.len())).max();
        ensure!(newest.is_some_and(|minor| minor <= 35), "{name} needs glibc 2.{newest:?}");
    }
    Ok(())
}
