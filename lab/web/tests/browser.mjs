// The served site, a browser on it, and what native results look like.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const { WEB_HOST, WEB_SITE, WEB_CHROMIUM, WEB_ARGUMENTS = "" } = process.env;
export const SITE = WEB_SITE;

/** Serves the site; gives its address and a way to stop. */
export async function serve() {
  const server = spawn(WEB_HOST, ["serve", "--site", WEB_SITE], { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = await once(server.stdout, "data");
  return { address: String(line).trim(), stop: () => server.kill() };
}

/** A browser, with WebGPU on SwiftShader or without any. */
export async function open({ webgpu = true } = {}) {
  const without = (argument) => !/webgpu|Vulkan/i.test(argument);
  const args = WEB_ARGUMENTS.split(" ").filter((argument) => webgpu || without(argument));
  const profile = mkdtempSync(join(tmpdir(), "web-test-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: WEB_CHROMIUM, args, headless: true, viewport: { width: 1280, height: 900 },
  });
  // Others may use this machine, too.
  context.setDefaultTimeout(120_000);
  return { context, stop: async () => { await context.close(); rmSync(profile, { recursive: true, force: true }); } };
}

/** A page of the site that has drawn its first picture. */
export async function visit(context, address, hash = "#/playground", viewport = undefined) {
  const page = await context.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  if (viewport) await page.setViewportSize(viewport);
  await page.goto(address + hash);
  await page.waitForFunction(() => window.page !== undefined);
  await page.evaluate(() => { window.page.engine.limit = 120_000; });
  await page.waitForFunction(() => document.body.dataset.device !== undefined);
  if (hash.startsWith("#/playground")) await pictured(page);
  return Object.assign(page, { errors });
}

/** Waits until the newest picture is shown. */
export const pictured = (page) => page.waitForFunction(() => {
  const { outline, picture, state } = window.page.playground.shown();
  return outline && picture && !picture.stale && picture.of === window.page.playground.newest() && state;
});

/** A mask is typed, and its picture is there. */
export async function type(page, mask) {
  await page.fill("#mask", mask);
  await pictured(page);
}

/** The tensors of a safetensors file. */
export function tensors(path) {
  const bytes = readFileSync(path);
  const size = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + size).toString());
  delete header.__metadata__;
  return Object.fromEntries(Object.entries(header).map(([name, { shape, data_offsets: [from, to] }]) => {
    const part = bytes.subarray(8 + size + from, 8 + size + to);
    return [name, { shape, values: new Float32Array(part.buffer.slice(part.byteOffset, part.byteOffset + part.length)) }];
  }));
}

/** The largest difference of two lists, where both are finite; others have to be the same. */
export function apart(found, expected) {
  if (found.length !== expected.length) throw new Error(`${found.length} numbers instead of ${expected.length}`);
  let most = 0;
  for (let at = 0; at < found.length; at += 1) {
    if (Object.is(found[at], expected[at])) continue;
    const distance = Math.abs(found[at] - expected[at]);
    if (!Number.isFinite(distance)) throw new Error(`${found[at]} instead of ${expected[at]} at ${at}`);
    most = Math.max(most, distance);
  }
  return most;
}
