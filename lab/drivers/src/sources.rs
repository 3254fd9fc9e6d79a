//! The package sources of the system's own apt configuration, as far as they tell where its distribution is mirrored.
//!
//! A driver newer than the system's comes from another release of the same distribution. Where that is mirrored, only
//! the system knows: companies and clouds have mirrors of their own, and a public one may be out of reach. So the address
//! and the keys are taken from the system's configuration, and only the name of the release is changed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Names under which a release is found besides its codename.
const MOVING_NAMES: [&str; 5] = ["oldstable", "stable", "testing", "unstable", "sid"];

/// Settings of a source that say whom to trust, and so stay when the release is changed.
const TRUST: [&str; 8] = [
    "Signed-By",
    "Trusted",
    "Allow-Insecure",
    "Allow-Weak",
    "Check-Valid-Until",
    "Check-Date",
    "Valid-Until-Max",
    "Valid-Until-Min",
];

/// One place that packages come from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Source {
    /// Where it is.
    uri: String,
    /// Its releases, such as `bookworm` and `bookworm-updates`.
    suites: Vec<String>,
    /// Its parts, such as `main`.
    components: Vec<String>,
    /// The settings of [`TRUST`] that it has, as in a `.sources` file.
    trust: Vec<(&'static str, String)>,
}

impl Source {
    /// A `.sources` file for other releases in the same place, with the part `main` for one architecture. Where the
    /// source names no keys of its own, `keyring` is used.
    pub(crate) fn to_suites(
        &self,
        suites: &[&str],
        architecture: &str,
        keyring: Option<&Path>,
    ) -> String {
        let mut text = format!(
            "Types: deb\nURIs: {}\nSuites: {}\nComponents: main\nArchitectures: {architecture}\n\
             Languages: none\nTargets: Packages\n",
            self.uri,
            suites.join(" "),
        );
        for (name, value) in &self.trust {
            text += &format!("{name}: {value}\n");
        }
        if let Some(keyring) = keyring
            && !self.trust.iter().any(|(name, _)| *name == "Signed-By")
        {
            text += &format!("Signed-By: {}\n", keyring.display());
        }
        text
    }
}

/// The source that has the distribution's own packages, of the release with this codename.
pub(crate) fn mirror<'a>(sources: &'a [Source], codename: &str) -> Option<&'a Source> {
    let mut found: Vec<&Source> = sources
        .iter()
        .filter(|source| {
            source.components.iter().any(|component| component == "main")
                && !source.uri.starts_with("cdrom:")
                && source
                    .suites
                    .iter()
                    .any(|suite| suite == codename || MOVING_NAMES.contains(&suite.as_str()))
        })
        .collect();
    // Other projects' sources may use the same names; Debian's mirrors end in /debian by long custom.
    found.sort_by_key(|source| !source.uri.trim_end_matches('/').ends_with("/debian"));
    found.first().copied()
}

/// The sources of apt's file and of the files in its folder, in apt's order. What can't be read has none.
pub(crate) fn read(file: &Path, folder: &Path) -> Vec<Source> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    files.insert(0, file.to_path_buf());

    files
        .iter()
        .flat_map(|path| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            match path.extension().and_then(OsStr::to_str) {
                Some("list") => parse_list(&text),
                Some("sources") => parse_stanzas(&text),
                _ => Vec::new(),
            }
        })
        .collect()
}

/// Parses the one-line format: `deb [signed-by=KEYS] URI SUITE COMPONENT …`.
fn parse_list(text: &str) -> Vec<Source> {
    text.lines()
        .filter_map(|line| {
            let line = line.split('#').next()?.trim();
            let rest = line.strip_prefix("deb")?;
            // Not deb-src.
            let rest = rest.strip_prefix(char::is_whitespace)?.trim_start();
            let (options, rest) = match rest.strip_prefix('[') {
                Some(rest) => rest.split_once(']')?,
                None => ("", rest),
            };
            let trust = options
                .split_whitespace()
                .filter_map(|option| option.split_once('='))
                .filter_map(|(name, value)| Some((trust_name(name)?, value.replace(',', " "))))
                .collect();
            let mut words = rest.split_whitespace().map(str::to_owned);
            Some(Source {
                uri: words.next()?,
                suites: vec![words.next()?],
                components: words.collect(),
                trust,
            })
        })
        .collect()
}

