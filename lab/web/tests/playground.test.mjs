// The playground: what is typed, dragged and painted, and that its numbers are those of the crate on other devices.
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { after, before, test } from "node:test";
import { apart, open, pictured, serve, tensors, type, visit } from "./browser.mjs";

let site, browser, page;
before(async () => {
  site = await serve();
  browser = await open();
  page = await visit(browser.context, site.address);
});
after(async () => {
  await browser?.stop();
  site?.stop();
});

const shown = () => page.evaluate(() => {
  const { outline, picture, state } = window.page.playground.shown();
  const list = (values) => Array.from(values, (x) => (x === -Infinity ? "-inf" : x));
  return { state, outline: { ...outline, keep: [...outline.keep] }, picture: { ...picture, scores: list(picture.scores),
    masked: list(picture.masked), weights: list(picture.weights), unmasked: list(picture.unmasked), tiles: [...picture.tiles] } };
});
const go = async (hash) => {
  await page.goto(site.address + hash);
  await pictured(page);
};

/** Where a cell of the mask's picture is, once that is in view. */
const middle = (row, column) => page.evaluate(([row, column]) => {
  const { keep } = window.page.playground.shown().pictures;
  keep.canvas.scrollIntoView({ block: "center" });
  return keep.middle(row, column);
}, [row, column]);

for (const file of readdirSync(".").filter((file) => file.endsWith(".expected.json"))) {
  const { layer, mask } = JSON.parse(readFileSync(file, "utf8"));
  test(`numbers of ${mask} over ${layer} are the native ones`, async () => {
    const native = tensors(file.replace(".expected.json", ".safetensors"));
    const [, heads, queries, keys] = native.weights.shape;
    for (const [sequence, head] of [[0, 0], [1, 7], [3, 11]]) {
      const query = new URLSearchParams({ mask, source: layer.replace("minilm-", ""), sequence, head });
      await go(`#/playground?${query}`);
      const { picture, outline } = await shown();
      const first = (sequence * heads + head) * queries * keys;
      const part = ({ values }) => [...values.subarray(first, first + queries * keys)];
      const largest = Math.max(...part(native.scores).map(Math.abs));
      assert.ok(apart(picture.scores, part(native.scores)) <= 4e-6 * largest, "scores");
      assert.ok(apart(picture.weights, part(native.weights)) <= 4e-6, "weights");
      part(native.weights).forEach((weight, at) => assert.ok(outline.keep[at] === 1 || weight === 0));
    }
  });
}

test("what leaks is the weight of hidden keys", async () => {
  await go(`#/playground?${new URLSearchParams({ mask: "causal & key_lengths", sequence: 1, head: 3 })}`);
  const { picture, outline } = await shown();
  const { keys } = outline;
  const leaks = Array.from({ length: outline.queries }, (_, row) => picture.unmasked.slice(row * keys, (row + 1) * keys)
    .reduce((sum, weight, key) => sum + (outline.keep[row * keys + key] ? 0 : weight), 0));
  assert.ok(apart(picture.leaks, leaks) < 1e-5);
  const own = leaks.slice(0, outline.lengths[1]);
  assert.ok(Math.abs(picture.leak - own.reduce((a, b) => a + b, 0) / own.length) < 1e-5);
  assert.ok(picture.leak > 0.3 && picture.change > 0);
  await page.check("#switch-unmasked");
  assert.equal(await page.textContent("#caption-weights"), "orange leaks");
  assert.match(await page.textContent("#leak"), /% of the attention goes to keys that it hides/);
  await page.uncheck("#switch-unmasked");
});

