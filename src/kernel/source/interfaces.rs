//! The test that every file of shaders/ says what it needs and what it offers: where each name comes from.
//!
//! `SHADER_INTERFACES=write cargo test --lib interfaces` writes these lines anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::kernel::catalog::CATALOG;

/// What Rust's side writes, and is in no file: `kernel::source`, `mask::emit`.
const GENERATED: &[&str] = &[
    "append_rotated_q",
    "cache_row_stride",
    "dlse_of",
    "lanes_per_row",
    "learned_elements",
    "learned_share",
    "mask_hull",
    "mask_keep",
    "mask_next",
    "mask_tile_closed",
    "modified_score",
    "pooled_heads",
    "row_keep",
    "score_gradient",
];

/// The bindings of some kernel.
const BINDINGS: &[&str] = &[
    "bias",
    "cache_lengths",
    "custom_shares",
    "score_cache",
    "dalibi_slopes",
    "dbias",
    "dcustom",
    "dk",
    "dlse",
    "dout",
    "dq",
    "dsinks",
    "dv",
    "k",
    "key_gradients",
    "lse",
    "mask_words",
    "new_k",
    "new_v",
    "o",
    "output",
    "params",
    "part",
    "points",
    "pooled",
    "pooled_k",
    "pooled_q",
    "q",
    "rotary",
    "rotated_q",
    "row_terms",
    "stats",
    "v",
    "values",
];

/// What lines begin with that are for some kernels alone.
const SOME: [&str; 4] = ["{{DROPOUT}}", "{{OWN}}", "{{QUERY_WINDOW}}", "{{WINDOW}}"];

/// What placeholders that are part of a name may stand for.
const TENSORS: &[&str] = &[
    "q",
    "k",
    "v",
    "o",
    "dout",
    "dq",
    "dk",
    "dv",
    "part",
    "bias",
    "dbias",
    "new_k",
    "new_v",
    "rotated_q",
    "kv",
];

struct File {
    /// Below shaders/, without the ending.
    name: String,
    path: PathBuf,
    text: String,
    /// Without comments.
    code: String,
    /// What it declares for others.
    declared: BTreeSet<String>,
    /// All of its words.
    words: BTreeSet<String>,
}

fn files() -> Vec<File> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(&path, found),
                false => found.push(path),
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    let file = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
        let code = lines.collect::<Vec<_>>().join("\n");
        let name = path.strip_prefix(&root).unwrap().with_extension("");
        File {
            name: name.to_str().unwrap().replace('\\', "/"),
            declared: declared(&code).into_iter().map(str::to_owned).collect(),
            words: words(&code).into_iter().map(|(word, ..)| word.to_owned()).collect(),
            path,
            text,
            code,
        }
    };
    paths.into_iter().map(file).collect()
}

/// A word of WGSL, placeholders being part of words, with what stands before and behind it.
fn words(code: &str) -> Vec<(&str, char, char)> {
    let is_word = |at: usize, c: char| {
        let brace = |pair| code[at..].starts_with(pair) || code[..at + 1].ends_with(pair);
        c.is_alphanumeric() || c == '_' || (c == '{' && brace("{{")) || (c == '}' && brace("}}"))
    };
    let mut found = Vec::new();
    let mut start = None;
    for (at, c) in code.char_indices().chain([(code.len(), ' ')]) {
        match (start, at < code.len() && is_word(at, c)) {
            (None, true) => start = Some(at),
            (Some(from), false) => {
                let before = code[..from].trim_end().chars().next_back().unwrap_or(' ');
                let behind = code[at..].trim_start().chars().next().unwrap_or(' ');
                let word = &code[from..at];
                if word.starts_with(|c: char| c.is_alphabetic() || c == '{') {
                    found.push((word, before, behind));
                }
                start = None;
            }
            _ => {}
        }
    }
    found
}

/// What a file declares for others: functions, constants, types and variables outside of functions.
fn declared(code: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for line in code.lines().filter(|line| !line.starts_with([' ', '}', ')'])) {
        let words: Vec<_> = words(line).into_iter().map(|(word, ..)| word).collect();
        let at =
            words.iter().position(|word| ["fn", "const", "struct", "alias", "var"].contains(word));
        let name = match at {
            Some(at) if words[at] == "var" => {
                words[at + 1..].iter().find(|word| !["workgroup", "private"].contains(word))
            }
            Some(at) => words.get(at + 1),
            None => None,
        };
        found.extend(name);
    }
    found
}

/// What it declares within functions and types.
fn local(code: &str) -> BTreeSet<&str> {
    let words = words(code);
    let declared =
        words.windows(2).filter(|pair| ["let", "var"].contains(&pair[0].0)).map(|pair| pair[1].0);
    let typed = words.iter().filter(|(.., behind)| *behind == ':').map(|(word, ..)| *word);
    declared.chain(typed).collect()
}

/// Whether a name that a file declares, perhaps with placeholders in it, is meant by a name that another one uses.
fn is_meant(declared: &str, used: &str) -> bool {
    if declared == used {
        return true;
    }
    let Some((before, behind)) = declared.split_once("{{") else { return false };
    let Some((_, after)) = behind.split_once("}}") else { return false };
    let Some(rest) = used.strip_prefix(before) else { return false };
    let values = TENSORS.iter().copied().chain(["", "full_", "partial_"]);
    let placeholder = rest.split_once("}}").filter(|_| rest.starts_with("{{"));
    let of_placeholder = placeholder.is_some_and(|(_, tail)| is_meant(after, tail));
    of_placeholder
        || values.filter_map(|value| rest.strip_prefix(value)).any(|tail| {
            !tail.is_empty() | after.is_empty() && is_meant(after, tail) || tail == after
        })
}

