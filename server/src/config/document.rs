//! A TOML document read key by key: where each value came from, what is wrong with it, what nobody asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Faults};
use super::{Checked, Env};

/// The file, the environment and the faults found so far.
pub struct Document<'a> {
    name: String,
    folder: PathBuf,
    text: &'a str,
    root: DeTable<'a>,
    env: Env<'a>,
    /// Every key that was asked for, as `(section, key)`.
    known: BTreeSet<(&'static str, &'static str)>,
    /// Sections whose keys are names that people choose.
    open: BTreeSet<&'static str>,
    faults: Vec<Fault>,
}

/// A value with its place, before it is checked.
pub struct Value {
    place: String,
    /// Absent where the value has the wrong type: the fault is noted already.
    found: Found,
}

enum Found {
    Text(String),
    Nothing,
    Faulty,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Integer,
    Boolean,
}

impl<'a> Document<'a> {
    /// Parses the TOML itself; the only faults that are reported alone are those of its syntax.
    pub fn parse(text: &'a str, file: &Path, env: Env<'a>) -> Result<Self, Faults> {
        let name = file.display().to_string();
        let (root, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let fault = |err: &toml::de::Error| {
                let line = err.span().map_or(1, |span| line_of(text, span.start));
                Fault::new(format!("{name}:{line}"), err.message(), "correct the TOML there")
            };
            return Err(Faults(errors.iter().map(fault).collect()));
        }
        let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
        Ok(Self {
            name,
            folder,
            text,
            root: root.into_inner(),
            env,
            known: BTreeSet::new(),
            open: BTreeSet::new(),
            faults: Vec::new(),
        })
    }

    /// A string; `section` is empty at the top.
    pub fn text(&mut self, section: &'static str, key: &'static str, env: Option<&'static str>) -> Value {
        self.value(section, key, env, Kind::Text)
    }

    /// A whole number.
    pub fn integer(&mut self, section: &'static str, key: &'static str, env: Option<&'static str>) -> Value {
        self.value(section, key, env, Kind::Integer)
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, section: &'static str, key: &'static str, env: Option<&'static str>) -> Value {
        self.value(section, key, env, Kind::Boolean)
    }

    /// A variable of the environment without a key of its own; an empty one is none.
    pub fn variable(&self, name: &str) -> Value {
        let found = self.env(name).map_or(Found::Nothing, Found::Text);
        Value { place: format!("environment variable {name}"), found }
    }

    /// A section whose keys are names of the operator's and whose values are whole numbers.
    pub fn numbers(&mut self, section: &'static str) -> BTreeMap<String, u32> {
        self.open.insert(section);
        let Some(table) = self.root.get(section).map(toml::Spanned::get_ref) else { return BTreeMap::new() };
        let names: Vec<_> =
            table.as_table().into_iter().flat_map(|table| table.keys()).map(|key| key.get_ref().to_string()).collect();
        let mut numbers = BTreeMap::new();
        for name in names {
            let found = self.find(section, &name).map(toml::Spanned::get_ref);
            let number = found.and_then(|value| value.as_integer()).and_then(|number| number.to_string().parse().ok());
            match number {
                Some(number) => drop(numbers.insert(name, number)),
                None => self.fault(section, &name, "is no number of sessions", "write a whole number, for example 5"),
            }
        }
        numbers
    }