test("a cell's arithmetic ends at its weight", async () => {
  await go(`#/playground?${new URLSearchParams({ mask: "causal & key_lengths", sequence: 2 })}`);
  const place = await middle(4, 1);
  await page.mouse.move(place.x, place.y);
  const { picture, outline } = await shown();
  const steps = await page.$$eval("#cell dd b", (all) => all.map((element) => Number(element.textContent.replace("−", "-"))));
  const weight = picture.weights[4 * outline.keys + 1];
  assert.ok(Math.abs(steps[5] - weight) <= 1e-3 * weight + 1e-9, `${steps} ends at ${weight}`);
  assert.ok(Math.abs(steps[3] / steps[4] - weight) <= 2e-3 * weight, `${steps}`);
  assert.match(await page.textContent("#cell .who"), /“\[SEP\]” \(query 4\) → “i” \(key 1\)kept/);
  await page.focus("#picture-keep canvas");
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("End");
  assert.match(await page.textContent("#cell .who"), /query 3\) → “\[PAD\]” \(key 26\)masked/);
  assert.match(await page.textContent("#cell .steps"), /\+ −∞/);
});

test("errors are at their column", async () => {
  await page.fill("#mask", "causal & windw(2,0)");
  await page.waitForFunction(() => document.getElementById("mask-error").textContent !== "");
  assert.match(await page.textContent("#mask-error"), /^column 10: .*did you mean `window`\?/s);
  assert.equal(await page.getAttribute("#mask", "aria-invalid"), "true");
  assert.equal(await page.$eval(".caret", (caret) => caret.style.getPropertyValue("--column")), "9");
  await type(page, "causal & window(2,0)");
  assert.equal(await page.textContent("#mask-error"), "");
  await page.fill("#mask", "per_head(all, all, all, all, all)");
  await page.waitForFunction(() => document.getElementById("mask-error").textContent !== "");
  assert.match(await page.textContent("#mask-error"), /a number of masks that divides num_heads = 12/);
});

test("leaves are completed by keyboard", async () => {
  await type(page, "causal");
  await page.fill("#mask", "");
  await page.locator("#mask").pressSequentially("causal & glo");
  await page.waitForSelector("#mask-forms li");
  await page.keyboard.press("ArrowDown");
  assert.equal(await page.getAttribute("#mask", "aria-activedescendant"), "mask-form-0");
  await page.keyboard.press("Enter");
  assert.match(await page.inputValue("#mask"), /^causal & global\(\d+\)$/);
  assert.equal(await page.getAttribute("#mask", "aria-expanded"), "false");
  await pictured(page);
});

test("chips join and sliders change numbers", async () => {
  await type(page, "causal");
  await page.click(".chip:text-is('window(4,0)')");
  await pictured(page);
  assert.equal(await page.inputValue("#mask"), "causal & window(4,0)");
  const slider = page.locator(".sliders input").first();
  await slider.fill("12");
  await pictured(page);
  assert.equal(await page.inputValue("#mask"), "causal & window(12,0)");
  assert.equal((await shown()).outline.mask, "causal & window(12,0)");
  await page.check("input[name=joined][value='|']");
  await page.click(".chip:text-is('global(1)')");
  await pictured(page);
  assert.equal(await page.inputValue("#mask"), "causal & window(12,0) | global(1)");
  await page.check("input[name=joined][value='&']");
});

test("lengths are dragged", async () => {
  await go(`#/playground?${new URLSearchParams({ mask: "key_lengths", sequence: 1 })}`);
  const count = async () => (await shown()).outline.keep.filter((keep) => keep).length;
  assert.equal(await count(), 27 * 6);
  const slider = page.locator("[data-item=key_lengths] input");
  await slider.fill("9");
  await pictured(page);
  assert.equal(await count(), 27 * 9);
  await slider.focus();
  await page.keyboard.press("ArrowLeft");
  await pictured(page);
  assert.equal(await count(), 27 * 8);
});

