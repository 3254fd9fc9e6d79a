// Small helpers for making elements.
// @ts-check

/** An element with attributes, listeners (`onclick`) and children.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag @param {Record<string, any>} [attributes] @param {...(Node | string | null | undefined | false)} children
 * @returns {HTMLElementTagNameMap[T]} */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(name, String(value));
  }
  for (const child of children) if (child || child === "") element.append(child);
  return element;
}

/** An element that is there. @template {HTMLElement} T @param {string} id @returns {T} */
export const at = (id) => /** @type {T} */ (document.getElementById(id));

/** A labelled control. @param {string} label @param {HTMLElement} control @param {string} [more] */
export const field = (label, control, more) =>
  h("label", { class: `field ${more ?? ""}` }, h("span", {}, label), control);

/** A select. @param {[value: string, label: string][]} options @param {string} chosen @param {(value: string) => void} change */
export function select(options, chosen, change) {
  const element = h("select", { onchange: () => change(element.value) });
  for (const [value, label] of options) element.append(h("option", { value }, label));
  element.value = chosen;
  return element;
}

/** A number with few digits. @param {number} value */
export function short(value) {
  if (value === -Infinity) return "−∞";
  if (value === Infinity) return "∞";
  if (Number.isNaN(value)) return "NaN";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const digits = size >= 1e5 || size < 1e-3 ? value.toExponential(2) : value.toPrecision(4);
  return digits.replace("-", "−").replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

/** A share as percent. @param {number} share */
export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)} %`;

/** Calls the newest alone, after a pause. @param {() => void} call @param {number} pause */
export function debounced(call, pause) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = window.setTimeout(call, pause);
  };
}

/** Markdown links as links. @param {string} text */
export function linked(text) {
  const parts = text.split(/\[([^\]]*)\]\(([^)]*)\)/);
  return parts.map((part, index) => {
    if (index % 3 === 0) return part;
    return index % 3 === 1 ? h("a", { href: parts[index + 1] }, part) : "";
  }).filter((part) => part !== "");
}

/** Text with `code`. @param {string} text */
export const coded = (text) => text.split("`").map((part, index) => (index % 2 ? h("code", {}, part) : part));
