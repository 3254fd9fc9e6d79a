//! Bars beside their names: shares of a whole.

use std::fmt::Write as _;
use std::path::Path;

use super::svg::{DARK, MONO, MUTED, SANS, escape};
use super::{raster, save};
use wgpu_attention::{Error, Result};

/// A figure of bars, each a share of the same whole.
///
/// ```
/// use wgpu_attention_tools::picture::{Bar, Bars};
/// let bar = Bar { label: "causal".to_owned(), share: 0.4, value: "40 %".to_owned() };
/// let svg = Bars::new("Share of the peak").bars([bar]).to_svg()?;
/// assert!(svg.contains(">40 %</text>"));
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Bars {
    title: String,
    subtitles: Vec<String>,
    bars: Vec<Bar>,
}

/// One bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// What stands before it.
    pub label: String,
    /// Its length: 1 is the whole.
    pub share: f64,
    /// What stands behind it.
    pub value: String,
}

const MARGIN: f64 = 24.0;
const HEAD: f64 = 34.0;
const LINE: f64 = 20.0;
const STEP: f64 = 28.0;
const THICKNESS: f64 = 16.0;
/// The length of the whole.
const WHOLE: f64 = 420.0;
/// Of a character of the labels, which are all of one width.
const CHARACTER: f64 = 7.3;
const SIZE: f64 = 12.0;

impl Bars {
    /// A figure without bars.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), subtitles: Vec::new(), bars: Vec::new() }
    }

    /// Adds a line under the title.
    #[must_use]
    pub fn subtitle(mut self, line: impl Into<String>) -> Self {
        self.subtitles.push(line.into());
        self
    }

    /// Adds bars, below those that are there.
    #[must_use]
    pub fn bars(mut self, bars: impl IntoIterator<Item = Bar>) -> Self {
        self.bars.extend(bars);
        self
    }

    /// The picture as SVG, text.
    ///
    /// # Errors
    /// [`Error::Operand`] where a share isn't a number from 0 on.
    pub fn to_svg(&self) -> Result<String> {
        let broken = |bar: &&Bar| !(bar.share.is_finite() && bar.share >= 0.0);
        if let Some(bar) = self.bars.iter().find(broken) {
            let name = format!("share of bar `{}`", bar.label);
            return Err(Error::operand(name, "a number from 0 on", bar.share));
        }
        let wide = |text: &String| text.chars().count() as f64 * CHARACTER;
        let labels = self.bars.iter().map(|bar| wide(&bar.label)).fold(0.0, f64::max);
        let values = self.bars.iter().map(|bar| wide(&bar.value)).fold(0.0, f64::max);
        let left = MARGIN + labels + 10.0;
        // A bar may be longer than the whole, where the whole was measured too small.
        let longest = self.bars.iter().map(|bar| bar.share).fold(1.0, f64::max);
        let unit = WHOLE / longest;
        let heads = (self.subtitles.iter().map(wide)).fold(wide(&self.title) * 1.4, f64::max);
        let width = (left + WHOLE + values + 20.0).max(heads + MARGIN) + MARGIN;
        let top = MARGIN + HEAD + self.subtitles.len() as f64 * LINE + 14.0;
        let height = top + self.bars.len() as f64 * STEP + 30.0 + MARGIN;

        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
        );
        let mut text = |x: f64, y: f64, words: &str, style: &str| {
            // Writing to a String can't fail.
            let _ =
                writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{}</text>", escape(words));
        };
        let sans = |size: f64, fill: &str| {
            format!("font-family=\"{SANS}\" font-size=\"{size}\" fill=\"{fill}\"")
        };
        let mono = |fill: &str, anchor: &str| {
            format!(
                "font-family=\"{MONO}\" font-size=\"{SIZE}\" fill=\"{fill}\" text-anchor=\"{anchor}\""
            )
        };
        text(MARGIN, MARGIN + 20.0, &self.title, &sans(20.0, DARK));
        for (line, words) in self.subtitles.iter().enumerate() {
            let y = MARGIN + HEAD + (line as f64 + 0.5) * LINE;
            text(MARGIN, y, words, &sans(13.0, MUTED));
        }
        let baseline = |at: usize| top + at as f64 * STEP + STEP / 2.0 + SIZE * 0.35;
        for (at, bar) in self.bars.iter().enumerate() {
            text(left - 10.0, baseline(at), &bar.label, &mono(DARK, "end"));
            text(left + bar.share * unit + 8.0, baseline(at), &bar.value, &mono(MUTED, "start"));
        }
        let bottom = top + self.bars.len() as f64 * STEP;
        for percent in [0u32, 25, 50, 75, 100] {
            let x = left + f64::from(percent) / 100.0 * unit;
            text(x, bottom + 18.0, &format!("{percent} %"), &mono(MUTED, "middle"));
        }
        for percent in [0u32, 25, 50, 75, 100] {
            let x = left + f64::from(percent) / 100.0 * unit;
            let _ = writeln!(
                svg,
                "<path d=\"M{x:.1} {top:.1}V{bottom:.1}\" stroke=\"#dfe3ea\" stroke-width=\"1\"/>"
            );
        }
        for (at, bar) in self.bars.iter().enumerate() {
            let y = top + at as f64 * STEP + (STEP - THICKNESS) / 2.0;
            let _ = writeln!(
                svg,
                "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{THICKNESS}\" rx=\"2\" fill=\"#3b528b\"/>",
                bar.share * unit
            );
        }
        svg.push_str("</svg>\n");
        Ok(svg)
    }

    /// Writes the picture: SVG where the name ends in `.svg`, else PNG. Folders on the way are made.
    ///
    /// # Errors
    /// As [`Bars::to_svg`], and [`Error::File`] where it can't be drawn or written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        save(path.as_ref(), &self.to_svg()?)
    }

    /// The picture as PNG, two pixels to one of the SVG's units.
    ///
    /// # Errors
    /// As [`Bars::to_svg`], and [`Error::File`] where it can't be drawn.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        raster::png(&self.to_svg()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(share: f64) -> Bar {
        Bar { label: "<a>".to_owned(), share, value: "v".to_owned() }
    }

    #[test]
    fn bars_are_as_long_as_their_shares() {
        let svg = Bars::new("t").subtitle("s").bars([bar(0.5), bar(0.0)]).to_svg().unwrap();
        assert!(svg.contains("width=\"210.0\"") && svg.contains("width=\"0.0\""), "{svg}");
        assert!(svg.contains("&lt;a&gt;") && !svg.contains("<a>"));
        // One that is twice the whole takes all the room.
        let svg = Bars::new("t").bars([bar(2.0), bar(0.5)]).to_svg().unwrap();
        assert!(svg.contains("width=\"420.0\"") && svg.contains("width=\"105.0\""), "{svg}");
        Bars::new("").bars([bar(1.0)]).to_png().unwrap();
        Bars::new("").to_png().unwrap();
    }

    #[test]
    fn what_is_no_share_is_named() {
        let error = Bars::new("t").bars([bar(f64::NAN)]).to_svg().unwrap_err().to_string();
        assert_eq!(error, "share of bar `<a>`: expected a number from 0 on, found NaN");
    }
}
