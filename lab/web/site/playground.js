// The playground: a mask over a few sentences, and everything that attention makes of it.
// @ts-check
import { at, debounced, field, h, percent, select, short } from "./dom.js";
import { editors } from "./editors.js";
import { engine, Fault } from "./engine.js";
import { MaskInput } from "./mask_input.js";
import { Matrix } from "./matrix.js";
import { FIRST, WGSL, fromQuery, request, toQuery } from "./state.js";
import { WgslEditor } from "./wgsl_editor.js";

/** @typedef {import("./state.js").State} State */

/** @type {State} */
let state = { ...FIRST, data: {} };
/** What the text stands for. @type {any} */
let outline = null;
/** What was computed of it. @type {any} */
let picture = null;
/** @type {[number, number]} */
let chosen = [3, 2];
/** Counts the changes: an answer to an older one is dropped. */
let turn = 0;
/** When a lost device was last replaced. */
let retried = -Infinity;
/** Whether a pointer is down on the data's editors: they stay as long. */
let pressed = false;

const mask = new MaskInput();
const wgsl = new WgslEditor();
const pictures = {
  keep: new Matrix("The mask"),
  scores: new Matrix("Raw scores"),
  masked: new Matrix("Masked scores"),
  weights: new Matrix("Probabilities"),
};

/** Builds the section. */
export function build() {
  at("mask-place").append(mask.element);
  at("wgsl-place").append(wgsl.element);
  for (const [name, matrix] of Object.entries(pictures)) {
    at(`picture-${name}`).append(matrix.element);
    matrix.onchoose = choose;
  }
  mask.onchange = (text) => update({ mask: text });
  wgsl.onchange = (text) => update({ wgsl: text, mask: /\bwgsl\b/.test(state.mask) ? state.mask : "wgsl" });
  for (const name of /** @type {const} */ (["tiles", "additive", "unmasked"])) {
    const box = at(`switch-${name}`);
    box.addEventListener("change", () => {
      state[name] = /** @type {HTMLInputElement} */ (box).checked;
      remember();
      draw();
    });
  }
  at("tile-side").addEventListener("change", (event) => update({ tile: Number(/** @type {HTMLSelectElement} */ (event.target).value) }));
  at("copy-link").addEventListener("click", copyLink);
  at("data-place").addEventListener("pointerdown", () => { pressed = true; });
  for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => { pressed = false; });
  engine.call("forms", []).then((forms) => { mask.forms = forms; }, () => {});
}

/** Shows what an address says. @param {string} query */
export function show(query) {
  state = fromQuery(query);
  mask.input.value = state.mask;
  wgsl.set(state.wgsl);
  /** @type {HTMLDetailsElement} */ (at("wgsl-details")).open = /\bwgsl\b/.test(state.mask) || state.wgsl !== WGSL;
  for (const name of /** @type {const} */ (["tiles", "additive", "unmasked"])) {
    /** @type {HTMLInputElement} */ (at(`switch-${name}`)).checked = state[name];
  }
  /** @type {HTMLSelectElement} */ (at("tile-side")).value = String(state.tile);
  controls();
  compute();
}

/** @param {Partial<State>} change */
function update(change) {
  state = { ...state, ...change };
  // Data of other sequences don't fit.
  if ("source" in change || "text" in change) state.data = {};
  if ("source" in change) controls();
  remember();
  compute();
}

const remember = debounced(() => {
  // Another section may be shown by now.
  if (at("section-playground").hidden) return;
  const query = toQuery(state);
  history.replaceState(null, "", `#/playground${query ? `?${query}` : ""}`);
}, 150);

async function copyLink() {
  const query = toQuery(state);
  const link = `${location.origin}${location.pathname}#/playground${query ? `?${query}` : ""}`;
  history.replaceState(null, "", link);
  await navigator.clipboard?.writeText(link).catch(() => {});
  at("copied").textContent = "The address has it all; it is copied.";
  setTimeout(() => { at("copied").textContent = ""; }, 3000);
}