    /// A list of strings; `None` where it is absent or has a fault, which is noted.
    pub fn texts(&mut self, section: &'static str, key: &'static str) -> Option<Vec<String>> {
        self.known.insert((section, key));
        let found = self.find(section, key)?.get_ref();
        let texts = found.as_array().and_then(|all| {
            all.iter().map(|one| one.get_ref().as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        if texts.is_none() {
            self.fault(section, key, "is not a list of texts", "write for example [\"/usr/local/bin/x\", \"--flag\"]");
        }
        texts
    }

    /// A path that must be given; relative ones count from the file's folder.
    pub fn path(&mut self, section: &'static str, key: &'static str) -> Option<PathBuf> {
        let value = self.text(section, key, None);
        match value.found {
            Found::Text(text) if !text.is_empty() => Some(self.folder.join(text)),
            Found::Faulty => None,
            Found::Text(_) | Found::Nothing => {
                self.fault(section, key, "the setting is missing", "give the path of a file with mode 0600");
                None
            }
        }
    }

    /// A path that may be left out.
    pub fn optional_path(&mut self, section: &'static str, key: &'static str) -> Option<PathBuf> {
        match self.text(section, key, None).found {
            Found::Text(text) if !text.is_empty() => Some(self.folder.join(text)),
            _ => None,
        }
    }

    /// The environment.
    pub fn env(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.is_empty())
    }

    /// Notes a fault at a key.
    pub fn fault(&mut self, section: &str, key: &str, problem: &str, fix: &str) {
        let place = self.place(section, key);
        self.faults.push(Fault::new(place, problem, fix));
    }

    /// Notes a fault elsewhere.
    pub fn fault_at(&mut self, place: &str, problem: &str, fix: &str) {
        self.faults.push(Fault::new(place, problem, fix));
    }

    /// Reports unknown keys and everything noted.
    pub fn finish(mut self) -> Result<(), Faults> {
        self.note_unknown();
        if self.faults.is_empty() { Ok(()) } else { Err(Faults(self.faults)) }
    }

    fn value(&mut self, section: &'static str, key: &'static str, env: Option<&'static str>, kind: Kind) -> Value {
        self.known.insert((section, key));
        if let Some((name, text)) = env.and_then(|name| Some((name, self.env(name)?))) {
            return Value { place: format!("environment variable {name}"), found: Found::Text(text) };
        }
        let place = self.place(section, key);
        let found = match self.find(section, key).map(toml::Spanned::get_ref) {
            None => Found::Nothing,
            Some(DeValue::String(text)) if kind == Kind::Text => Found::Text(text.to_string()),
            Some(DeValue::Integer(number)) if kind == Kind::Integer => Found::Text(number.to_string()),
            Some(DeValue::Boolean(switch)) if kind == Kind::Boolean => Found::Text(switch.to_string()),
            Some(other) => {
                let wanted = match kind {
                    Kind::Text => "a text in quotes",
                    Kind::Integer => "a whole number",
                    Kind::Boolean => "true or false",
                };
                let problem = format!("is {}, not {wanted}", article(other.type_str()));
                self.faults.push(Fault::new(place.clone(), problem, format!("write {wanted}")));
                Found::Faulty
            }
        };
        Value { place, found }
    }

    fn find(&self, section: &str, key: &str) -> Option<&toml::Spanned<DeValue<'a>>> {
        let table = if section.is_empty() { &self.root } else { self.root.get(section)?.get_ref().as_table()? };
        table.get(key)
    }

    fn place(&self, section: &str, key: &str) -> String {
        let dotted = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
        match self.find(section, key) {
            Some(value) => format!("{}:{}: {dotted}", self.name, line_of(self.text, value.span().start)),
            None => format!("{}: {dotted}", self.name),
        }
    }

    fn note_unknown(&mut self) {
        let mut sections: BTreeSet<&str> = self.known.iter().map(|(section, _)| *section).collect();
        sections.extend(&self.open);
        let mut unknown = Vec::new();
        let mut check = |section: &str, table: &DeTable<'_>| {
            for key in table.keys() {
                let name: &str = key.get_ref();
                let is_section = section.is_empty() && sections.contains(name);
                if !is_section
                    && !self.open.contains(section)
                    && !self.known.iter().any(|known| *known == (section, name))
                {
                    let names = self.known.iter().filter(|(of, _)| *of == section).map(|(_, key)| *key);
                    let place = format!("{}:{}: {name}", self.name, line_of(self.text, key.span().start));
                    let fix = format!("remove it; known here: {}", names.collect::<Vec<_>>().join(", "));
                    unknown.push(Fault::new(place, "the setting is unknown", fix));
                }
            }
        };
        check("", &self.root);
        for section in sections.iter().filter(|section| !section.is_empty()) {
            match self.root.get(*section).map(|value| (value.span(), value.get_ref())) {
                Some((_, DeValue::Table(table))) => check(section, table),
                Some((span, _)) => unknown_section(&self.name, self.text, section, span.start, &mut self.faults),
                None => {}
            }
        }
        self.faults.append(&mut unknown);
    }
}

fn unknown_section(name: &str, text: &str, section: &str, at: usize, faults: &mut Vec<Fault>) {
    let place = format!("{name}:{}: {section}", line_of(text, at));
    faults.push(Fault::new(place, "is not a section", format!("write [{section}] and its settings below it")));
}

impl Value {
    /// A flag goes before file and environment.
    #[must_use]
    pub fn overridden(self, flag: Option<String>, name: &str) -> Self {
        match flag {
            Some(text) => Self { place: name.to_owned(), found: Found::Text(text) },
            None => self,
        }
    }

    /// The default.
    #[must_use]
    pub fn or(self, default: &str) -> Self {
        let found = match self.found {
            Found::Nothing => Found::Text(default.to_owned()),
            found => found,
        };
        Self { found, ..self }
    }

    /// Checks it; a refusal becomes a fault and `None`.
    pub fn check<T>(self, doc: &mut Document<'_>, check: impl FnOnce(&str) -> Checked<T>) -> Option<T> {
        let Found::Text(text) = self.found else { return None };
        check(&text).map_err(|(problem, fix)| doc.fault_at(&self.place, &problem, &fix)).ok()
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
}

fn article(kind: &str) -> String {
    if kind.starts_with(['a', 'i']) { format!("an {kind}") } else { format!("a {kind}") }
}
