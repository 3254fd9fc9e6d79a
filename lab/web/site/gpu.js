// The browser's GPU: what it offers, whether its results are right, and how fast it is.
// @ts-check
import { at, h, percent, short } from "./dom.js";
import { engine } from "./engine.js";

/** What was found so far. @type {any} */
const report = { version: "", adapter: {}, features: [], limits: {}, checks: null, rates: null, benchmark: null };
let running = false;

/** Builds the section. */
export function build() {
  at("run-checks").addEventListener("click", () => run(() => checks([], null)));
  at("run-benchmark").addEventListener("click", () => run(benchmark));
  at("copy-report").addEventListener("click", async () => {
    const text = JSON.stringify(toSend(), null, 1);
    await navigator.clipboard?.writeText(text).catch(() => {});
    const box = /** @type {HTMLTextAreaElement} */ (at("report"));
    box.value = text;
    box.hidden = false;
    box.select();
    at("report-told").textContent = "Copied. It holds what stands on this page and the browser's name, nothing else.";
  });
}

/** In the form of `wgpu-attention report`'s report.json, so that `cargo xtask gpu-report --read` takes both. */
function toSend() {
  const { version, adapter, features, limits, rates } = report;
  const checks = report.checks?.cases.map((/** @type {any} */ line) => ({
    check: line.case, result: line.failed ? "failed" : line.refused ? "refused" : "right",
    ...(line.failed || line.refused ? { why: line.failed || line.refused } : {}),
  }));
  const measured = report.benchmark?.map((/** @type {any} */ line) => {
    const [batch, heads, queries, keys, dim] = line.sizes;
    return { kernel: line.kernel, shape: [batch, heads, heads, queries, keys, dim, dim], mask: line.mask, dtype: "f32",
      ms_median: 1e3 * line.seconds, gflops: line.operations / line.seconds / 1e9, share_of_peak: line.share };
  });
  return {
    wgpu_attention_gpu_report: 1,
    device: { version, device: nameOf(adapter) || "a GPU that the browser doesn't name", vendor: adapter.vendor, type: adapter.fallback ? "Cpu" : "Other",
      backend: "webgpu", driver: "a browser", driver_info: navigator.userAgent, features: features.join(" | "), ...limits,
      ...(rates ? { peak_gflops: rates.operations / 1e9, copy_gbytes_per_s: rates.bytes / 1e9 } : {}) },
    ...(checks ? { checks } : {}),
    ...(measured ? { "forward and decode": measured } : {}),
  };
}

/** @param {{ vendor: string, architecture: string, device: string, description: string }} adapter */
const nameOf = ({ vendor, architecture, device, description }) => [vendor, architecture, device, description].filter(Boolean).join(" ");

/** Shows the section. */
export async function show() {
  const about = await engine.about();
  const { fallback } = about.adapter;
  Object.assign(report, { version: about.version, adapter: about.adapter, features: about.features, limits: about.limits });
  const names = nameOf(about.adapter);
  at("adapter").textContent = about.device
    ? `${names || "a GPU that the browser doesn't name"}${fallback ? ", a driver for CPUs" : ""}`
    : `none: ${about.missing || "this browser has no WebGPU"}`;
  for (const id of ["run-checks", "run-benchmark"]) /** @type {HTMLButtonElement} */ (at(id)).disabled = !about.device;
  const rows = Object.entries(about.limits).map(([name, value]) => h("div", {}, h("dt", {}, h("code", {}, name)), h("dd", {}, bytes(name, Number(value)))));
  at("limits").replaceChildren(...rows, about.features.length > 0 ? h("div", {}, h("dt", {}, "features"), h("dd", {}, about.features.join(", "))) : "");
}

/** @param {string} name @param {number} value */
const bytes = (name, value) => (/size/.test(name) && !/invocations/.test(name)
  ? value >= 1 << 30 ? `${short(value / (1 << 30))} GiB` : value >= 1 << 20 ? `${short(value / (1 << 20))} MiB` : `${short(value / 1024)} KiB`
  : String(value));

/** @param {() => Promise<void>} task */
async function run(task) {
  if (running) return;
  running = true;
  at("gpu-error").textContent = "";
  try {
    await task();
  } catch (error) {
    at("gpu-error").textContent = error instanceof Error ? error.message : String(error);
  } finally {
    running = false;
  }
}

/** Runs the cases; each line goes to `post`, too. @param {string[]} only @param {((line: any) => Promise<unknown>) | null} post */
export async function checks(only, post) {
  const bar = /** @type {HTMLProgressElement} */ (at("checks-bar"));
  const list = at("checks-failed");
  list.replaceChildren();
  const counts = { right: 0, refused: 0, failed: 0 };
  report.checks = { cases: [] };
  /** @type {Promise<unknown>} */
  let posted = Promise.resolve();
  const line = (/** @type {any} */ line) => {
    if (post) posted = posted.then(() => post(line));
    if (line.cases !== undefined) {
      bar.max = line.cases;
      bar.hidden = false;
      return;
    }
    if (line.case === undefined) return;
    report.checks.cases.push(line);
    const kind = line.failed ? "failed" : line.refused ? "refused" : "right";
    counts[kind] += 1;
    bar.value = report.checks.cases.length;
    at("checks-told").textContent = `${bar.value} of ${bar.max}: ${counts.right} right, ${counts.refused} not for this device, ${counts.failed} wrong`;
    if (line.failed) list.append(h("li", {}, h("b", {}, line.case), " ", line.failed));
  };
  await engine.call("checks", [only], { limit: 300_000, line });
  await posted;
  at("checks-told").textContent += counts.failed > 0 ? ". Please send the report." : ". Every result is the reference's.";
}

async function benchmark() {
  report.benchmark = [];
  at("bench").replaceChildren();
  at("bench-told").textContent = "measuring the device's own rates …";
  await engine.call("benchmark", [], { limit: 60_000, line: (/** @type {any} */ line) => {
    if (line.seconds === undefined) {
      report.rates = line;
      at("bench-told").textContent = `The device's own rates: ${short(line.operations / 1e9)} GFlop/s in f32, ${short(line.bytes / 1e9)} GB/s of copying. Attention reaches:`;
      return;
    }
    report.benchmark.push(line);
    const [, heads, queries, keys, dim] = line.sizes;
    const share = Math.min(line.share, 1);
    at("bench").append(h("div", { class: "bar" },
      h("span", {}, h("code", {}, line.mask), ` ${queries === 1 ? "1 query, " : ""}${keys} keys, ${heads} heads of ${dim}`),
      h("span", { class: "track" }, h("i", { style: `width:${100 * share}%` })),
      h("b", {}, percent(line.share)),
      h("span", { class: "quiet" }, `${short(1e3 * line.seconds)} ms, ${line.kernel}, bound by ${line.bound}`)));
  } });
}

/** For tests. */
export const shown = () => report;
