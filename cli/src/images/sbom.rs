//! The list of packages of an image, as SPDX JSON: what dpkg has installed, and what npm has.

use std::fs;
use std::path::Path;

use helix_protocol::image::Digest;
use serde::{Deserialize, Serialize};

use crate::error::{CliError, Result};

/// Where npm puts packages for everybody.
const NPM: [&str; 2] = ["usr/local/lib/node_modules", "usr/lib/node_modules"];

/// One package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// `deb` or `npm`.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Machine; none of npm's.
    pub arch: Option<String>,
}

/// The list of a root, as text. The same root is the same text.
pub fn of_root(root: &Path, image: &str, source_date: u64, tar: &Digest) -> Result<String> {
    let status = root.join("var/lib/dpkg/status");
    let text = fs::read_to_string(&status)
        .map_err(|error| CliError::failed("cannot read the image's packages").at(status.display()).because(error))?;
    let mut packages = installed(&text);
    for dir in NPM {
        packages.extend(npm_packages(&root.join(dir)));
    }
    packages.sort();
    packages.dedup();
    let vendor = vendor(root);
    let created = jiff::Timestamp::from_second(i64::try_from(source_date).unwrap_or(0)).unwrap_or_default();
    let document = serde_json::json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": image,
        "documentNamespace": format!("https://helix.invalid/images/{image}/{}", tar.hex()),
        "creationInfo": { "created": created.to_string(), "creators": ["Tool: helixctl"] },
        "packages": packages.iter().map(|package| spdx(package, &vendor)).collect::<Vec<_>>(),
        "relationships": packages.iter().map(|package| serde_json::json!({
            "spdxElementId": "SPDXRef-DOCUMENT",
            "relationshipType": "DESCRIBES",
            "relatedSpdxElement": id(package),
        })).collect::<Vec<_>>(),
    });
    serde_json::to_string(&document)
        .map_err(|error| CliError::failed("cannot write the list of packages").because(error))
}

/// The packages that a list names.
pub fn packages(sbom: &[u8]) -> Result<Vec<Package>> {
    let bad = |why: String| CliError::failed("cannot read the image's list of packages").because(why);
    let document: serde_json::Value = serde_json::from_slice(sbom).map_err(|error| bad(error.to_string()))?;
    let list = document["packages"].as_array().ok_or_else(|| bad("it has none".to_owned()))?;
    let package = |entry: &serde_json::Value| {
        let locator = entry["externalRefs"][0]["referenceLocator"].as_str()?;
        Some(Package {
            kind: locator.strip_prefix("pkg:")?.split('/').next()?.to_owned(),
            name: entry["name"].as_str()?.to_owned(),
            version: entry["versionInfo"].as_str()?.to_owned(),
            arch: locator.split_once("arch=").map(|(_, arch)| arch.to_owned()),
        })
    };
    Ok(list.iter().filter_map(package).collect())
}

/// What dpkg's status says is installed.
fn installed(status: &str) -> Vec<Package> {
    let mut found = Vec::new();
    for paragraph in status.split("\n\n") {
        let field = |name: &str| {
            let line =
                paragraph.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(": ")))?;
            line.split_once(": ").map(|(_, value)| value.to_owned())
        };
        let is_installed = field("Status").is_some_and(|status| status.ends_with(" installed"));
        if let (true, Some(name), Some(version)) = (is_installed, field("Package"), field("Version")) {
            found.push(Package { kind: "deb".to_owned(), name, version, arch: field("Architecture") });
        }
    }
    found
}

fn npm_packages(dir: &Path) -> Vec<Package> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with('@') {
            found.extend(npm_packages(&entry.path()));
            continue;
        }
        let text = fs::read(entry.path().join("package.json")).unwrap_or_default();
        let Ok(said) = serde_json::from_slice::<serde_json::Value>(&text) else { continue };
        if let (Some(name), Some(version)) = (said["name"].as_str(), said["version"].as_str()) {
            found.push(Package {
                kind: "npm".to_owned(),
                name: name.to_owned(),
                version: version.to_owned(),
                arch: None,
            });
        }
        found.extend(npm_packages(&entry.path().join("node_modules")));
    }
    found
}

/// Whose packages they are, as the root itself says: names of packages mean something else in Ubuntu.
fn vendor(root: &Path) -> String {
    let text = fs::read_to_string(root.join("usr/lib/os-release")).unwrap_or_default();
    let id = text.lines().find_map(|line| line.strip_prefix("ID=")).map(|id| id.trim_matches('"'));
    id.unwrap_or("debian").to_owned()
}

fn spdx(package: &Package, vendor: &str) -> serde_json::Value {
    let Package { kind, name, version, arch } = package;
    let vendor = if kind == "deb" { format!("{vendor}/") } else { String::new() };
    let arch = arch.as_ref().map(|arch| format!("?arch={arch}")).unwrap_or_default();
    let encoded = |text: &str| text.replace('%', "%25").replace('+', "%2B").replace(':', "%3A").replace('@', "%40");
    serde_json::json!({
        "SPDXID": id(package),
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": format!("pkg:{kind}/{vendor}{}@{}{arch}", encoded(name), encoded(version)),
        }],
    })
}

fn id(package: &Package) -> String {
    let word = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
    };
    let arch = package.arch.as_deref().map(|arch| format!("-{arch}")).unwrap_or_default();
    format!("SPDXRef-{}-{}-{}{arch}", package.kind, word(&package.name), word(&package.version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_listed_and_read_again() {
        let root = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        };
        write(
            "var/lib/dpkg/status",
            "Package: git\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:2.39.5-0+deb12u2\n\n\
             Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n",
        );
        write("usr/local/lib/node_modules/@a/b/package.json", "{\"name\":\"@a/b\",\"version\":\"1.2.3\"}");
        let text = of_root(root.path(), "dev", 1_700_000_000, &Digest::of(b"")).expect("listed");
        let list = packages(text.as_bytes()).expect("read");
        let words: Vec<_> =
            list.iter().map(|package| format!("{} {} {}", package.kind, package.name, package.version)).collect();
        assert_eq!(words, ["deb git 1:2.39.5-0+deb12u2", "npm @a/b 1.2.3"]);
        assert_eq!(list[0].arch.as_deref(), Some("amd64"));
        assert!(text.contains("2023-11-14T22:13:20Z"), "{text}");
        assert!(text.contains("pkg:deb/debian/git@"), "{text}");
        write("usr/lib/os-release", "NAME=\"Ubuntu\"\nID=ubuntu\nID_LIKE=debian\n");
        let text = of_root(root.path(), "dev", 1_700_000_000, &Digest::of(b"")).expect("listed");
        assert!(text.contains("pkg:deb/ubuntu/git@") && text.contains("pkg:npm/"), "{text}");
    }
}
