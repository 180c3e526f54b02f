//! Build script of all programs: built on a new system, they run on an older one, back to Debian 12.
//!
//! Rust's library takes two functions of glibc 2.39 where they are there and does without them elsewhere, but it names
//! them in a way that makes the loader of an older system refuse the whole program. They are never there for us.

fn main() {
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    // Nothing that it reads changes; cargo runs it again when it is another one.
    let mut lines = vec!["cargo:rerun-if-changed=Cargo.toml".to_owned()];
    if target("OS") == "linux" && target("ENV") == "gnu" {
        let absent = |function| format!("cargo:rustc-link-arg-bins=-Wl,--defsym={function}=0");
        lines.extend(["pidfd_spawnp", "pidfd_getpid"].map(absent));
    }
    #[allow(clippy::print_stdout, reason = "cargo reads it")]
    for line in lines {
        println!("{line}");
    }
}
