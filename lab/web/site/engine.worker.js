// The crate, in a thread of its own: the page stays responsive, and can end it if a kernel hangs.
// A message is { id, method, args }; answers are { id, value }, { id, fault } and, while it runs, { id, line }.
// @ts-check
import start, { Engine } from "./page.js";

/** @type {Engine | undefined} */
let engine;
/** What the device is, as the browser tells it; wgpu doesn't. */
let adapter = { vendor: "", architecture: "", device: "", description: "", fallback: false };

// What a panic said goes to the console before the trap.
let said = "";
const log = console.error;
console.error = (...words) => {
  said += words.join(" ") + "\n";
  log(...words);
};

const methods = {
  /** @param {boolean} device */
  async open(device) {
    await start({ module_or_path: new URL("page_bg.wasm", import.meta.url) });
    const gpu = device ? /** @type {any} */ (navigator).gpu : undefined;
    const found = await gpu?.requestAdapter();
    if (found) {
      const { vendor, architecture, device, description, isFallbackAdapter } = found.info;
      adapter = { vendor, architecture, device, description, fallback: Boolean(isFallbackAdapter) };
    }
    engine = await Engine.open(Boolean(found));
    return { ...JSON.parse(engine.about()), adapter, webgpu: Boolean(gpu) };
  },
  cards: async () => JSON.parse(Engine.cards()),
  forms: async () => JSON.parse(Engine.forms()),
  /** @param {number} layer @param {ArrayBuffer} bytes */
  async addLayer(layer, bytes) {
    engine?.add_layer(layer, new Uint8Array(bytes));
  },
  /** @param {object} request */
  async outline(request) {
    const { about, keep } = engine?.outline(JSON.stringify(request));
    return { ...JSON.parse(about), keep };
  },
  /** @param {object} request */
  picture: async (request) => parsed(await engine?.picture(JSON.stringify(request))),
  /** @param {object} request */
  generate: async (request) => parsed(await engine?.generate(JSON.stringify(request))),
  /** @param {object} request */
  heads: async (request) => parsed(await engine?.heads(JSON.stringify(request))),
  /** @param {string[]} only @param {(line: string) => void} tell */
  async checks(only, tell) {
    await engine?.checks(`${adapter.vendor} ${adapter.architecture}`, only, tell);
  },
  /** @param {(line: string) => void} tell */
  async benchmark(tell) {
    await engine?.benchmark(tell);
  },
  async lose() {
    engine?.lose();
  },
};

/** @param {{ summary: string }} value */
const parsed = ({ summary, ...arrays }) => ({ ...JSON.parse(summary), ...arrays });

/** @param {unknown} error */
function fault(error) {
  if (error instanceof WebAssembly.RuntimeError) {
    return { kind: "broken", message: said || error.message };
  }
  try {
    const known = JSON.parse(String(error));
    if (known?.kind) return known;
  } catch {
    // Not one of the crate's.
  }
  return { kind: "other", message: error instanceof Error ? error.message : String(error) };
}

// One after the other: each has the device to itself.
let last = Promise.resolve();
addEventListener("message", ({ data: { id, method, args } }) => {
  last = last.then(async () => {
    try {
      const tell = (/** @type {string} */ line) => postMessage({ id, line });
      const takesLines = method === "checks" || method === "benchmark";
      const call = /** @type {any} */ (methods)[method];
      postMessage({ id, value: await call(...args, ...(takesLines ? [tell] : [])) });
    } catch (error) {
      postMessage({ id, fault: fault(error) });
    }
  });
});

// A panic within a future reaches nobody who awaits it.
const broken = (/** @type {string} */ message) => postMessage({ broken: said || message });
addEventListener("error", (event) => broken(event.message));
addEventListener("unhandledrejection", (event) => broken(String(event.reason)));
