// All heads of a layer of MiniLM on one of its sentences, with padding masked or not.
// @ts-check
import { at, field, h, percent, select } from "./dom.js";
import { engine } from "./engine.js";
import { Matrix } from "./matrix.js";

const SENTENCES = /** @type {[string, string][]} */ ([["0", "The cat sat on the mat while the rain kept falling …"], ["1", "Dogs bark loudly."],
  ["2", "I love you"], ["3", "Each token can only attend to itself …"]]);
const state = { layer: 0, sequence: 1, masked: true };
/** @type {any} */
let found = null;
/** @type {{ card: HTMLElement, matrix: Matrix, told: HTMLElement, link: HTMLAnchorElement }[]} */
let cards = [];

/** Builds the section. */
export function build() {
  const set = (/** @type {Partial<typeof state>} */ change) => { Object.assign(state, change); compute(); };
  at("heads-controls").append(
    field("layer", select([["0", "0, the first"], ["3", "3"]], "0", (value) => set({ layer: Number(value) }))),
    field("sentence", select(SENTENCES, String(state.sequence), (value) => set({ sequence: Number(value) })), "wide"));
  const box = /** @type {HTMLInputElement} */ (at("switch-padding"));
  box.addEventListener("change", () => set({ masked: box.checked }));
  cards = Array.from({ length: 12 }, (_, head) => {
    const matrix = new Matrix(`Head ${head}`, { small: true, still: true });
    const told = h("p", { class: "quiet" });
    const link = h("a", {}, `Head ${head}`);
    const card = h("article", { class: "card" }, h("h3", {}, link), matrix.element, told);
    return { card, matrix, told, link };
  });
  at("heads").append(...cards.map(({ card }) => card));
}

/** Shows the section. */
export const show = () => compute();

async function compute() {
  try {
    await engine.layer(state.layer);
    const answer = await engine.latest("heads", [state]);
    if (!answer) return;
    found = answer;
    at("heads-error").textContent = "";
    draw();
  } catch (error) {
    at("heads-error").textContent = error instanceof Error ? error.message : String(error);
  }
}

/** Draws again. */
export function draw() {
  if (!found) return;
  const { weights, tokens, length, heads } = found;
  const count = tokens.length;
  cards.forEach(({ matrix, told, link }, head) => {
    const own = weights.subarray(head * count * count, (head + 1) * count * count);
    const { padding, most, share } = heads[head];
    const text = `${percent(share)} to ${most}` + (padding > 0 ? `, ${percent(padding)} to padding` : "");
    told.textContent = text;
    link.href = `#/playground?${new URLSearchParams({ mask: state.masked ? "key_lengths" : "all", source: `layer${state.layer}`,
      sequence: String(state.sequence), head: String(head) })}`;
    // The rows of padding mean nothing.
    matrix.show({ rows: length, columns: count, cell: (row, column, colours) => {
      const weight = own[row * count + column];
      if (column >= length && weight === 0) return { fill: null };
      const { css } = colours.scale(column >= length ? "leak" : "weight", Math.sqrt(weight));
      return { fill: css };
    } }, `Head ${head}: ${text}`);
  });
  const padding = heads.reduce((/** @type {number} */ sum, /** @type {any} */ head) => sum + head.padding, 0) / heads.length;
  at("heads-told").textContent = `${length} tokens, padded to ${count} with ${count - length} of [PAD]. `
    + (padding > 0 ? `The padding takes ${percent(padding)} of the attention: the sentence's meaning would depend on its neighbours in the batch.`
      : count > length ? "Its keys are masked: they get exactly 0." : "It is the longest of its batch: there is no padding.");
  document.body.dataset.heads = `${state.layer}.${state.sequence}.${state.masked}`;
}

/** For tests. */
export const shown = () => found;