/// The files that each one is put together with in some kernel.
fn companions() -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (kernel, _) in &*CATALOG {
        let titles = kernel.wgsl.lines().filter_map(|line| line.strip_prefix("// ---- shaders/"));
        let names = titles.filter_map(|title| title.split_once(".wgsl"));
        let parts: BTreeSet<String> = names.map(|(name, _)| name.to_owned()).collect();
        for part in &parts {
            found.entry(part.clone()).or_default().extend(parts.iter().cloned());
        }
    }
    found
}

/// The lines that say what a file needs and offers.
fn interface(file: &File, all: &[File], companions: &BTreeMap<String, BTreeSet<String>>) -> String {
    let met = |other: &File| {
        let known = companions.get(&file.name);
        other.name != file.name && known.is_some_and(|met| met.contains(&other.name))
    };
    let own = &file.declared;
    let local = local(&file.code);
    let used: BTreeSet<&str> = (words(&file.code).into_iter())
        .filter(|&(_, before, _)| before != '.' && before != '@')
        .map(|(word, ..)| word)
        .filter(|word| !own.contains(*word) && !local.contains(word))
        // A placeholder alone is an expression.
        .filter(|word| !(word.starts_with("{{") && word.ends_with("}}")))
        .collect();
    // What lines for some kernels alone need, only these kernels need.
    let words_of = |is_of: &dyn Fn(&str) -> bool| -> BTreeSet<&str> {
        let lines = file.code.lines().filter(|line| is_of(line));
        lines.flat_map(words).map(|(word, ..)| word).collect()
    };
    let always = words_of(&|line| !SOME.iter().any(|some| line.contains(some)));
    let only_in = SOME.map(|some| (some, words_of(&|line| line.contains(some))));
    let only = |word: &str| {
        let (some, _) = only_in.iter().find(|(_, words)| words.contains(word))?;
        (!always.contains(word)).then_some(*some)
    };
    let mut needs: BTreeMap<(Option<&str>, String), BTreeSet<&str>> = BTreeMap::new();
    for word in used {
        let exact = |other: &&File| other.declared.contains(word);
        let similar = |other: &&File| other.declared.iter().any(|name| is_meant(name, word));
        let others = || all.iter().filter(|other| met(other));
        let mut from: Vec<&str> = others().filter(exact).map(|other| &*other.name).collect();
        if from.is_empty() {
            from = others().filter(similar).map(|other| &*other.name).collect();
        }
        let provider = match from[..] {
            [] if BINDINGS.contains(&word) => "bindings".to_owned(),
            [] if GENERATED.contains(&word) => "generated".to_owned(),
            [] if word.len() > 1 && !word.contains(|c: char| c.is_lowercase()) => {
                "constants".to_owned()
            }
            [] => continue,
            [only] => only.to_owned(),
            _ => {
                let folders: BTreeSet<&str> = from
                    .iter()
                    .map(|name| name.rsplit_once('/').map_or(*name, |(folder, _)| folder))
                    .collect();
                let folder = |name: &&str| {
                    if from.contains(name) { (*name).to_owned() } else { format!("{name}/") }
                };
                folders.iter().map(folder).collect::<Vec<_>>().join(" or ")
            }
        };
        needs.entry((only(word), provider)).or_default().insert(word);
    }
    let is_used = |name: &&String| {
        let by = |other: &File| met(other) && other.words.iter().any(|word| is_meant(name, word));
        let within = words(&file.code).iter().filter(|(word, ..)| word == *name).count();
        all.iter().any(by) || within == 1
    };
    let offers: Vec<&str> = own.iter().filter(is_used).map(String::as_str).collect();
    let list = |names: Vec<&str>| names.join(", ");
    let mut text = String::new();
    for ((only, provider), names) in needs {
        let only = only.map_or(String::new(), |some| format!("{some} "));
        text += &format!("// {only}needs {provider}: {}\n", list(names.into_iter().collect()));
    }
    text + &format!("// offers {}\n", list(offers))
}

/// The file with the lines behind its leading comment.
fn with_interface(file: &File, interface: &str) -> String {
    let is_line = |line: &&str| {
        let of = |line: &str| line.starts_with("// needs ") || line.starts_with("// offers ");
        of(line) || SOME.iter().any(|some| of(&line.replacen(&format!("{some} "), "", 1)))
    };
    let lines: Vec<&str> = file.text.lines().filter(|line| !is_line(line)).collect();
    let comment = lines.iter().take_while(|line| line.starts_with("//")).count();
    let (head, rest) = lines.split_at(comment);
    let rest = rest.join("\n");
    let head = if head.is_empty() { String::new() } else { head.join("\n") + "\n\n" };
    format!("{head}{interface}\n{}\n", rest.trim_matches('\n'))
}

#[test]
fn every_file_says_what_it_needs_and_offers() {
    let all = files();
    let companions = companions();
    let write = std::env::var_os("SHADER_INTERFACES").is_some_and(|value| value == "write");
    for file in &all {
        let wanted = with_interface(file, &interface(file, &all, &companions));
        if write {
            std::fs::write(&file.path, wanted).unwrap();
        } else {
            assert!(
                file.text == wanted,
                "{}: its lines `// needs` and `// offers` aren't true; run `SHADER_INTERFACES=write cargo test --lib \
                 interfaces`",
                file.path.display()
            );
        }
    }
}
