// The sections beside the playground.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { apart, open, pictured, serve, tensors, visit } from "./browser.mjs";

let site, browser;
before(async () => {
  site = await serve();
  browser = await open();
});
after(async () => {
  await browser?.stop();
  site?.stop();
});

test("training and generating give the same rows", async () => {
  const page = await visit(browser.context, site.address, "#/generate");
  await page.waitForFunction(() => document.body.dataset.generated !== undefined);
  const both = () => page.evaluate(() => {
    const both = window.page.generate.shown();
    return Object.fromEntries(Object.entries(both).map(([name, value]) => [name, value instanceof Float32Array ? [...value] : value]));
  });
  for (const mask of ["causal", "causal & window(4,0)", "streaming_llm(4,1)"]) {
    await page.selectOption("#generate-controls label:has-text('mask') select", mask);
    await page.waitForFunction((mask) => {
      const both = window.page.generate.shown();
      return document.querySelector("#generate-controls label:last-child select").value === mask && both?.of === window.page.generate.newest();
    }, mask);
    const { at_once, in_steps, o_at_once, o_in_steps, unmasked, tokens } = await both();
    assert.equal(at_once.length, tokens.length ** 2);
    assert.ok(apart(in_steps, at_once) <= 2e-6, mask);
    assert.ok(apart(o_in_steps, o_at_once) <= 1e-5, mask);
    assert.ok(apart(unmasked, at_once) > 0.01, "the mask changes something");
  }
  await page.fill("#step", "2");
  assert.match(await page.textContent("#step-told"), /^Step 3 of 19: “cat” is appended to the cache and asks its 3 keys\./);
  assert.match(await page.textContent("#same"), /Both ways give this row/);
  await page.click("#play");
  await page.waitForFunction(() => Number(document.getElementById("step").value) >= 4);
  await page.click("#play");
  await page.close();
});

test("heads give padding what it takes unmasked, and nothing masked", async () => {
  const page = await visit(browser.context, site.address, "#/heads");
  await page.waitForFunction(() => document.body.dataset.heads === "0.1.true");
  const found = async () => page.evaluate(() => {
    const { weights, heads, length, tokens } = window.page.heads.shown();
    return { weights: [...weights], heads, length, count: tokens.length };
  });
  const masked = await found();
  assert.equal(masked.heads.length, 12);
  assert.deepEqual(masked.heads.map(({ padding }) => padding), Array(12).fill(0));
  const native = tensors("padded.safetensors").weights;
  const each = native.values.length / 4;
  assert.ok(apart(masked.weights, [...native.values.subarray(each, 2 * each)]) <= 4e-6);
  await page.uncheck("#switch-padding");
  await page.waitForFunction(() => document.body.dataset.heads === "0.1.false");
  const free = await found();
  for (const { padding } of free.heads) assert.ok(padding > 0 && padding < 1);
  assert.match(await page.textContent("#heads-told"), /21 of \[PAD\].* of the attention/);
  await page.click("#heads a >> nth=5");
  await pictured(page);
  assert.match(page.url(), /head=5/);
  await page.close();
});

test("the gallery has every leaf, operator and composition, and its cards open", async () => {
  const page = await visit(browser.context, site.address, "#/gallery");
  await page.waitForFunction(() => document.body.dataset.gallery !== undefined);
  assert.equal(await page.locator("#gallery-place .error").count(), 0);
  const links = await page.$$eval("#gallery-place h4 a", (all) => all.map((link) => link.getAttribute("href")));
  assert.ok(links.length >= 36, `${links.length} cards`);
  // Each of them is one that the playground shows: by the device where they are few, by the crate's evaluator for all.
  for (const link of links.filter((_, at) => at % 5 === 0)) {
    await page.goto(site.address + link);
    await pictured(page);
    const { keep, masked } = await page.evaluate(() => {
      const { outline, picture } = window.page.playground.shown();
      return { keep: [...outline.keep], masked: [...picture.masked].map((score) => Number(score !== -Infinity)) };
    });
    assert.deepEqual(masked, keep, link);
  }
  assert.deepEqual(page.errors, []);
  await page.close();
});

test("a device is described, checked and reported", async () => {
  const page = await visit(browser.context, site.address, "#/gpu");
  await page.waitForFunction(() => document.getElementById("limits").children.length > 3);
  assert.match(await page.textContent("#adapter"), /swiftshader/i);
  await page.evaluate(() => window.page.gpu.checks(["window", "text that doesn't compile"], null));
  assert.match(await page.textContent("#checks-told"), /^(\d+) of \1: \1 right, 0 not for this device, 0 wrong\. Every result/);
  await page.click("#copy-report");
  const report = JSON.parse(await page.inputValue("#report"));
  assert.equal(report.wgpu_attention_gpu_report, 1);
  assert.ok(report.checks.length > 1 && report.checks.every((line) => line.check && line.result === "right"));
  assert.match(report.device.device, /swiftshader/i);
  assert.ok(report.device.max_buffer_size > 0);
  await page.close();
});

test("the benchmark gives shares of the device's own rates", async () => {
  const page = await visit(browser.context, site.address, "#/gpu");
  await page.click("#run-benchmark");
  await page.waitForFunction(() => window.page.gpu.shown().benchmark?.length > 0);
  const { rates, benchmark } = await page.evaluate(() => window.page.gpu.shown());
  assert.ok(rates.operations > 1e8 && rates.bytes > 1e7);
  for (const { share, seconds, operations } of benchmark) assert.ok(share > 0 && share < 1.5 && seconds > 0 && operations > 0);
  await page.click("#copy-report");
  const report = JSON.parse(await page.inputValue("#report"));
  assert.equal(report["forward and decode"].length, benchmark.length);
  assert.ok(report["forward and decode"].every((line) => line.ms_median > 0 && line.gflops > 0) && report.device.peak_gflops > 0);
  await page.close();
});
