// Every leaf, operator and composition as a card that opens in the playground.
// @ts-check
import { coded, h, linked, at } from "./dom.js";
import { engine } from "./engine.js";
import { Matrix } from "./matrix.js";
import { toQuery, request, FIRST } from "./state.js";

/** 24 positions, of which the first sequence fills 17, so that masks of padding show something; the tree is seen with a cache. */
const TEXT = "To be, or not to be: that is the question. Whether it is nobler\nTo be, or not to be: that is the question. Whether it is nobler to suffer or to take arms?";
const NAMES = /** @type {[string, string][]} */ ([["leaf", "Leaves"], ["operator", "Operators"], ["composition", "Named compositions"]]);

/** @type {{ matrix: Matrix, drawing: any }[]} */
const drawn = [];
let built = false;

/** Shows the section. */
export async function show() {
  if (built) return;
  built = true;
  const cards = await engine.call("cards", []);
  for (const [kind, name] of NAMES) {
    const grid = h("div", { class: "cards" });
    at("gallery-place").append(h("h3", {}, name), grid);
    for (const card of cards.filter((/** @type {any} */ card) => card.kind === kind)) grid.append(await one(card));
  }
  document.body.dataset.gallery = String(cards.length);
}

/** @param {any} card */
async function one({ name, mask, sentence, source }) {
  const queries = /tree/.test(mask) ? 10 : 0;
  const state = { ...FIRST, mask, source: "text", text: TEXT, queries, data: {}, head: /per_head/.test(mask) ? 2 : 0 };
  const link = `#/playground?${toQuery(state)}`;
  const matrix = new Matrix(`What ${mask} keeps`, { small: true, still: true });
  const article = h("article", { class: "card" },
    h("h4", {}, h("a", { href: link }, h("code", {}, name))), matrix.element,
    h("p", {}, ...coded(sentence)),
    name !== mask && h("p", { class: "quiet" }, h("code", {}, mask)),
    source && h("p", { class: "quiet" }, ...linked(source)));
  try {
    const { queries: rows, keys: columns, keep } = await engine.call("outline", [request(state)]);
    if (keep.length === 0) {
      matrix.element.replaceWith(h("p", { class: "quiet" }, "Only a device knows."));
      return article;
    }
    const drawing = { rows, columns, cell: (/** @type {number} */ row, /** @type {number} */ column, /** @type {any} */ colours) =>
      ({ fill: keep[row * columns + column] ? colours.kept : null }) };
    drawn.push({ matrix, drawing });
    matrix.show(drawing);
  } catch (error) {
    article.append(h("p", { class: "error" }, error instanceof Error ? error.message : String(error)));
  }
  return article;
}

/** Draws again. */
export const draw = () => drawn.forEach(({ matrix, drawing }) => matrix.show(drawing));
