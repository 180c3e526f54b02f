//! A unit's environment as systemd reads it from a file (`EnvironmentFile=`).
//!
//! Everything is in double quotes, where only `"`, `\`, `` ` `` and `$` need a backslash and a line may end. systemd
//! drops a name that it does not like without a word to the session, and starts no unit over a value that it does not
//! like, without a word about which: both are refused here.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::super::layout::Layout;
use super::{Result, TreeError, failed, write_file};

/// Longest `NAME=value` that the kernel gives to a program, with its NUL (`MAX_ARG_STRLEN`).
const MAX_ENTRY_BYTES: usize = 128 * 1024;

/// Writes the environment of a unit, readable by root alone. Replaces the one of its former start.
pub fn write_env(layout: &Layout, word: &str, environment: &BTreeMap<String, String>) -> Result<()> {
    let text = environment_text(environment)?;
    let path = layout.env_file(word);
    let new = path.with_added_extension("new");
    remove_if_there(&new)?;
    write_file(&new, 0o600, text.as_bytes())?;
    fs::rename(&new, &path).map_err(failed("rename", &new))
}

/// The same as text.
pub fn environment_text(environment: &BTreeMap<String, String>) -> Result<String> {
    let mut text = String::new();
    for (name, value) in environment {
        if let Some(reason) = fault(name, value) {
            return Err(TreeError::Variable { name: name.escape_debug().take(80).collect(), reason });
        }
        text.push_str(name);
        text.push_str("=\"");
        for character in value.chars() {
            if matches!(character, '"' | '\\' | '`' | '$') {
                text.push('\\');
            }
            text.push(character);
        }
        text.push_str("\"\n");
    }
    Ok(text)
}

fn fault(name: &str, value: &str) -> Option<&'static str> {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    if !name.bytes().next().is_some_and(is_letter) || !name.bytes().all(|byte| is_letter(byte) || byte.is_ascii_digit())
    {
        return Some("a name is made of letters, digits and _, and does not begin with a digit");
    }
    if value.contains('\0') {
        return Some("its value holds a NUL");
    }
    if value.chars().any(is_noncharacter) {
        return Some("its value holds a code point that Unicode calls a noncharacter, which systemd refuses");
    }
    (name.len() + value.len() + 2 > MAX_ENTRY_BYTES).then_some("name and value are longer than 128 KiB together")
}

/// Valid in UTF-8, refused by systemd.
fn is_noncharacter(character: char) -> bool {
    let code = u32::from(character);
    (0xFDD0..=0xFDEF).contains(&code) || code & 0xFFFE == 0xFFFE
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}
