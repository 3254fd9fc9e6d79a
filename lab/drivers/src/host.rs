//! What kind of system this is: which releases of its distribution have a driver that fits, and what to advise where
//! nothing can be fetched.

use std::path::Path;

/// The release of Debian whose packages are fetched on every older one, and on itself: the first with a Mesa in its
/// backports that has all that lavapipe can do, cooperative matrices included. Its C library comes with it.
const DEBIAN: Release = Release { number: 13, newest: &["trixie", "trixie-backports"] };

/// Older releases of lavapipe, oldest first: under which name each is kept, and where it comes from.
const OLDER: [(&str, &[&str]); 2] = [
    ("lavapipe-bookworm", &["bookworm"]),
    ("lavapipe-bookworm-backports", &["bookworm", "bookworm-backports"]),
];

struct Release {
    number: u32,
    /// Where Mesa is taken from.
    newest: &'static [&'static str],
}

/// An older lavapipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Older {
    /// Mesa 22.3, the oldest.
    Bookworm,
    /// Mesa 25.0.
    BookwormBackports,
}

impl Older {
    /// The folder's name.
    pub(crate) const fn name(self) -> &'static str {
        OLDER[self as usize].0
    }
}

/// Where packages come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Recipe {
    /// From these releases of Debian, at the system's own mirror. Where a package is in both, the last one's is taken.
    Debian {
        /// The releases.
        suites: &'static [&'static str],
    },
    /// From wherever the system itself gets its packages.
    System,
}

impl Recipe {
    /// As the stamp keeps it.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Debian { suites } => suites.join("+"),
            Self::System => "system".to_owned(),
        }
    }
}

/// The operating system.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Host {
    /// The distribution, as `debian` or `fedora`.
    id: String,
    /// The release's number; testing and unstable have none.
    version: Option<u32>,
    /// The release's codename.
    codename: String,
}

impl Host {
    /// Reads what the system says of itself.
    pub(crate) fn detect() -> Self {
        let text = ["/etc/os-release", "/usr/lib/os-release"]
            .iter()
            .find_map(|path| std::fs::read_to_string(path).ok())
            .unwrap_or_default();
        Self::parse(&text)
    }

    fn parse(os_release: &str) -> Self {
        let value = |wanted: &str| {
            os_release
                .lines()
                .filter_map(|line| line.split_once('='))
                .find(|(key, _)| *key == wanted)
                .map(|(_, value)| value.trim().trim_matches(['"', '\'']).to_owned())
        };
        Self {
            id: value("ID").unwrap_or_default(),
            version: value("VERSION_ID").and_then(|version| version.parse().ok()),
            codename: value("VERSION_CODENAME").unwrap_or_default(),
        }
    }

    /// Whether this is Debian itself, whose package of Chromium has SwiftShader in it.
    pub(crate) fn is_debian(&self) -> bool {
        self.id == "debian"
    }

    /// The release's codename; may be empty.
    pub(crate) fn codename(&self) -> &str {
        &self.codename
    }

    /// What to try for Mesa's drivers, best first.
    pub(crate) fn recipes(&self) -> Vec<Recipe> {
        // A newer Debian has a newer Mesa itself, and programs built there may want its newer C library.
        if self.is_debian() && self.version.is_some_and(|version| version <= DEBIAN.number) {
            vec![Recipe::Debian { suites: DEBIAN.newest }, Recipe::System]
        } else {
            vec![Recipe::System]
        }
    }

    /// Where an older lavapipe comes from.
    pub(crate) fn older_recipes(&self, older: Older) -> Vec<Recipe> {
        let (_, suites) = OLDER[older as usize];
        if self.is_debian() { vec![Recipe::Debian { suites }] } else { Vec::new() }
    }
}

/// How to install lavapipe by hand, per package manager.
const INSTALL: [(&str, &str); 5] = [
    ("apt-get", "apt-get install mesa-vulkan-drivers libvulkan1"),
    ("dnf", "dnf install mesa-vulkan-drivers vulkan-loader"),
    ("pacman", "pacman -S vulkan-swrast vulkan-icd-loader"),
    ("apk", "apk add mesa-vulkan-swrast vulkan-loader"),
    ("zypper", "zypper install libvulkan_lvp libvulkan1"),
];

/// What to do on a machine that has no adapter and where none can be fetched.
pub(crate) fn advice() -> String {
    match std::env::consts::OS {
        "linux" => linux_advice(is_in_path),
        "macos" => "wgpu reaches every Mac's GPU through Metal; a virtual machine needs one with paravirtualised \
                    graphics."
            .to_owned(),
        "windows" => "Install the GPU's driver; without a GPU, Windows has a software adapter (WARP), which \
                      `--driver system` uses."
            .to_owned(),
        other => format!("Install a Vulkan driver for {other}, such as Mesa's lavapipe."),
    }
}

fn linux_advice(is_there: impl Fn(&str) -> bool) -> String {
    let mut commands: Vec<_> = INSTALL.iter().filter(|(manager, _)| is_there(manager)).collect();
    if commands.is_empty() {
        commands = INSTALL.iter().collect();
    }
    let commands: Vec<_> = commands.iter().map(|(_, command)| format!("  {command}")).collect();
    format!(
        "Install lavapipe, Mesa's Vulkan driver for CPUs, and the Vulkan loader (as root), or a GPU's driver, and try \
         again:\n{}",
        commands.join("\n")
    )
}

/// Whether a program of this name can be started.
pub fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| Path::new(&dir).join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe_names(os_release: &str) -> Vec<String> {
        Host::parse(os_release).recipes().into_iter().map(Recipe::name).collect()
    }

    #[test]
    fn debian_takes_the_newer_mesa_with_its_libc() {
        let bookworm = "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n";
        assert_eq!(recipe_names(bookworm), ["trixie+trixie-backports", "system"]);
        assert_eq!(Host::parse(bookworm).codename(), "bookworm");
        let trixie = "VERSION_ID='13'\nID=debian\n";
        assert_eq!(recipe_names(trixie), ["trixie+trixie-backports", "system"]);
    }

    #[test]
    fn newer_debians_and_others_take_their_own() {
        assert_eq!(recipe_names("ID=debian\nVERSION_ID=\"14\"\n"), ["system"]);
        assert_eq!(recipe_names("ID=debian\nVERSION_CODENAME=forky\n"), ["system"]);
        assert_eq!(recipe_names("ID=ubuntu\nVERSION_ID=\"24.04\"\nID_LIKE=debian\n"), ["system"]);
        assert_eq!(recipe_names(""), ["system"]);
    }

    #[test]
    fn advice_names_the_package_manager_that_is_there() {
        let fedora = linux_advice(|program| program == "dnf");
        assert!(fedora.contains("dnf install") && !fedora.contains("pacman"), "{fedora}");
        let unknown = linux_advice(|_| false);
        assert!(unknown.contains("dnf install") && unknown.contains("pacman -S"), "{unknown}");
    }
}
