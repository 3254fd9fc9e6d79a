// A function in WGSL: a text with numbered lines, and the compiler's message at its line.
// @ts-check
import { debounced, h } from "./dom.js";

export class WgslEditor {
  /** The text changed. @type {(text: string) => void} */
  onchange = () => {};

  constructor() {
    const changed = debounced(() => this.onchange(this.text.value), 300);
    this.text = h("textarea", { id: "wgsl", class: "code", rows: 5, spellcheck: "false", autocapitalize: "off",
      "aria-label": "The function keep in WGSL", "aria-describedby": "wgsl-error",
      oninput: () => { this.#lines(); changed(); },
      onscroll: () => { this.lines.scrollTop = this.text.scrollTop; } });
    this.lines = h("div", { class: "lines", "aria-hidden": "true" });
    this.error = h("pre", { id: "wgsl-error", class: "error", role: "status" });
    this.element = h("div", { class: "wgsl" }, h("div", { class: "code-box" }, this.lines, this.text), this.error);
  }

  /** @param {string} text */
  set(text) {
    this.text.value = text;
    this.#lines();
  }

  #lines(broken = 0) {
    const count = this.text.value.split("\n").length;
    this.text.rows = Math.min(Math.max(count + 1, 4), 16);
    this.lines.replaceChildren(...Array.from({ length: count }, (_, at) =>
      h("span", { class: at + 1 === broken ? "broken" : "" }, String(at + 1))));
  }

  /** @param {{ message: string, line?: number } | null} fault */
  fault(fault) {
    this.error.textContent = fault?.message ?? "";
    this.text.setAttribute("aria-invalid", String(Boolean(fault)));
    this.#lines(fault?.line ?? 0);
  }
}
