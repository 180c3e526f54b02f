//! A program's file: for which machine it was made, and what the loader of this one says about its libraries.
//!
//! The loader itself is asked, in the mode that lists libraries and runs nothing: it alone knows every place where it
//! looks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::machine::answer;

const MAGIC: &[u8; 4] = b"\x7fELF";
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
/// Size of the header of a 64-bit file.
const HEADER_BYTES: usize = 64;
const SEGMENT_BYTES: usize = 56;
/// The segment that names the loader.
const SEGMENT_INTERPRETER: u32 = 3;
/// No path is longer.
const PATH_BYTES: usize = 4096;
/// More segments than any program has.
const SEGMENTS: u16 = 256;

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A program for this machine; its loader, unless it needs none.
    Program(Option<PathBuf>),
    /// One for another machine, which has this name.
    Foreign(String),
    /// A script.
    Script,
    /// Neither.
    Other,
}

/// Reads a file's first bytes.
pub fn kind(path: &Path) -> io::Result<Kind> {
    let file = File::open(path)?;
    let mut header = [0; HEADER_BYTES];
    let count = file.read_at(&mut header, 0)?;
    if header.starts_with(b"#!") {
        return Ok(Kind::Script);
    }
    if count < HEADER_BYTES || !header.starts_with(MAGIC) {
        return Ok(Kind::Other);
    }
    let machine = u16::from_le_bytes([header[18], header[19]]);
    let built_for = match (header[4], header[5], machine) {
        (CLASS_64, LITTLE_ENDIAN, 0x3e) => "x86_64".to_owned(),
        (CLASS_64, LITTLE_ENDIAN, 0xb7) => "aarch64".to_owned(),
        (CLASS_64, LITTLE_ENDIAN, 0xf3) => "riscv64".to_owned(),
        (CLASS_64, LITTLE_ENDIAN, other) => format!("machine {other:#x}"),
        _ => "a 32-bit or big-endian machine".to_owned(),
    };
    if built_for != std::env::consts::ARCH {
        return Ok(Kind::Foreign(built_for));
    }
    interpreter(&file, &header).map(Kind::Program)
}

fn interpreter(file: &File, header: &[u8; HEADER_BYTES]) -> io::Result<Option<PathBuf>> {
    let table = u64_at(header, 32);
    let count = u16::from_le_bytes([header[56], header[57]]);
    for number in 0..count.min(SEGMENTS) {
        let mut segment = [0; SEGMENT_BYTES];
        file.read_exact_at(&mut segment, table.saturating_add(u64::from(number) * SEGMENT_BYTES as u64))?;
        let kind = u32::from_le_bytes([segment[0], segment[1], segment[2], segment[3]]);
        if kind == SEGMENT_INTERPRETER {
            let length = usize::try_from(u64_at(&segment, 32)).unwrap_or(PATH_BYTES).min(PATH_BYTES);
            let mut path = vec![0; length];
            file.read_exact_at(&mut path, u64_at(&segment, 8))?;
            let path = String::from_utf8_lossy(&path).trim_end_matches('\0').to_owned();
            return Ok(Some(PathBuf::from(path)));
        }
    }
    Ok(None)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// What the loader finds wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lacks {
    /// Libraries that are nowhere.
    pub libraries: Vec<String>,
    /// Versions of interfaces that a library does not have: library and version, each once.
    pub versions: Vec<(String, String)>,
}

/// Asks the loader about a program; the text is why it cannot be asked.
pub async fn lacks(loader: &Path, program: &Path) -> Result<Lacks, String> {
    let name = loader.file_name().unwrap_or_default().to_string_lossy();
    // Another loader would run the program.
    if !name.starts_with("ld-linux") && !name.starts_with("ld64.so") {
        return Err(format!("its loader {} is not glibc's", loader.display()));
    }
    if !loader.exists() {
        return Err(format!("its loader {} does not exist", loader.display()));
    }
    let mut command = Command::new(loader);
    // The same streams in one: the loader tells versions on one and libraries on the other.
    command.arg(program).env_clear().env("LD_TRACE_LOADED_OBJECTS", "1").env("LD_WARN", "yes").env("LC_ALL", "C");
    let output = output(command).await?;
    Ok(parse(&output))
}

/// Libraries that the loader finds for a program, as it asks for them; the text is why it cannot be asked.
pub async fn libraries(loader: &Path, program: &Path) -> Result<Vec<String>, String> {
    let mut command = Command::new(loader);
    command.arg(program).env_clear().env("LD_TRACE_LOADED_OBJECTS", "1").env("LC_ALL", "C");
    let output = output(command).await?;
    let names = output.lines().filter_map(|line| line.split_once(" => ")).map(|(name, _)| name.trim().to_owned());
    Ok(names.collect())
}

