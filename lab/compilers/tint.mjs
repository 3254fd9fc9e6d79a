// Hands the kernels' text to Tint, Chromium's WGSL compiler, for `cargo xtask portability`, as Dawn has it for Node: the
// module is created and its messages are asked for. Of the first of each kernel a pipeline is made too, which takes the
// driver's compiler seconds.
//
//   node tint.mjs FOLDER-OF-THE-MODULE KERNELS
//
// KERNELS is what `wgpu-attention kernels` printed. What comes of each is printed as a JSON line.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [folder, kernels] = process.argv.slice(2);
const { create, globals } = await import(pathToFileURL(createRequire(folder + '/').resolve('webgpu')));
Object.assign(globalThis, globals);

// It must outlive the device.
globalThis.gpu = create(['backend=vulkan']);
const adapter = await gpu.requestAdapter();
if (!adapter) throw new Error('there is no adapter');
const { limits } = adapter;
const device = await adapter.requestDevice({
  requiredFeatures: ['subgroups'].filter((name) => adapter.features.has(name)),
  requiredLimits: {
    maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
    maxStorageBuffersPerShaderStage: limits.maxStorageBuffersPerShaderStage,
  },
});
device.lost.then(({ message }) => { if (message) console.error('lost:', message); });
console.error(`tint on ${adapter.info.device || adapter.info.description}, subgroups: ${device.features.has('subgroups')}`);

const piped = new Set();

async function compile({ kernel, wgsl, browser_prelude, entry_point }) {
  device.pushErrorScope('validation');
  device.pushErrorScope('internal');
  const module = device.createShaderModule({ code: browser_prelude + wgsl });
  const { messages } = await module.getCompilationInfo();
  const wrong = messages.filter(({ type }) => type !== 'info');
  let failed_in = null;
  let message = wrong.map(({ type, lineNum, message }) => `${type}, line ${lineNum}: ${message}`).join('\n');
  if (wrong.length > 0) {
    failed_in = 'Tint';
  } else if (!piped.has(kernel)) {
    piped.add(kernel);
    try {
      await device.createComputePipelineAsync({ layout: 'auto', compute: { module, entryPoint: entry_point } });
    } catch (error) {
      failed_in = 'pipeline';
      message = String(error.message);
    }
  }
  for (let scope = 0; scope < 2; scope++) {
    const error = await device.popErrorScope();
    if (error && !failed_in) [failed_in, message] = ['Dawn', error.message];
  }
  return { failed_in, message };
}

for (const line of readFileSync(kernels, 'utf8').split('\n').filter(Boolean)) {
  const kernel = JSON.parse(line);
  const outcome = await compile(kernel);
  console.log(JSON.stringify({ target: 'tint', kernel: kernel.kernel, form: kernel.form, ...outcome }));
}
process.exit(0);
