//! The name that somebody meant who wrote another.

/// The nearest of `names`: the same in another case, or a few letters away, or one that contains the word. `None` where
/// nothing is near.
pub(crate) fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    let letters = word.chars().count();
    let names: Vec<&str> = names.into_iter().collect();
    let distance = |name: &str| strsim::damerau_levenshtein(&word, &name.to_lowercase());
    let near = names.iter().copied().min_by_key(|name| distance(name));
    near.filter(|name| distance(name) <= letters / 3).or_else(|| {
        let contains = |name: &&str| letters >= 4 && name.to_lowercase().contains(&word);
        names.iter().copied().find(contains)
    })
}

/// ` (did you mean ...?)`, or nothing where no name is near.
pub fn did_you_mean<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, names).map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_nearly_right() {
        let names = ["all", "causal", "window", "key_lengths", "key_padding", "sliding_window"];
        for (word, name) in [
            ("caual", Some("causal")),
            ("Causal", Some("causal")),
            ("casual", Some("causal")),
            ("key_lenghts", Some("key_lengths")),
            ("key-lengths", Some("key_lengths")),
            ("sliding", Some("sliding_window")),
            ("alll", Some("all")),
            ("al", None),
            ("ALL", Some("all")),
            ("foo", None),
            ("x", None),
            ("something", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, names), name, "{word}");
        }
        assert_eq!(nearest("causal", []), None);
    }
}