/// Parses the format of `.sources` files: stanzas of fields, whose values may go on over indented lines.
fn parse_stanzas(text: &str) -> Vec<Source> {
    let mut stanzas: Vec<Vec<(&str, String)>> = vec![Vec::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let stanza = stanzas.last_mut().expect("there is always a stanza");
        if line.trim().is_empty() {
            stanzas.push(Vec::new());
        } else if line.starts_with([' ', '\t']) {
            // A continuation keeps its indentation: keys may be written out inside a source.
            if let Some((_, value)) = stanza.last_mut() {
                *value += "\n";
                *value += line;
            }
        } else if let Some((name, value)) = line.split_once(':') {
            stanza.push((name.trim(), value.trim().to_owned()));
        }
    }
    stanzas.iter().flat_map(|stanza| stanza_sources(stanza)).collect()
}

fn stanza_sources(stanza: &[(&str, String)]) -> Vec<Source> {
    let words = |wanted: &str| -> Vec<String> {
        stanza
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default()
    };
    let disabled =
        words("Enabled").iter().any(|value| ["no", "false", "0"].contains(&value.as_str()));
    if disabled || !words("Types").iter().any(|kind| kind == "deb") {
        return Vec::new();
    }
    let trust: Vec<_> = stanza
        .iter()
        .filter_map(|(name, value)| Some((trust_name(name)?, value.clone())))
        .collect();
    words("URIs")
        .into_iter()
        .map(|uri| Source {
            uri,
            suites: words("Suites"),
            components: words("Components"),
            trust: trust.clone(),
        })
        .collect()
}

fn trust_name(name: &str) -> Option<&'static str> {
    TRUST.into_iter().find(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANZAS: &str = "\
# The distribution
Types: deb deb-src
# A comment between
URIs: http://mirror.example/debian http://second.example/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/other
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://sources.example/debian
Suites: bookworm
Components: main
";

    #[test]
    fn stanzas_are_read() {
        let sources = parse_stanzas(STANZAS);
        let uris: Vec<_> = sources.iter().map(|source| source.uri.as_str()).collect();
        assert_eq!(
            uris,
            [
                "http://mirror.example/debian",
                "http://second.example/debian/",
                "http://mirror.example/other"
            ]
        );
        assert_eq!(sources[1].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(sources[1].components, ["main", "contrib"]);
        assert!(sources[2].trust[0].1.contains("\n -----BEGIN PGP"), "{:?}", sources[2]);
    }

    #[test]
    fn lines_are_read() {
        let text = "\
# deb http://commented.example/debian bookworm main
deb-src http://mirror.example/debian bookworm main
deb [ arch=amd64 signed-by=/k/a.gpg,/k/b.gpg trusted=yes ] http://mirror.example/debian bookworm main contrib # why
deb\thttp://plain.example/debian bookworm main
deb [ broken http://mirror.example/debian bookworm main
";
        let sources = parse_list(text);
        assert_eq!(sources.len(), 2, "{sources:?}");
        assert_eq!(sources[0].uri, "http://mirror.example/debian");
        assert_eq!(sources[0].components, ["main", "contrib"]);
        assert_eq!(
            sources[0].trust,
            [("Signed-By", "/k/a.gpg /k/b.gpg".to_owned()), ("Trusted", "yes".to_owned())]
        );
        assert_eq!(sources[1].uri, "http://plain.example/debian");
    }

    #[test]
    fn the_mirror_is_the_distributions_own() {
        let sources = parse_list(
            "deb cdrom:[Debian]/ bookworm main\n\
             deb http://tools.example/linux bookworm stable\n\
             deb http://project.example/packages bookworm main\n\
             deb http://mirror.example/debian-security bookworm-security main\n\
             deb http://mirror.example/debian bookworm main\n",
        );
        assert_eq!(mirror(&sources, "bookworm").unwrap().uri, "http://mirror.example/debian");
        assert_eq!(mirror(&sources, "forky"), None);
        let moving = parse_list("deb http://mirror.example/debian stable main");
        assert!(mirror(&moving, "forky").is_some());
    }

    #[test]
    fn only_the_release_is_changed() {
        let source = &parse_stanzas(STANZAS)[0];
        assert_eq!(
            source.to_suites(&["trixie", "trixie-backports"], "amd64", Some(Path::new("/k.gpg"))),
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie trixie-backports\n\
             Components: main\nArchitectures: amd64\nLanguages: none\nTargets: Packages\n\
             Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        );
        let bare = &parse_list("deb http://mirror.example/debian bookworm main")[0];
        assert!(
            bare.to_suites(&["trixie"], "arm64", Some(Path::new("/k.gpg")))
                .ends_with("Targets: Packages\nSigned-By: /k.gpg\n")
        );
    }
}
