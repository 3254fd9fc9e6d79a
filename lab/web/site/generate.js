// Train or generate: all positions at once under the mask, or one after the other with a cache. Both give the same rows.
// @ts-check
import { palette } from "./colours.js";
import { at, field, h, percent, select, short } from "./dom.js";
import { engine } from "./engine.js";
import { Matrix } from "./matrix.js";
import { tokens } from "./state.js";

const MASKS = /** @type {[string, string][]} */ ([["causal", "causal"], ["causal & window(4,0)", "causal & window(4,0)"],
  ["streaming_llm(4,1)", "streaming_llm(4,1)"]]);
const state = { source: "layer0", sequence: 0, head: 4, mask: "causal", step: 6, text: "the model never peeks at the future" };

/** @type {any} */
let both = null;
let timer = 0;
/** Counts the changes: an answer to an older one is dropped. */
let turn = 0;
const once = new Matrix("Probabilities of all positions at once");
const steps = new Matrix("Probabilities step by step");

/** Builds the section. */
export function build() {
  at("picture-once").append(once.element);
  at("picture-steps").append(steps.element);
  once.onchoose = (row) => move(row);
  steps.onchoose = (row) => move(row);
  at("step").addEventListener("input", () => { stop(); move(Number(/** @type {HTMLInputElement} */ (at("step")).value)); });
  at("play").addEventListener("click", play);
  at("switch-future").addEventListener("change", draw);
}

/** Shows the section. */
export function show() {
  const own = state.source === "text";
  const set = (/** @type {Partial<typeof state>} */ change) => { Object.assign(state, change); show(); };
  const text = h("input", { type: "text", value: state.text, onchange: () => set({ text: text.value }) });
  at("generate-controls").replaceChildren(
    field("q, k and v of", select([["layer0", "MiniLM, layer 0"], ["layer3", "MiniLM, layer 3"], ["text", "my own sentence: random"]], state.source,
      (source) => set({ source, sequence: 0, head: source === "text" ? 0 : 4 }))),
    own ? field("sentence", text, "wide")
      : field("sentence", select([["0", "The cat sat on the mat …"], ["1", "Dogs bark loudly."], ["2", "I love you"], ["3", "Each token can only …"]],
        String(state.sequence), (value) => set({ sequence: Number(value) })), "wide"),
    field("head", select(Array.from({ length: own ? 4 : 12 }, (_, at) => [String(at), String(at)]), String(state.head), (value) => set({ head: Number(value) }))),
    field("mask", select(MASKS, state.mask, (mask) => set({ mask }))));
  compute();
}

async function compute() {
  const { source, sequence, head, mask, text } = state;
  const own = ++turn;
  try {
    if (source !== "text") await engine.layer(Number(source.slice(5)));
    const asked = { mask, sequence, head, source: source === "text"
      ? { kind: "random", tokens: [tokens(text)[0]], heads: 4, head_dim: 32, seed: 1 }
      : { kind: "model", layer: Number(source.slice(5)) } };
    const found = await engine.latest("generate", [asked]);
    if (!found || own !== turn) return;
    both = { ...found, of: own };
    const slider = /** @type {HTMLInputElement} */ (at("step"));
    slider.max = String(both.tokens.length - 1);
    at("generate-error").textContent = "";
    move(Math.min(state.step, both.tokens.length - 1));
  } catch (error) {
    at("generate-error").textContent = error instanceof Error ? error.message : String(error);
  }
}

/** @param {number} step */
function move(step) {
  state.step = step;
  const slider = /** @type {HTMLInputElement} */ (at("step"));
  slider.value = String(step);
  slider.setAttribute("aria-valuetext", both ? `token ${step + 1} of ${both.tokens.length}, ${both.tokens[step]}` : "");
  draw();
}

function play() {
  if (timer) return stop();
  at("play").textContent = "Pause";
  if (both && state.step >= both.tokens.length - 1) move(0);
  timer = window.setInterval(() => {
    if (!both || state.step >= both.tokens.length - 1) stop();
    else move(state.step + 1);
  }, 700);
}

function stop() {
  clearInterval(timer);
  timer = 0;
  at("play").textContent = "Play";
}

/** Draws again. */
export function draw() {
  if (!both) return;
  const { tokens: texts, at_once, in_steps, unmasked, head_dim } = both;
  const { step } = state;
  const count = texts.length;
  const future = /** @type {HTMLInputElement} */ (at("switch-future")).checked;
  const labels = { rows: count, columns: count, rowLabels: texts, columnLabels: texts };
  /** @param {Float32Array} values @param {(row: number, column: number) => boolean} hidden @returns {(row: number, column: number, colours: ReturnType<typeof palette>) => import("./matrix.js").Cell} */
  const weight = (values, hidden) => (row, column, colours) => {
    if (hidden(row, column)) return { fill: row > step && values === in_steps ? colours.page : null };
    const value = values[row * count + column];
    const leak = future && values === unmasked && at_once[row * count + column] === 0;
    const { css, light } = colours.scale(leak ? "leak" : "weight", Math.sqrt(value));
    return { fill: css, light, text: value >= 0.005 ? value.toFixed(2).replace(/^0/, "") : "" };
  };
  const masked = (/** @type {number} */ row, /** @type {number} */ column) => at_once[row * count + column] === 0;
  once.show({ ...labels, cell: weight(future ? unmasked : at_once, future ? () => false : masked) });
  steps.show({ ...labels, cell: weight(in_steps, (row, column) => row > step || masked(row, column)) });
  once.choose(step, step);
  steps.choose(step, step);
  const row = (/** @type {Float32Array} */ values, /** @type {number} */ each) => values.subarray(step * each, (step + 1) * each);
  const [o, stepped] = [row(both.o_at_once, head_dim), row(both.o_in_steps, head_dim)];
  strip("o-once", o);
  strip("o-steps", stepped);
  const apart = o.reduce((most, x, at) => Math.max(most, Math.abs(x - stepped[at])), 0);
  at("cache-tokens").replaceChildren(...texts.map((/** @type {string} */ token, /** @type {number} */ at) =>
    h("span", { class: at < step ? "in" : at === step ? "now" : "out" }, token)));
  at("step-told").textContent = `Step ${step + 1} of ${count}: “${texts[step]}” is appended to the cache and asks its ${step + 1} ${step === 0 ? "key" : "keys"}.`;
  const leaked = row(unmasked, count).reduce((sum, value, key) => sum + (at_once[step * count + key] === 0 ? value : 0), 0);
  at("same").textContent = `Both ways give this row of the output: they differ by ${short(apart)} at most, of numbers up to ${short(both.largest)}. `
    + (leaked > 0 ? `Trained without the mask, this token would give ${percent(leaked)} of its attention to what it can't have when text is generated.` : "");
  document.body.dataset.generated = String(step);
}

/** A row of o as a strip of colours. @param {string} id @param {Float32Array} values */
function strip(id, values) {
  const colours = palette();
  at(id).replaceChildren(...[...values].map((value) => h("i", { style: `background:${colours.scale("score", 0.5 + value / (2 * both.largest || 1)).css}` })));
  at(id).setAttribute("aria-label", [...values].slice(0, 4).map(short).join(", ") + " …");
}

/** For tests. */
export const shown = () => both;
export const newest = () => turn;
