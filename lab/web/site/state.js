// The playground's state, and the address that carries it.
// @ts-check

/** @typedef {{ mask: string, wgsl: string, source: string, text: string, heads: number, dim: number, seed: number,
 *   sequence: number, head: number, queries: number, tile: number, tiles: boolean, additive: boolean, unmasked: boolean,
 *   data: Record<string, number[]> }} State */

export const WGSL = `fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
  return (q_idx ^ kv_idx) % 5u < 3u;
}`;

/** @type {State} */
export const FIRST = {
  mask: "causal & key_lengths",
  wgsl: WGSL,
  source: "layer0",
  text: "I saw her duck. The duck saw me.\nIt flew away.",
  heads: 4,
  dim: 32,
  seed: 1,
  sequence: 0,
  head: 0,
  queries: 0,
  tile: 4,
  tiles: false,
  additive: false,
  unmasked: false,
  data: {},
};

/** What stands behind `#/playground?`. @param {Partial<State>} state */
export function toQuery(state) {
  const query = new URLSearchParams();
  for (const [name, first] of Object.entries(FIRST)) {
    const value = /** @type {any} */ (state)[name];
    if (name === "data" || value === undefined || value === first) continue;
    query.set(name, typeof value === "boolean" ? String(Number(value)) : String(value));
  }
  for (const [name, values] of Object.entries(state.data ?? {})) query.set(`data.${name}`, packed(values));
  return query.toString();
}

/** @param {string} query @returns {State} */
export function fromQuery(query) {
  /** @type {any} */
  const state = { ...FIRST, data: {} };
  for (const [name, value] of new URLSearchParams(query)) {
    if (name.startsWith("data.")) state.data[name.slice(5)] = unpacked(value);
    else if (name in FIRST && name !== "data") {
      const first = /** @type {any} */ (FIRST)[name];
      if (typeof first === "boolean") state[name] = value === "1";
      else if (typeof first === "number") state[name] = Math.max(0, Math.trunc(Number(value)) || 0);
      else state[name] = value;
    }
  }
  return state;
}

/** Runs of equal numbers: `3x7.1` is 3, seven times, then 1. @param {number[]} values */
function packed(values) {
  const runs = [];
  for (let at = 0; at < values.length; ) {
    let end = at;
    while (end < values.length && values[end] === values[at]) end += 1;
    runs.push(end - at > 1 ? `${values[at]}x${end - at}` : `${values[at]}`);
    at = end;
  }
  return runs.join(".");
}

/** @param {string} text */
function unpacked(text) {
  const values = [];
  for (const run of text.split(".")) {
    const [value, count] = run.split("x").map(Number);
    // A link from anywhere: no more than the page draws.
    const times = Math.min(count || 1, 65536 - values.length);
    for (let at = 0; at < times; at += 1) values.push(Math.trunc(value) || 0);
  }
  return values;
}

/** A text's tokens: words, and marks by themselves; a line is a sequence. @param {string} text */
export function tokens(text) {
  const lines = text.split("\n").map((line) => line.match(/[\p{L}\p{N}]+|[^\s\p{L}\p{N}]/gu) ?? []);
  const full = lines.filter((line) => line.length > 0).slice(0, 4).map((line) => line.slice(0, 64));
  return full.length > 0 ? full : [["…"]];
}

/** What the crate computes from. @param {State} state */
export function request(state) {
  const { mask, wgsl, sequence, head, queries, tile, data } = state;
  const layer = state.source.startsWith("layer") ? Number(state.source.slice(5)) : undefined;
  const texts = tokens(state.text);
  const heads = Math.min(Math.max(state.heads, 1), 16);
  const head_dim = Math.min(Math.max(state.dim, 1), 128);
  const source = layer !== undefined
    ? { kind: "model", layer }
    : { kind: "random", tokens: texts, heads, head_dim, seed: state.seed };
  const [batch, all] = layer !== undefined ? [4, 12] : [texts.length, heads];
  const own = /\bwgsl\b/.test(mask) ? wgsl : null;
  return { mask, wgsl: own, source, queries, tile: tile || 1, data,
    sequence: Math.min(sequence, batch - 1), head: Math.min(head, all - 1) };
}
