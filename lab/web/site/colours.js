// Colours that stay apart for eyes that don't tell red from green, in both themes. Scales are interpolated linearly.
// @ts-check

/** @typedef {[number, number, number]} Rgb */

/** Okabe and Ito's eight, for ids. */
export const IDS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#999999"];
/** Which of them need white text. */
export const DARK_IDS = [4];

/** @type {Record<string, Record<string, Rgb[]>>} */
const SCALES = {
  light: {
    weight: [[255, 255, 255], [198, 219, 239], [107, 174, 214], [33, 113, 181], [8, 48, 107]],
    leak: [[255, 255, 255], [253, 208, 162], [253, 141, 60], [217, 72, 1], [127, 39, 4]],
    score: [[179, 88, 6], [241, 163, 64], [254, 224, 182], [247, 247, 247], [209, 229, 240], [103, 169, 207], [33, 102, 172]],
  },
  dark: {
    weight: [[26, 30, 36], [26, 58, 94], [33, 113, 181], [107, 174, 214], [222, 235, 247]],
    leak: [[26, 30, 36], [92, 40, 10], [191, 82, 16], [253, 141, 60], [254, 230, 206]],
    score: [[253, 184, 99], [179, 98, 16], [84, 52, 18], [38, 42, 48], [20, 58, 96], [49, 122, 184], [146, 197, 222]],
  },
};

/** The colours that a picture is drawn with, by the page's theme. */
export function palette() {
  const style = getComputedStyle(document.documentElement);
  const named = (/** @type {string} */ name) => style.getPropertyValue(`--${name}`).trim();
  const scales = SCALES[style.colorScheme.trim() === "dark" ? "dark" : "light"];
  return {
    ink: named("ink"), muted: named("muted"), line: named("line"), page: named("page"), panel: named("panel"),
    kept: named("kept"), accent: named("accent"), warn: named("warn"), hatch: named("hatch"),
    /** @param {"weight" | "leak" | "score"} scale @param {number} share from 0 to 1 */
    scale: (scale, share) => mixed(scales[scale], share),
  };
}

/** @param {Rgb[]} stops @param {number} share */
function mixed(stops, share) {
  const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const below = Math.min(Math.floor(place), stops.length - 2);
  const part = place - below;
  const [r, g, b] = stops[below].map((from, at) => Math.round(from + (stops[below + 1][at] - from) * part));
  return { css: `rgb(${r} ${g} ${b})`, light: 0.299 * r + 0.587 * g + 0.114 * b > 140 };
}
