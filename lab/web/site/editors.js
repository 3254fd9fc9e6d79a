// What a mask reads, each tensor with the control that suits it: lengths are dragged, ids coloured, flags toggled, numbers typed.
// Cells are painted in the picture itself (playground.js).
// @ts-check
import { DARK_IDS, IDS } from "./colours.js";
import { h } from "./dom.js";

/** @typedef {{ name: string, editor: string, sentence: string, shared: boolean, row: number, block: number, lowest: number,
 *   highest: number, values: number[] }} Item */

/** The editors of a mask's items; `change` is told an item's new values.
 * @param {Item[]} items @param {string[]} tokens of the sequence that is shown @param {number} sequence @param {number} batch
 * @param {(name: string, values: number[]) => void} change */
export function editors(items, tokens, sequence, batch, change) {
  return items.map((item) => {
    const each = item.values.length / (item.shared ? 1 : batch);
    const first = item.shared ? 0 : sequence * each;
    const set = (/** @type {number} */ at, /** @type {number} */ value) => {
      const values = [...item.values];
      values[first + at] = Math.min(Math.max(value, item.lowest), item.highest);
      item.values = values;
      change(item.name, values);
    };
    const own = item.values.slice(first, first + each);
    const make = { length: lengths, flags, ids, numbers, cells: () => h("p", { class: "quiet" }, "Painted in the first picture, with the pointer or the space bar.") }[item.editor];
    return h("fieldset", { class: "editor", "data-item": item.name },
      h("legend", {}, h("code", {}, item.name), " ", h("span", {}, item.sentence)),
      make ? make(item, own, tokens, set) : null);
  });
}

/** @param {Item} item @param {number[]} values @param {string[]} tokens @param {(at: number, value: number) => void} set */
function lengths(item, [value], tokens, set) {
  const strip = h("div", { class: "strip", "aria-hidden": "true" }, ...tokens.map((token, at) => h("span", { class: at < value ? "in" : "out" }, token)));
  const output = h("output", {}, String(value));
  const input = h("input", { type: "range", min: item.lowest, max: item.highest, value, "aria-label": `${item.name} of this sequence`,
    oninput: () => {
      const now = Number(input.value);
      output.textContent = String(now);
      [...strip.children].forEach((child, at) => { child.className = at < now ? "in" : "out"; });
      set(0, now);
    } });
  return h("div", { class: "length" }, strip, h("div", { class: "slider" }, input, output));
}

/** @param {Item} item @param {number[]} values @param {string[]} tokens @param {(at: number, value: number) => void} set */
function flags(item, values, tokens, set) {
  return h("div", { class: "strip" }, ...values.map((value, at) => {
    const button = h("button", { type: "button", class: value ? "in" : "out", "aria-pressed": String(Boolean(value)),
      onclick: () => {
        const now = button.className === "in" ? 0 : 1;
        button.className = now ? "in" : "out";
        button.setAttribute("aria-pressed", String(Boolean(now)));
        set(at, now);
      } }, tokens[at] ?? String(at));
    return button;
  }));
}

/** A press takes the next id; a drag over others gives them the same. @param {Item} item @param {number[]} values
 * @param {string[]} tokens @param {(at: number, value: number) => void} set */
function ids(item, values, tokens, set) {
  const now = [...values];
  /** @type {number | null} */
  let brush = null;
  /** @type {HTMLButtonElement[]} */
  const buttons = [];
  const paint = (/** @type {number} */ at, /** @type {number} */ id) => {
    now[at] = id;
    const button = buttons[at];
    button.style.background = id < 0 ? "" : IDS[id % IDS.length];
    button.style.color = id < 0 ? "" : DARK_IDS.includes(id % IDS.length) ? "#fff" : "#111";
    button.lastChild?.replaceWith(h("sub", {}, id < 0 ? "none" : String(id)));
  };
  const next = (/** @type {number} */ at) => (now[at] >= item.highest ? item.lowest : now[at] + 1);
  values.forEach((id, at) => {
    const button = h("button", { type: "button", class: "id", "data-at": at,
      onpointerdown: (/** @type {PointerEvent} */ event) => {
        brush = next(at);
        paint(at, brush);
        set(at, brush);
        // Dragging goes on over the neighbours.
        button.releasePointerCapture(event.pointerId);
      },
      onpointerenter: (/** @type {PointerEvent} */ event) => {
        if (brush === null || event.buttons === 0) return;
        paint(at, brush);
        set(at, brush);
      },
      onkeydown: (/** @type {KeyboardEvent} */ event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        const id = next(at);
        paint(at, id);
        set(at, id);
      } }, `${tokens[at] ?? at} `, h("sub"));
    buttons.push(button);
    paint(at, id);
  });
  return h("div", { class: "strip ids", onpointerup: () => { brush = null; } }, ...buttons);
}

/** @param {Item} item @param {number[]} values @param {string[]} tokens @param {(at: number, value: number) => void} set */
function numbers(item, values, tokens, set) {
  const skipped = item.shared ? tokens.length - values.length / item.row : 0;
  const cells = [];
  for (let at = 0; at < values.length; at += item.row) {
    const token = tokens[at / item.row + Math.max(skipped, 0)] ?? String(at / item.row);
    cells.push(h("span", { class: "numbered" }, h("span", { "aria-hidden": "true" }, token),
      ...values.slice(at, at + item.row).map((value, part) => {
        const input = h("input", { type: "number", min: item.lowest, max: item.highest, value,
          "aria-label": `${token}, number ${part + 1}`, onchange: () => set(at + part, Number(input.value)) });
        return input;
      })));
  }
  return h("div", { class: "strip numbers" }, ...cells);
}
