// The mask as text: a field with completion, errors at their column, chips for leaves, sliders for numbers.
// @ts-check
import { coded, h } from "./dom.js";

/** @typedef {{ name: string, form: string, sentence: string }} Form */

/** Chips: what joins, what is inserted, and its name. */
const CHIPS = ["causal", "key_lengths", "window(4,0)", "documents", "prefix", "dense", "global(1)", "chunk(6)", "not_self", "token_padding"];
/** So many of the completions are shown. */
const SHOWN = 8;

export class MaskInput {
  /** @type {Form[]} */
  forms = [];
  /** The text changed. @type {(text: string) => void} */
  onchange = () => {};
  /** @type {Form[]} */
  #offered = [];
  #active = -1;

  constructor() {
    this.input = h("input", { id: "mask", class: "mask", type: "text", role: "combobox", spellcheck: "false", autocomplete: "off",
      autocapitalize: "off", "aria-expanded": "false", "aria-controls": "mask-forms", "aria-autocomplete": "list",
      "aria-describedby": "mask-error", "aria-labelledby": "mask-label",
      oninput: () => { this.#offer(); this.onchange(this.input.value); },
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.#key(event),
      onblur: () => setTimeout(() => this.#close(), 150) });
    this.list = h("ul", { id: "mask-forms", role: "listbox", "aria-label": "Leaves that fit", hidden: true });
    this.error = h("p", { id: "mask-error", class: "error", role: "status" });
    this.caret = h("span", { class: "caret", "aria-hidden": "true" });
    this.sliders = h("div", { class: "sliders" });
    const chips = h("div", { class: "chips", role: "group", "aria-label": "Leaves to add" });
    for (const text of CHIPS) chips.append(h("button", { type: "button", class: "chip", onclick: () => this.#join(text) }, text));
    const operators = h("div", { class: "chips operators", role: "group", "aria-label": "Operators" },
      ...[["and", "&"], ["or", "|"]].map(([name, sign]) =>
        h("label", { class: "chip" }, h("input", { type: "radio", name: "joined", value: sign, checked: sign === "&" }), ` ${sign} ${name}`)),
      h("button", { type: "button", class: "chip", onclick: () => this.set(`!${wrapped(this.input.value)}`) }, "! not"),
      h("button", { type: "button", class: "chip", onclick: () => this.set(`self_only_if_alone(${this.input.value})`) }, "self only if alone"),
      h("button", { type: "button", class: "chip", onclick: () => this.set("all") }, "clear"));
    this.element = h("div", { class: "mask-input" },
      h("div", { class: "entry" }, this.input, this.caret, this.list), this.error, chips, operators, this.sliders);
  }

  /** @param {string} text */
  set(text) {
    this.input.value = text;
    this.onchange(text);
  }

  /** Joins a leaf to the mask by the chosen operator; `all` and nothing are replaced. @param {string} leaf */
  #join(leaf) {
    const own = this.input.value.trim();
    const sign = /** @type {HTMLInputElement} */ (this.element.querySelector("input[name=joined]:checked")).value;
    if (own === "" || own === "all") this.set(leaf);
    else this.set(`${sign === "&" && own.includes("|") ? wrapped(own) : own} ${sign} ${leaf}`);
  }

  /** @param {{ message: string, column?: number } | null} fault */
  fault(fault) {
    this.error.textContent = fault ? (fault.column ? `column ${fault.column}: ` : "") + fault.message : "";
    this.input.setAttribute("aria-invalid", String(Boolean(fault)));
    this.caret.hidden = !fault?.column;
    if (fault?.column) this.caret.style.setProperty("--column", String(Math.min(fault.column - 1, this.input.value.length)));
  }

  /** Sliders for the numbers that stand in the text. @param {{ start: number, end: number, name: string, value: number | null }[]} numbers
   * @param {number} most */
  numbers(numbers, most) {
    // A slider that is being dragged stays.
    const key = JSON.stringify([numbers.map(({ name }) => name), most]);
    if (this.sliders.dataset.key !== key) {
      this.sliders.dataset.key = key;
      this.sliders.replaceChildren(...numbers.map((number, index) => {
        const input = h("input", { type: "range", min: 0, max: most, oninput: () => this.#slide(index, input.value) });
        return h("label", { class: "slider" }, h("span", {}, number.name), input, h("output"));
      }));
    }
    this.#numbers = numbers;
    numbers.forEach(({ value }, index) => {
      const [, input, output] = /** @type {any} */ (this.sliders.children[index].children);
      if (document.activeElement !== input) input.value = String(value ?? most);
      output.textContent = value === null ? "inf" : String(value);
    });
  }
  /** @type {{ start: number, end: number }[]} */
  #numbers = [];

  /** @param {number} index @param {string} value */
  #slide(index, value) {
    const { start, end } = this.#numbers[index];
    const text = [...this.input.value];
    text.splice(start, end - start, value);
    // What the next turn of the slider goes by, until the crate has answered.
    const longer = value.length - (end - start);
    this.#numbers = this.#numbers.map((number, at) => ({
      start: number.start + (at > index ? longer : 0), end: number.end + (at >= index ? longer : 0) }));
    this.set(text.join(""));
  }

  /** The name that is being typed at the caret. */
  #word() {
    const end = this.input.selectionStart ?? this.input.value.length;
    const start = /[A-Za-z_0-9]*$/.exec(this.input.value.slice(0, end))?.index ?? end;
    return { start, end, word: this.input.value.slice(start, end) };
  }

  #offer() {
    const { word } = this.#word();
    this.#offered = /^[A-Za-z_]/.test(word)
      ? this.forms.filter(({ name }) => name.includes(word)).sort((a, b) => a.name.indexOf(word) - b.name.indexOf(word)).slice(0, SHOWN)
      : [];
    // What is a name already needs no completion, and what stands below is to be seen.
    if (this.#offered.some(({ name }) => name === word)) this.#offered = [];
    this.#active = -1;
    this.#list();
  }

  #list() {
    this.list.replaceChildren(...this.#offered.map(({ form, sentence }, index) =>
      h("li", { role: "option", id: `mask-form-${index}`, "aria-selected": String(index === this.#active),
        onpointerdown: (/** @type {Event} */ event) => { event.preventDefault(); this.#take(index); } },
      h("code", {}, form), h("span", {}, ...coded(sentence)))));
    this.list.hidden = this.#offered.length === 0;
    this.input.setAttribute("aria-expanded", String(!this.list.hidden));
    if (this.#active >= 0) this.input.setAttribute("aria-activedescendant", `mask-form-${this.#active}`);
    else this.input.removeAttribute("aria-activedescendant");
    this.list.children[this.#active]?.scrollIntoView({ block: "nearest" });
  }

  #close() {
    this.#offered = [];
    this.#list();
  }

  /** @param {number} index */
  #take(index) {
    const { start, end } = this.#word();
    // The form's arguments are numbers to begin with.
    let number = 0;
    const form = this.#offered[index].form
      .replace(/MASK/g, "causal")
      .replace(/\b[A-Z][A-Z_]*\b/g, () => String([4, 2][number++] ?? 1));
    this.#close();
    this.input.setRangeText(form, start, end, "end");
    this.onchange(this.input.value);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const count = this.#offered.length;
    if (count === 0) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const step = event.key === "ArrowDown" ? 1 : -1;
      this.#active = (this.#active + step + count) % count;
      if (this.#active < 0) this.#active = count - 1;
      this.#list();
    } else if (event.key === "Escape") {
      this.#close();
    } else if ((event.key === "Enter" || event.key === "Tab") && this.#active >= 0) {
      this.#take(this.#active);
    } else {
      return;
    }
    event.preventDefault();
  }
}

/** @param {string} text */
const wrapped = (text) => (/[&|]/.test(text) ? `(${text})` : text);
