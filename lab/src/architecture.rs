//! The test that files of the development tools import one way: no file is needed by one that it imports itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use drivers::workspace::Workspace;

/// Where the tools' packages have their sources. Between packages cargo allows no circles.
const SOURCES: [&str; 5] =
    ["lab/src", "lab/compilers/src", "lab/drivers/src", "lab/fuzz/src", "xtask/src"];

/// A module by the names that lead to it; that of the package's root has none.
type Module = Vec<String>;

#[test]
fn files_import_one_way() {
    let workspace = Workspace::locate().unwrap();
    for source in SOURCES {
        let imports = imports(&workspace.root().join(source));
        assert!(imports.values().any(|imported| !imported.is_empty()), "{source} imports nothing");
        if let Some(circle) = circle(&imports) {
            let names: Vec<String> = circle.iter().map(|module| module.join("::")).collect();
            panic!("{source}: {}", names.join(" imports "));
        }
    }
}

#[test]
fn a_circle_is_found() {
    let module = |name: &str| vec![name.to_owned()];
    let one_way = [(module("a"), BTreeSet::from([module("b")])), (module("b"), BTreeSet::new())];
    assert_eq!(circle(&BTreeMap::from(one_way.clone())), None);
    let around = [one_way[0].clone(), (module("b"), BTreeSet::from([module("a")]))];
    assert_eq!(circle(&around.into()), Some(vec![module("a"), module("b"), module("a")]));
}

#[test]
fn imports_are_read() {
    let text = "use std::fs;\npub(crate) use super::{a::B, c::{self, D}};\n// use e;\nlet f = use_g;\n\
                #[cfg(test)]\nmod tests {\n    use super::*;\n}\n";
    assert_eq!(paths(text), ["std::fs", "super::a::B", "super::c::self", "super::c::D"]);
}

/// Which modules each module of a package imports.
fn imports(source: &Path) -> BTreeMap<Module, BTreeSet<Module>> {
    let files = files(source);
    let resolve = |at: &Module, path: &str| {
        let mut module = at.clone();
        for name in path.split("::") {
            match name {
                "crate" => module.clear(),
                "super" => drop(module.pop()),
                "self" => {}
                _ => {
                    module.push(name.to_owned());
                    if !files.contains_key(&module) {
                        module.pop();
                        break;
                    }
                }
            }
        }
        module
    };
    let of = |(at, file): (&Module, &PathBuf)| {
        let text = std::fs::read_to_string(file).unwrap();
        let mut imported: BTreeSet<Module> =
            paths(&text).iter().map(|path| resolve(at, path)).collect();
        // What is another package's, too.
        imported.remove(at);
        (at.clone(), imported)
    };
    files.iter().map(of).collect()
}

/// The files of a package, by their modules.
fn files(source: &Path) -> BTreeMap<Module, PathBuf> {
    let mut files = BTreeMap::new();
    let mut folders = vec![(source.to_path_buf(), Module::new())];
    while let Some((folder, module)) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let own = match name.as_str() {
                "lib" | "main" | "mod" => module.clone(),
                _ => [module.clone(), vec![name]].concat(),
            };
            if path.is_dir() {
                folders.push((path, own));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.insert(own, path);
            }
        }
    }
    files
}

/// The paths that are imported by a file, but for its tests.
fn paths(text: &str) -> Vec<String> {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let mut paths = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let start = line.trim_start_matches("pub ").trim_start_matches("pub(crate) ");
        let Some(start) = start.trim_start_matches("pub(super) ").strip_prefix("use ") else {
            continue;
        };
        let mut import = start.to_owned();
        while !import.contains(';') {
            import += lines.next().unwrap_or(";");
        }
        expand("", import.split(';').next().unwrap_or_default(), &mut paths);
    }
    paths
}

/// `a::{b, c::{d}}` as `a::b` and `a::c::d`.
fn expand(before: &str, import: &str, paths: &mut Vec<String>) {
    let import = import.trim();
    let Some((start, rest)) = import.split_once('{') else {
        if !import.is_empty() {
            paths.push(format!("{before}{import}"));
        }
        return;
    };
    let list = rest.strip_suffix('}').unwrap_or(rest);
    let (mut depth, mut from) = (0, 0);
    for (at, c) in list.char_indices().chain([(list.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&format!("{before}{start}"), &list[from..at], paths);
                from = at + 1;
            }
            _ => {}
        }
    }
}

/// Modules of which each imports the next, and the last is the first.
fn circle(imports: &BTreeMap<Module, BTreeSet<Module>>) -> Option<Vec<Module>> {
    fn visit(
        module: &Module,
        imports: &BTreeMap<Module, BTreeSet<Module>>,
        way: &mut Vec<Module>,
        done: &mut BTreeSet<Module>,
    ) -> Option<Vec<Module>> {
        if let Some(at) = way.iter().position(|other| other == module) {
            return Some([&way[at..], std::slice::from_ref(module)].concat());
        }
        if done.contains(module) {
            return None;
        }
        way.push(module.clone());
        let mut imported = imports.get(module).into_iter().flatten();
        let found = imported.find_map(|next| visit(next, imports, way, done));
        way.pop();
        done.insert(module.clone());
        found
    }
    let (mut way, mut done) = (Vec::new(), BTreeSet::new());
    imports.keys().find_map(|module| visit(module, imports, &mut way, &mut done))
}
