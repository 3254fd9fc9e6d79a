//! From SVG to PNG.

use std::sync::{Arc, LazyLock};

use resvg::{tiny_skia, usvg};

use wgpu_attention::{Error, Result};

/// Pixels per unit, where the picture stays within [`MOST_PIXELS`] and [`LONGEST_SIDE`].
const SCALE: f32 = 2.0;
const MOST_PIXELS: f32 = 40e6;
const LONGEST_SIDE: f32 = 16_000.0;

/// The fonts, parsed once: nothing of the system's, so that pictures look the same everywhere.
static FONTS: LazyLock<Arc<usvg::fontdb::Database>> = LazyLock::new(|| {
    let mut fonts = usvg::fontdb::Database::new();
    fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
    fonts.load_font_data(epaint_default_fonts::HACK_REGULAR.to_vec());
    fonts.set_sans_serif_family("Ubuntu");
    fonts.set_monospace_family("Hack");
    Arc::new(fonts)
});

fn tree(svg: &str) -> Result<usvg::Tree, String> {
    let options = usvg::Options { fontdb: Arc::clone(&FONTS), ..Default::default() };
    usvg::Tree::from_str(svg, &options).map_err(|error| error.to_string())
}

pub(super) fn png(svg: &str) -> Result<Vec<u8>> {
    render(svg).map_err(|message| Error::File { path: "picture".to_owned(), message })
}

fn render(svg: &str) -> Result<Vec<u8>, String> {
    let tree = tree(svg)?;
    let size = tree.size();
    let scale = SCALE
        .min((MOST_PIXELS / (size.width() * size.height())).sqrt())
        .min(LONGEST_SIDE / size.width().max(size.height()));
    let pixels = |extent: f32| ((extent * scale) as u32).max(1);
    let mut pixmap = tiny_skia::Pixmap::new(pixels(size.width()), pixels(size.height()))
        .ok_or("there is no memory for its pixels")?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(scale, scale), &mut pixmap.as_mut());
    pixmap.encode_png().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::{Heatmap, Panel};

    fn glyphs(group: &usvg::Group, visit: &mut impl FnMut(&str, u32)) {
        for node in group.children() {
            match node {
                usvg::Node::Group(group) => glyphs(group, visit),
                usvg::Node::Text(text) => {
                    for glyph in text.layouted().iter().flat_map(|span| &span.positioned_glyphs) {
                        visit(&glyph.text, glyph.id.0);
                    }
                }
                _ => {}
            }
        }
    }

    #[test]
    fn the_fonts_have_every_character() {
        let figure = Heatmap::new("weights × ∅ → … — · “q” ≤ ∞ −∞")
            .panel(
                Panel::new(2, 2, [0.25, f32::NEG_INFINITY, f32::INFINITY, -1.5])
                    .row_labels(["Ġthe", "▁cat"])
                    .column_labels(["##s", "[PAD]…"]),
            )
            .panel(Panel::new(0, 0, []));
        let mut seen = String::new();
        glyphs(tree(&figure.to_svg().unwrap()).unwrap().root(), &mut |text, id| {
            assert_ne!(id, 0, "no font has `{text}`");
            seen.push_str(text);
        });
        for part in ["∞", "−", "∅", "…", "×", "Ġ", "▁"] {
            assert!(seen.contains(part), "{part} isn't drawn");
        }
    }
}
