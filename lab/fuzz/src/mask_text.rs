use wgpu_attention::Mask;
use wgpu_attention::wgsl::WgslFunction;

/// Any text as a mask: a mask that prints as a text of its own, or an error that points into the text.
pub fn mask_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let custom = WgslFunction::new("").expect("an empty text holds nothing that is refused");
    let plain = text.parse::<Mask>();
    let with_function = Mask::parse_with(text, custom.clone());
    for parsed in [&plain, &with_function] {
        match parsed {
            Ok(mask) => {
                let printed = mask.to_string();
                let again = Mask::parse_with(&printed, custom.clone());
                assert_eq!(again.as_ref(), Ok(mask), "`{printed}`");
            }
            Err(error) => {
                let columns = 1..=text.chars().count() + 1;
                assert!(columns.contains(&error.column), "column {} of {columns:?}", error.column);
                assert!(!error.to_string().is_empty());
            }
        }
    }
    // Only what names a function may need one.
    if plain != with_function {
        assert!(text.contains("wgsl"), "{plain:?}, {with_function:?}");
    }
}