test("documents are coloured, by pointer and by keyboard", async () => {
  await go(`#/playground?${new URLSearchParams({ mask: "documents", source: "text", text: "a b c d e f" })}`);
  const values = async () => (await shown()).outline.items[0].values;
  assert.deepEqual(await values(), [0, 0, 1, 1, 2, 2]);
  const button = (at) => page.locator(`[data-item=document_ids_q] button[data-at='${at}']`);
  const [from, to] = [await button(0).boundingBox(), await button(2).boundingBox()];
  await page.mouse.move(from.x + from.width / 2, from.y + from.height / 2);
  await page.mouse.down();
  await page.mouse.move(to.x + to.width / 2, to.y + to.height / 2, { steps: 8 });
  await page.mouse.up();
  await pictured(page);
  assert.deepEqual(await values(), [1, 1, 1, 1, 2, 2]);
  await button(5).focus();
  await page.keyboard.press("Enter");
  await pictured(page);
  assert.deepEqual(await values(), [1, 1, 1, 1, 2, 3]);
});

test("dense masks are painted, and links carry the painting", async () => {
  await go(`#/playground?${new URLSearchParams({ mask: "dense", source: "text", text: "a b c d e f" })}`);
  const before = (await shown()).outline.keep;
  const [from, to] = [await middle(2, 0), await middle(2, 5)];
  await page.mouse.move(from.x, from.y);
  await page.mouse.down();
  await page.mouse.move(to.x, to.y, { steps: 20 });
  await page.mouse.up();
  await pictured(page);
  const wanted = 1 - before[12];
  const after = (await shown()).outline.keep;
  assert.deepEqual(after.slice(12, 18), Array(6).fill(wanted));
  assert.deepEqual(after.slice(0, 12), before.slice(0, 12));
  await page.click("#copy-link");
  const other = await visit(browser.context, site.address, new URL(page.url()).hash);
  const there = await other.evaluate(() => [...window.page.playground.shown().outline.keep]);
  assert.deepEqual(there, after);
  await other.close();
});

test("a function in WGSL runs, and its errors are at their line", async () => {
  await go("#/playground?mask=wgsl");
  let { outline } = await shown();
  const rule = (row, column) => Number((row ^ column) % 5 < 3);
  assert.deepEqual(outline.keep, outline.keep.map((_, at) => rule(Math.floor(at / outline.keys), at % outline.keys)));
  await page.fill("#wgsl", "fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {\n  return nothing;\n}");
  await page.waitForFunction(() => document.getElementById("wgsl-error").textContent !== "");
  assert.match(await page.textContent("#wgsl-error"), /nothing/);
  assert.equal(await page.textContent(".lines .broken"), "2");
  await page.fill("#wgsl", "fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {\n  return kv_idx < 3u;\n}");
  await page.waitForFunction(() => document.getElementById("wgsl-error").textContent === "");
  await pictured(page);
  outline = (await shown()).outline;
  assert.equal(outline.keep.filter((keep) => keep).length, 3 * outline.queries);
});

test("tiles are the mask's, and say what is spared", async () => {
  await go(`#/playground?${new URLSearchParams({ mask: "causal", source: "text", text: "a b c d e f g h i j k l m n o p", tiles: 1, tile: 4 })}`);
  const { picture } = await shown();
  assert.deepEqual(picture.tiles, [1, 0, 0, 0, 2, 1, 0, 0, 2, 2, 1, 0, 2, 2, 2, 1]);
  assert.deepEqual(picture.classes, [6, 4, 6]);
  assert.match(await page.textContent("#work"), /^63 % of the work .* of 16 tiles of 4 × 4, 6 are skipped, 6 are full and ask no mask, 4 are partial/);
});

test("fewer queries than keys stand at the end, as with a cache", async () => {
  await go(`#/playground?${new URLSearchParams({ mask: "causal", source: "text", text: "a b c d e f", queries: 2 })}`);
  const { outline } = await shown();
  assert.deepEqual(outline.keep, [1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1]);
});

test("masks in a hurry end at the last one", async () => {
  await go("#/playground");
  for (const mask of ["all", "causal", "window(1,1)", "global(2)", "chunk(3)", "strided(2)"]) await page.fill("#mask", mask);
  await pictured(page);
  const { outline, picture } = await shown();
  assert.equal(outline.mask, "strided(2)");
  assert.deepEqual(picture.masked.map((score) => Number(score !== "-inf")), outline.keep);
  assert.deepEqual(page.errors, []);
});
