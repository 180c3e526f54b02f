//! Names of keys: X's own (`Return`, `Page_Up`, `eacute`, `XF86AudioMute`), and what people call them.

use std::collections::HashMap;
use std::sync::LazyLock;

use xkeysym::{Keysym, key};

/// A key by what it means, whatever the keyboard: X's keysym.
pub(super) type Sym = u32;

/// What people say, in lower case, and the key.
const ALIASES: [(&str, Sym); 33] = [
    ("enter", key::Return),
    ("return", key::Return),
    ("esc", key::Escape),
    ("escape", key::Escape),
    ("tab", key::Tab),
    ("space", key::space),
    ("backspace", key::BackSpace),
    ("del", key::Delete),
    ("delete", key::Delete),
    ("ins", key::Insert),
    ("insert", key::Insert),
    ("home", key::Home),
    ("end", key::End),
    ("pageup", key::Page_Up),
    ("pgup", key::Page_Up),
    ("pagedown", key::Page_Down),
    ("pgdn", key::Page_Down),
    ("up", key::Up),
    ("down", key::Down),
    ("left", key::Left),
    ("right", key::Right),
    ("ctrl", key::Control_L),
    ("control", key::Control_L),
    ("shift", key::Shift_L),
    ("alt", key::Alt_L),
    ("option", key::Alt_L),
    ("altgr", key::ISO_Level3_Shift),
    ("super", key::Super_L),
    ("meta", key::Super_L),
    ("win", key::Super_L),
    ("cmd", key::Super_L),
    ("command", key::Super_L),
    ("capslock", key::Caps_Lock),
];

/// Every name of X's tables.
static NAMES: LazyLock<HashMap<String, Sym>> = LazyLock::new(|| {
    // Where the tables have entries: the old sets and functions, and those of the vendors.
    let ranges = [0x20..0x1_0000, 0x0100_0000..0x0100_3000, 0x1000_fe00..0x1001_0000, 0x1008_fe00..0x1009_0000];
    let named = |sym: Sym| Some((Keysym::new(sym).name()?.replacen("XK_", "", 1), sym));
    ranges.into_iter().flatten().filter_map(named).collect()
});

/// The keys of `ctrl+shift+t` in the order in which they are pressed. The error says what is wrong with it.
pub(super) fn chord(text: &str) -> Result<Vec<Sym>, String> {
    // "+" is a key, too, and so is the last one of "ctrl++".
    let (held, last) = match text.strip_suffix('+') {
        Some("") => ("", "+"),
        Some(before) => (before.strip_suffix('+').ok_or_else(|| format!("a key is missing after {text:?}"))?, "+"),
        None => match text.rsplit_once('+') {
            Some(("", last)) => return Err(format!("a key is missing before \"+{last}\"")),
            Some(parts) => parts,
            None => ("", text),
        },
    };
    let held = held.split('+').filter(|_| !held.is_empty());
    held.chain([last]).map(named).collect()
}

/// The key of that name.
pub(super) fn named(name: &str) -> Result<Sym, String> {
    let mut letters = name.chars();
    if let (Some(letter), None) = (letters.next(), letters.next()) {
        return of_char(letter).ok_or_else(|| format!("{name:?} is no key"));
    }
    if let Some(sym) = NAMES.get(name) {
        return Ok(*sym);
    }
    let lower = name.to_lowercase();
    let plain: String = lower.chars().filter(|letter| !matches!(letter, '_' | '-' | ' ')).collect();
    if let Some((_, sym)) = ALIASES.iter().find(|(alias, _)| *alias == plain) {
        return Ok(*sym);
    }
    // F1 to F35 are often written small.
    if let Some(sym) = NAMES.get(&name.to_uppercase()).filter(|_| lower.starts_with('f')) {
        return Ok(*sym);
    }
    // U20AC, as X writes what has no other name.
    let unicode = name.strip_prefix('U').filter(|digits| digits.len() >= 4);
    let unicode = unicode.and_then(|digits| u32::from_str_radix(digits, 16).ok()).and_then(char::from_u32);
    if let Some(sym) = unicode.and_then(of_char) {
        return Ok(sym);
    }
    let name: String = name.chars().take(40).collect();
    let near = near(&lower);
    if near.is_empty() {
        return Err(format!("there is no key {name:?}; keys have X's names, for example Return, Page_Up, F5, a"));
    }
    Err(format!("there is no key {name:?}; near it are {}", near.join(", ")))
}

/// Names that are not far from it, the nearest first.
fn near(lower: &str) -> Vec<&'static str> {
    let most = lower.chars().count() / 3 + 1;
    let names = NAMES.keys().map(String::as_str).chain(ALIASES.iter().map(|(alias, _)| *alias));
    let mut near: Vec<(usize, &str)> = names
        .map(|known| (distance(lower, &known.to_lowercase()), known))
        .filter(|(distance, _)| *distance <= most)
        .collect();
    near.sort_unstable();
    near.into_iter().take(5).map(|(_, name)| name).collect()
}

/// Letters to change, add or leave out between two words (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    if one.len().abs_diff(other.len()) > 6 {
        return usize::MAX;
    }
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (column, against) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *against);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

/// The key that types a character; None for one that is not typed.
pub(super) fn of_char(letter: char) -> Option<Sym> {
    match letter {
        '\n' | '\r' => Some(key::Return),
        '\t' => Some(key::Tab),
        '\u{8}' => Some(key::BackSpace),
        '\u{1b}' => Some(key::Escape),
        letter if letter.is_control() => None,
        letter => Some(Keysym::from_char(letter).raw()).filter(|sym| *sym != key::NoSymbol),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_xs_names_and_peoples() {
        for (name, sym) in [
            ("Return", 0xff0d),
            ("enter", 0xff0d),
            ("Page_Up", 0xff55),
            ("page-up", 0xff55),
            ("f5", 0xffc2),
            ("a", 0x61),
            ("A", 0x41),
            ("é", 0xe9),
            ("€", 0x20ac),
            ("U20AC", 0x20ac),
            ("eacute", 0xe9),
            ("BackSpace", 0xff08),
            ("XF86AudioMute", 0x1008_ff12),
            ("KP_1", 0xffb1),
            ("я", 0x6d1),
            ("語", 0x0100_8a9e),
        ] {
            assert_eq!(named(name), Ok(sym), "{name}");
        }
        for (alias, _) in ALIASES {
            assert!(named(alias).is_ok() && alias.chars().all(|letter| letter.is_ascii_lowercase()), "{alias}");
        }
    }

    #[test]
    fn chords_are_pressed_in_order() {
        assert_eq!(chord("ctrl+shift+t"), Ok(vec![key::Control_L, key::Shift_L, 0x74]));
        assert_eq!(chord("+"), Ok(vec![0x2b]));
        assert_eq!(chord("ctrl++"), Ok(vec![key::Control_L, 0x2b]));
        for bad in ["", "ctrl+", "ctrl+nonsuch", "+a"] {
            assert!(chord(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_unknown_key_is_told_what_is_near() {
        let told = ["Retrun", "ctlr", "quite something else"].map(|name| named(name).expect_err("unknown"));
        insta::assert_snapshot!(told.join("\n"), @r#"
        there is no key "Retrun"; near it are Return, return, Rcaron, rcaron
        there is no key "ctlr"; near it are cr, ctrl
        there is no key "quite something else"; keys have X's names, for example Return, Page_Up, F5, a
        "#);
    }
}
