// Which section is shown, in which theme, and what is told above all of them.
// @ts-check
import { at, h } from "./dom.js";
import { engine } from "./engine.js";
import * as gallery from "./gallery.js";
import * as generate from "./generate.js";
import * as gpu from "./gpu.js";
import * as heads from "./heads.js";
import * as playground from "./playground.js";

const SECTIONS = ["playground", "generate", "heads", "gallery", "gpu"];

/** Told above everything: with a way to close it. @param {string} message */
function notice(message) {
  at("notice").replaceChildren(h("p", {}, message), h("button", { type: "button", onclick: () => at("notice").replaceChildren() }, "Close"));
}

/** @param {boolean} first */
function route(first) {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const name = SECTIONS.includes(path) ? path : "playground";
  for (const section of SECTIONS) {
    at(`section-${section}`).hidden = section !== name;
    const link = /** @type {HTMLElement} */ (document.querySelector(`nav a[href="#/${section}"]`));
    if (section === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${at(`section-${name}`).querySelector("h2")?.textContent} · wgpu-attention`;
  if (!first) {
    scrollTo(0, 0);
    at("main").focus({ preventScroll: true });
  }
  if (name === "playground") playground.show(query);
  else ({ generate, heads, gallery, gpu })[name]?.show();
}

/** @param {string} theme */
function dress(theme) {
  document.documentElement.dataset.theme = theme;
  at("theme").textContent = theme === "dark" ? "Light" : "Dark";
  at("theme").setAttribute("aria-label", theme === "dark" ? "Light theme" : "Dark theme");
  playground.redraw();
  generate.draw();
  heads.draw();
  gallery.draw();
}

/** Cases for a host that reads them: each line is posted. @param {string[]} only */
async function report(only) {
  const post = (/** @type {string} */ path, /** @type {string} */ text) => fetch(path, { method: "POST", body: text });
  try {
    await gpu.checks(only, (line) => post("/line", JSON.stringify(line)));
    await post("/done", "");
  } catch (error) {
    await post("/broken", error instanceof Error ? error.message : String(error));
  }
}

async function start() {
  engine.notice = notice;
  for (const section of [playground, generate, heads, gpu]) section.build();
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dress(dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => dress(dark.matches ? "dark" : "light"));
  at("theme").addEventListener("click", () => dress(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  addEventListener("hashchange", () => route(false));
  try {
    const about = await engine.about();
    at("without-webgpu").hidden = about.device;
    const { vendor, architecture } = about.adapter;
    at("computed-on").textContent = about.device
      ? `Computed by the crate's kernels on ${[vendor, architecture].filter(Boolean).join(" ") || "your GPU"}.`
      : "Computed by the crate's reference on your CPU.";
    at("static").remove();
    document.body.dataset.device = String(about.device);
  } catch (error) {
    at("static").hidden = false;
    notice(`The page's code doesn't start here: ${error instanceof Error ? error.message : error}`);
    return;
  }
  route(true);
  const query = new URLSearchParams(location.search);
  if (query.get("post") === "lines") await report(query.getAll("only"));
}

// For tests: what is shown, and a way to lose the device.
Object.assign(window, { page: { playground, generate, heads, gpu, engine } });
start();
