// All tests of the page: `node run.mjs [PART OF A NAME]`.
import { run } from "node:test";
import { spec } from "node:test/reporters";

const [, , filter] = process.argv;
run({ files: ["playground.test.mjs", "sections.test.mjs", "page.test.mjs"], concurrency: 1,
  testNamePatterns: filter ? [new RegExp(filter.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"))] : undefined })
  .on("test:fail", () => { process.exitCode = 1; })
  .compose(spec).pipe(process.stdout);