/// The newest version of glibc whose interfaces a program names: `2.39`.
pub fn newest_glibc(program: &Path) -> io::Result<Option<String>> {
    const WORD: &[u8] = b"GLIBC_";
    let bytes = std::fs::read(program)?;
    let version = |at: usize| {
        let rest = &bytes[at + WORD.len()..];
        let end = rest.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'.').unwrap_or(rest.len());
        // Names of versions end with a zero byte; text about them does not.
        let text = std::str::from_utf8(&rest[..end]).ok().filter(|_| rest.get(end) == Some(&0))?;
        let (major, minor) = text.split_once('.')?;
        let minor = minor.split('.').next()?.parse::<u32>().ok()?;
        Some((major.parse::<u32>().ok()?, minor))
    };
    let newest = memchr::memmem::find_iter(&bytes, WORD).filter_map(version).max();
    Ok(newest.map(|(major, minor)| format!("{major}.{minor}")))
}

/// Both streams of a command, however it ends.
async fn output(mut command: Command) -> Result<String, String> {
    command.stdin(std::process::Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(super::PATIENCE / 2, command.output()).await {
        Ok(Ok(output)) => {
            Ok(format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
        }
        Ok(Err(error)) => Err(format!("its loader cannot be run: {error}")),
        Err(_) => Err("its loader does not answer".to_owned()),
    }
}

fn parse(output: &str) -> Lacks {
    let mut lacks = Lacks::default();
    for line in output.lines() {
        if let Some((library, _)) = line.split_once("=> not found") {
            add(&mut lacks.libraries, library.trim().to_owned());
        } else if let Some((before, rest)) = line.split_once(": version `")
            && let Some((version, _)) = rest.split_once("' not found")
        {
            let library = before.rsplit(['/', ' ']).next().unwrap_or_default().to_owned();
            add(&mut lacks.versions, (library, version.to_owned()));
        }
    }
    lacks
}

fn add<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// Version of glibc that a loader belongs to: `2.36`.
pub async fn glibc(loader: &Path) -> Option<String> {
    let said = answer(Command::new(loader).arg("--version")).await.ok()?;
    let version = said.lines().next()?.rsplit("version ").next()?.trim_end_matches('.').to_owned();
    version.starts_with(|c: char| c.is_ascii_digit()).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_loader_misses_is_read_from_its_words() {
        let said = "\tlinux-vdso.so.1 (0x00007f96da7b0000)\n\tlibQft.so.2 => not found\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007fc55c792000)\n\tlibQft.so.2 => not found\n\
            /opt/zed: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by /opt/zed)\n\
            /opt/zed: /lib/x86_64-linux-gnu/libm.so.6: version `GLIBC_2.39' not found (required by /opt/zed)\n";
        let versions = [("libc.so.6", "GLIBC_2.38"), ("libm.so.6", "GLIBC_2.39")];
        let versions = versions.map(|(library, version)| (library.to_owned(), version.to_owned())).to_vec();
        assert_eq!(parse(said), Lacks { libraries: vec!["libQft.so.2".to_owned()], versions });
        assert_eq!(parse("\tstatically linked\n"), Lacks::default());
    }

    #[tokio::test]
    async fn this_very_program_is_one_and_lacks_nothing() {
        let this = std::env::current_exe().expect("a path");
        let Kind::Program(Some(loader)) = kind(&this).expect("readable") else { panic!("no program") };
        assert_eq!(lacks(&loader, &this).await, Ok(Lacks::default()));
        assert!(glibc(&loader).await.is_some_and(|version| version.starts_with("2.")));
        assert!(newest_glibc(&this).expect("readable").is_some_and(|version| version.starts_with("2.")));
        assert!(libraries(&loader, &this).await.expect("listed").iter().any(|name| name == "libc.so.6"));
    }

    #[test]
    fn other_files_are_told_apart() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |bytes: &[u8]| {
            let path = dir.path().join("file");
            std::fs::write(&path, bytes).expect("written");
            kind(&path).expect("readable")
        };
        assert_eq!(file(b"#!/bin/sh\nexec zed"), Kind::Script);
        assert_eq!(file(b"\x7fELF"), Kind::Other);
        assert_eq!(file(b""), Kind::Other);
        let mut header = [0; HEADER_BYTES];
        header[..6].copy_from_slice(b"\x7fELF\x02\x01");
        header[18] = 0xf7;
        assert_eq!(file(&header), Kind::Foreign("machine 0xf7".to_owned()));
        header[4] = 1;
        assert_eq!(file(&header), Kind::Foreign("a 32-bit or big-endian machine".to_owned()));
    }
}
