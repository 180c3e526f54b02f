//! Which recipe is meant, and the chain of its parents.

use std::path::{Path, PathBuf};

use super::{Recipe, read};
use crate::error::{CliError, Kind, Result};

/// Where an operator's own recipes are found by name, beside the directory `images` here.
const DIRECTORIES: [&str; 2] = ["images", "/etc/helix/images.d"];
/// No recipe has more ancestors.
const MOST_PARENTS: usize = 16;
/// The recipes that this program brings.
const SHIPPED: [(&str, &str); 5] = [
    ("base", include_str!("../../../../images/base.toml")),
    ("browser", include_str!("../../../../images/browser.toml")),
    ("dev", include_str!("../../../../images/dev.toml")),
    ("machine", include_str!("../../../../images/machine.toml")),
    ("zed", include_str!("../../../../images/zed.toml")),
];

/// A recipe, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it says.
    pub recipe: Recipe,
    /// Its file, or `(shipped) NAME`.
    pub place: String,
    /// Where the files are that it names; None of a shipped one, which names none.
    pub dir: Option<PathBuf>,
}

/// A recipe with all its parents, the first of them first.
pub type Chain = Vec<Found>;

/// Names and texts of the recipes that this program brings.
pub fn shipped() -> &'static [(&'static str, &'static str)] {
    &SHIPPED
}

/// The recipe that is meant: a file, or a name. `beside` is where a parent's file may be.
pub fn find(what: &str, beside: Option<&Path>) -> Result<Found> {
    let is_file = what.contains('/') || Path::new(what).extension().is_some_and(|ending| ending == "toml");
    if is_file {
        let path = beside.unwrap_or(Path::new("")).join(what);
        return load(&path);
    }
    let file = format!("{what}.toml");
    let places = beside.into_iter().map(Path::to_owned).chain(DIRECTORIES.map(PathBuf::from));
    if let Some(path) = places.map(|dir| dir.join(&file)).find(|path| path.is_file()) {
        return load(&path);
    }
    if let Some((_, text)) = SHIPPED.iter().find(|(name, _)| *name == what) {
        let place = format!("(shipped) {what}");
        return Ok(Found { recipe: read(text, &place)?, place, dir: None });
    }
    let known: Vec<_> = SHIPPED.iter().map(|(name, _)| *name).collect();
    let nearest = known.iter().find(|name| strsim::jaro_winkler(name, what) > 0.8);
    let meant = nearest.map_or_else(String::new, |name| format!("; did you mean {name}?"));
    Err(CliError::new(Kind::Usage, format!("there is no recipe {what}"))
        .at(format!("{file} in {}, and the shipped ones: {}", DIRECTORIES.join(", "), known.join(", ")))
        .because(format!("no file has that name{meant}"))
        .next(format!("helixctl image new {what}, or name the file: ./{file}")))
}

fn load(path: &Path) -> Result<Found> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        CliError::new(Kind::Usage, "cannot read the recipe")
            .at(path.display())
            .because(error)
            .next("helixctl image new NAME writes one to begin with")
    })?;
    let dir = path.parent().map(|dir| if dir == Path::new("") { PathBuf::from(".") } else { dir.to_owned() });
    Ok(Found { recipe: read(&text, &path.display())?, place: path.display().to_string(), dir })
}

/// The chain of a recipe.
pub fn chain(what: &str) -> Result<Chain> {
    let mut chain = vec![find(what, None)?];
    while let Some(parent) = chain.last().and_then(|found| found.recipe.parent.clone()) {
        let child = &chain[chain.len() - 1];
        // A recipe may go on from the shipped one that it takes the name of.
        let own_name = child.recipe.name == parent && child.dir.is_some();
        let next = if own_name { find_shipped(&parent) } else { None };
        let next = next.map_or_else(|| find(&parent, child.dir.as_deref()), Ok).map_err(|mut error| {
            error.place = Some(format!("parent of {}: {}", child.place, error.place.unwrap_or_default()));
            error
        })?;
        if chain.iter().any(|known| known.place == next.place) || chain.len() >= MOST_PARENTS {
            let mut way: Vec<_> = chain.iter().map(|found| found.recipe.name.clone()).collect();
            way.push(next.recipe.name);
            return Err(CliError::new(Kind::Usage, "recipes are each other's parents")
                .at(&child.place)
                .because(way.join(" → "))
                .next("let one of them begin with [from], or with a shipped parent"));
        }
        chain.push(next);
    }
    chain.reverse();
    Ok(chain)
}

fn find_shipped(name: &str) -> Option<Found> {
    let (_, text) = SHIPPED.iter().find(|(known, _)| *known == name)?;
    let place = format!("(shipped) {name}");
    Some(Found { recipe: read(text, &place).ok()?, place, dir: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_recipes_are_sound_and_end_at_a_distribution() {
        for (name, _) in SHIPPED {
            let chain = chain(name).expect(name);
            assert!(chain[0].recipe.from.is_some(), "{name}");
            assert_eq!(chain.last().map(|found| found.recipe.name.as_str()), Some(name));
        }
    }

    /// What a recipe says that it is for must be there to be started.
    #[test]
    fn kinds_of_shipped_recipes_are_shipped() {
        let kinds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/kinds");
        for (name, _) in SHIPPED {
            for kind in find(name, None).expect(name).recipe.kinds {
                assert!(
                    kinds.join(format!("{kind}.toml")).is_file(),
                    "{name} is for {kind}, which no file says what it is"
                );
            }
        }
    }

    #[test]
    fn parents_in_a_circle_are_told_with_their_way() {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, parent) in [("a", "b.toml"), ("b", "c"), ("c", "a")] {
            let text = format!("name = \"{name}\"\nparent = \"{parent}\"\n");
            std::fs::write(dir.path().join(format!("{name}.toml")), text).expect("written");
        }
        let error = chain(&dir.path().join("a.toml").display().to_string()).expect_err("a circle");
        assert_eq!(error.why.as_deref(), Some("a → b → c → a"));
        let error = find("bse", None).expect_err("unknown");
        assert!(error.to_string().contains("did you mean base?"), "{error}");
    }
}