/** The controls of what is attended over. */
function controls() {
  const own = !state.source.startsWith("layer");
  const number = (/** @type {"heads" | "dim" | "seed"} */ name, /** @type {number} */ least, /** @type {number} */ most) => {
    const input = h("input", { type: "number", min: least, max: most, value: state[name],
      onchange: () => update({ [name]: Math.min(Math.max(Number(input.value) || least, least), most) }) });
    return input;
  };
  const sources = select([["layer0", "MiniLM, layer 0: its real q and k"], ["layer3", "MiniLM, layer 3: its real q and k"],
    ["text", "my own sentences: random q and k"]], own ? "text" : state.source, (source) => update({ source, sequence: 0, head: 0 }));
  const text = h("textarea", { rows: 2, spellcheck: "false", oninput: () => update({ text: text.value }) });
  text.value = state.text;
  at("source-place").replaceChildren(
    field("q and k of", sources),
    own ? field("sentences, one a line", text, "wide") : "",
    own ? h("div", { class: "numbers" }, field("heads", number("heads", 1, 16)), field("head size", number("dim", 1, 128)), field("seed", number("seed", 0, 1e6))) : "",
  );
}

/** The choice of sequence, head and queries, which depend on what there is. */
function choices() {
  const { batch, heads, keys, tokens: texts, lengths } = outline;
  const key = JSON.stringify([batch, heads, keys, state.sequence, texts]);
  const place = at("choice-place");
  const wanted = state.queries === 0 || state.queries > keys ? keys : state.queries;
  if (place.dataset.key !== key) {
    place.dataset.key = key;
    const sentence = (/** @type {number} */ at) => texts[at].slice(0, lengths[at]).filter((/** @type {string} */ token) => !/^\[/.test(token)).join(" ");
    const sequence = select(texts.map((/** @type {any} */ _, /** @type {number} */ at) => [String(at), `${at + 1}. ${sentence(at)}`]),
      String(Math.min(state.sequence, batch - 1)), (value) => update({ sequence: Number(value) }));
    const head = h("input", { id: "head", type: "range", min: 0, max: heads - 1, oninput: () => update({ head: Number(head.value) }) });
    const queries = h("input", { id: "queries", type: "range", min: 1, max: keys, oninput: () => update({ queries: Number(queries.value) === keys ? 0 : Number(queries.value) }) });
    place.replaceChildren(field("shown sequence", sequence, "wide"),
      h("label", { class: "slider" }, h("span", {}, "head"), head, h("output", { id: "head-out" })),
      h("label", { class: "slider" }, h("span", {}, "queries: the last"), queries, h("output", { id: "queries-out" })));
  }
  /** @type {HTMLInputElement} */ (at("head")).value = String(Math.min(state.head, heads - 1));
  /** @type {HTMLInputElement} */ (at("queries")).value = String(wanted);
  at("head-out").textContent = `${Math.min(state.head, heads - 1)} of 0–${heads - 1}`;
  at("queries-out").textContent = wanted === keys ? `all ${keys}` : `${wanted} of ${keys}, as with a cache`;
}

/** Asks for what the state says: first what the mask keeps, then all that the device computes.
 * @param {string} [instead] a mask to draw where the state's own can't be, and nothing is drawn yet */
async function compute(instead) {
  const own = ++turn;
  if (state.source.startsWith("layer")) {
    try {
      await engine.layer(Number(state.source.slice(5)));
    } catch (error) {
      return failed(error);
    }
  }
  if (own !== turn) return;
  const asked = request(instead ? { ...state, mask: instead } : state);
  performance.mark("asked");
  try {
    const found = await engine.latest("outline", [asked]);
    if (!found || own !== turn) return;
    outline = { ...found, instead };
    // The numbers of an older mask aren't this one's.
    if (picture && picture.scores.length !== outline.queries * outline.keys) picture = null;
    if (picture) picture.stale = true;
    if (!instead) mask.fault(null);
    mask.numbers(outline.numbers, outline.keys);
    items();
    choices();
    draw();
    performance.mark("outlined");
    const computed = await engine.latest("picture", [asked]);
    if (!computed || own !== turn) return;
    picture = { ...computed, of: own };
    if (outline.device_alone) outline.keep = Uint8Array.from(picture.masked, (/** @type {number} */ score) => Number(score !== -Infinity));
    if (!instead) wgsl.fault(null);
    draw();
    performance.mark("pictured");
  } catch (error) {
    if (own === turn && !instead) failed(error);
  }
}

/** The data's editors: made anew when a mask reads something else, not at each of their own changes. */
function items() {
  const place = at("data-place");
  const key = JSON.stringify([outline.items.map((/** @type {any} */ item) => [item.name, item.values.length, item.highest]), state.sequence, outline.tokens]);
  at("data-section").hidden = outline.items.length === 0;
  if (place.dataset.key === key && (pressed || place.contains(document.activeElement))) return;
  place.dataset.key = key;
  const { tokens: texts, batch } = outline;
  place.replaceChildren(...editors(outline.items, texts[Math.min(state.sequence, batch - 1)], Math.min(state.sequence, batch - 1), batch,
    (name, values) => update({ data: { ...state.data, [name]: values } })));
}

/** @param {any} error */
function failed(error) {
  const fault = error instanceof Fault ? error : new Fault({ kind: "other", message: String(error?.message ?? error) });
  mask.fault(fault.kind === "wgsl" ? null : fault);
  wgsl.fault(fault.kind === "wgsl" ? fault : null);
  if (fault.kind === "wgsl") /** @type {HTMLDetailsElement} */ (at("wgsl-details")).open = true;
  document.body.dataset.failed = fault.kind;
  if (!outline && ["mask", "wgsl", "other"].includes(fault.kind)) compute("all");
  // A loop without an end would only hang again; a device is lost for many reasons.
  if (fault.kind === "lost" && performance.now() - retried > 10_000) {
    retried = performance.now();
    engine.notice(`${fault.message}. A new one is opened.`);
    compute();
  } else if (["lost", "hang", "broken"].includes(fault.kind)) {
    engine.notice(`${fault.message}. The next change starts anew.`);
  }
}

/** @param {number} row @param {number} column */
function choose(row, column) {
  chosen = [row, column];
  for (const matrix of Object.values(pictures)) matrix.choose(row, column);
  explain();
  summarize();
}

/** Everything that is drawn. */
function draw() {
  if (!outline) return;
  const { queries, keys, keep } = outline;
  const texts = outline.tokens[Math.min(state.sequence, outline.batch - 1)];
  const labels = { rows: queries, columns: keys, rowLabels: texts.slice(keys - queries), columnLabels: texts };
  chosen = [Math.min(chosen[0], queries - 1), Math.min(chosen[1], keys - 1)];
  const kept = (/** @type {number} */ row, /** @type {number} */ column) => keep[row * keys + column] === 1;
  const tiles = state.tiles && picture && !picture.stale ? { side: picture.grid, classes: picture.tiles } : null;
  if (keep.length > 0) {
    pictures.keep.show({ ...labels, tiles, cell: (row, column, colours) => kept(row, column)
      ? { fill: colours.kept, light: false, text: state.additive ? "0" : "" }
      : { fill: null, text: state.additive ? "−∞" : "" } });
  }
  const item = outline.items.find((/** @type {any} */ item) => item.editor === "cells");
  pictures.keep.onpaint = item ? (row, column, first) => paint(item, row, column, first) : null;
  at("paint-hint").hidden = !item;
  pictures.keep.canvas.classList.toggle("paintable", Boolean(item));
  if (picture) draws(labels);
  for (const matrix of Object.values(pictures)) matrix.choose(...chosen);
  const count = keep.reduce((/** @type {number} */ sum, /** @type {number} */ keep) => sum + keep, 0);
  at("caption-keep").textContent = keep.length > 0 ? `${count} of ${queries * keys} cells kept` : "computed on the device";
  at("mask-prints").textContent = outline.instead ? "…" : outline.mask;
  explain();
  summarize();
}

/** The pictures of numbers. @param {any} labels */
function draws(labels) {
  const { keys } = outline;
  const { scores, masked, weights, unmasked, stale } = picture;
  const largest = scores.reduce((/** @type {number} */ most, /** @type {number} */ score) => Math.max(most, Math.abs(score)), 1e-6);
  const signed = (/** @type {Float32Array} */ values) => (/** @type {number} */ row, /** @type {number} */ column, /** @type {any} */ colours) => {
    const value = values[row * keys + column];
    if (value === -Infinity) return { fill: null, text: "−∞" };
    const { css, light } = colours.scale("score", 0.5 + value / largest / 2);
    return { fill: css, light, text: value.toFixed(1).replace("-", "−") };
  };
  pictures.scores.show({ ...labels, cell: signed(scores) });
  pictures.masked.show({ ...labels, cell: signed(masked) });
  const shown = state.unmasked ? unmasked : weights;
  const leaks = (/** @type {number} */ at) => state.unmasked && masked[at] === -Infinity;
  pictures.weights.show({ ...labels, cell: (row, column, colours) => {
    const place = row * keys + column;
    const weight = shown[place];
    if (weight === 0 && masked[place] === -Infinity) return { fill: null };
    // A root makes small weights visible.
    const { css, light } = colours.scale(leaks(place) ? "leak" : "weight", Math.sqrt(weight));
    return { fill: css, light, text: weight >= 0.005 ? weight.toFixed(2).replace(/^0/, "") : "" };
  } }, state.unmasked ? "Probabilities without the mask" : "Probabilities");
  for (const name of /** @type {const} */ (["scores", "masked", "weights"])) at(`picture-${name}`).classList.toggle("stale", Boolean(stale));
  at("caption-scores").textContent = `q·k × ${short(outline.scale)}, from ${short(-largest)} to ${short(largest)}`;
  at("caption-weights").textContent = state.unmasked ? "orange leaks" : "each row sums to 1";
}

/** The chosen cell's way from q·k to its weight. */
function explain() {
  const place = at("cell");
  if (!outline) return;
  const [row, column] = chosen;
  const { keys, queries, scale } = outline;
  const texts = outline.tokens[Math.min(state.sequence, outline.batch - 1)];
  const index = row * keys + column;
  const kept = outline.keep[index] === 1;
  const name = `“${texts[row + keys - queries]}” (query ${row}) → “${texts[column]}” (key ${column})`;
  /** @type {HTMLElement[]} */
  const lines = [h("p", { class: "who" }, name, h("span", { class: kept ? "tag in" : "tag out" }, kept ? "kept" : "masked"))];
  if (picture && !picture.stale) {
    const part = (/** @type {Float32Array} */ values) => values.subarray(row * keys, (row + 1) * keys);
    const [scores, masked] = [part(picture.scores), part(state.unmasked ? picture.scores : picture.masked)];
    const largest = Math.max(...masked);
    const exponentials = [...masked].map((score) => (largest === -Infinity ? 0 : Math.exp(score - largest)));
    const sum = exponentials.reduce((a, b) => a + b, 0);
    const count = masked.filter((score) => score !== -Infinity).length;
    const weight = (state.unmasked ? picture.unmasked : picture.weights)[index];
    const step = (/** @type {string} */ what, /** @type {string} */ sum, /** @type {string} */ value) =>
      h("div", {}, h("dt", {}, what), h("dd", {}, h("span", {}, sum), h("b", {}, value)));
    lines.push(h("dl", { class: "steps" },
      step("product", "q·k", short(scores[column] / scale)),
      step("score", `× ${short(scale)}`, short(scores[column])),
      step("mask", state.unmasked ? "left out" : kept ? "+ 0" : "+ −∞", short(masked[column])),
      step("exponential", largest === -Infinity ? "the row keeps nothing" : `exp(${short(masked[column])} − ${short(largest)}), the row's largest`, short(exponentials[column])),
      step("sum", `of the row's ${count}${state.unmasked ? "" : " kept"} ${count === 1 ? "key" : "keys"}`, short(sum)),
      step("probability", `${short(exponentials[column])} ÷ ${short(sum)}`, short(weight))));
  }
  place.replaceChildren(...lines);
}

/** Tiles, and what leaks. */
function summarize() {
  if (!picture || picture.stale) return;
  const [skipped, partial, full] = picture.classes;
  const all = skipped + partial + full;
  at("share").replaceChildren(...[[skipped, "skipped"], [partial, "partial"], [full, "full"]].map(([count, name]) =>
    h("span", { class: String(name), style: `flex-grow:${count}`, hidden: count === 0 })));
  const own = picture.own_grid ? ` On this device the kernel's own tiles are ${picture.own_grid.join(" × ")}.` : "";
  at("work").textContent = `${percent((partial + full) / all)} of the work of attention without a mask: of ${all} tiles of ${picture.grid.join(" × ")}, `
    + `${skipped} are skipped, ${full} are full and ask no mask, ${partial} are partial and ask it cell by cell.${own}`;
  const { leak, change, leaks } = picture;
  const [row] = chosen;
  at("leak").textContent = leak > 0
    ? `Without the mask, ${percent(leak)} of the attention goes to keys that it hides, ${percent(leaks[row])} in the chosen row; the output moves by ${percent(change)} of its length.`
    : "Without the mask nothing would change here: it hides no key from a token.";
}

let painted = 0;

/** Paints a cell, or the block that it is in. @param {any} item @param {number} row @param {number} column @param {boolean} first */
function paint(item, row, column, first) {
  const place = Math.floor(row / item.block) * item.row + Math.floor(column / item.block);
  // What was painted since the crate was asked counts, too.
  const own = state.data[item.name];
  const values = [...(own?.length === item.values.length ? own : item.values)];
  if (first) painted = 1 - values[place];
  if (values[place] === painted) return;
  values[place] = painted;
  update({ data: { ...state.data, [item.name]: values } });
}

/** Draws again, in another theme. */
export const redraw = () => draw();

/** For tests: what is shown, and the number of the newest change. */
export const shown = () => ({ state, outline, picture, pictures });
export const newest = () => turn;
