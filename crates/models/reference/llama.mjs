// llama.cpp on the same model: its greedy tokens, or its speed. Compared with crates/models by hand and by compare.py.
//
// Needs: npm install node-llama-cpp@3.22.1
// Run:   node llama.mjs MODEL.gguf cpu|vulkan greedy COUNT "PROMPT"        prints the tokens as JSON
//        node llama.mjs MODEL.gguf cpu|vulkan speed PROMPT_TOKENS STEPS    prints tokens per second of both, as JSON
//
// NODE: the program that it starts again to try whether llama.cpp's library loads. ggml's Vulkan backend takes a driver that
// runs on the CPU only if GGML_VK_VISIBLE_DEVICES says its number.

import {availableParallelism} from "node:os";
import {getLlama} from "node-llama-cpp";

const [model, backend, task, first, second] = process.argv.slice(2);
process.execPath = process.env.NODE ?? process.execPath;
const llama = await getLlama({gpu: backend === "vulkan" ? "vulkan" : false, build: "never", logLevel: "error"});
const loaded = await llama.loadModel({modelPath: model, gpuLayers: backend === "vulkan" ? "max" : 0});

async function* generate(tokens) {
    const context = await loaded.createContext({contextSize: 2048, batchSize: 512, threads: availableParallelism()});
    const sequence = context.getSequence();
    for await (const token of sequence.evaluate(tokens, {temperature: 0, yieldEogToken: true}))
        yield token;
}

if (task === "greedy") {
    const chosen = [];
    for await (const token of generate(loaded.tokenize(second, true))) {
        chosen.push(token);
        if (chosen.length === Number(first))
            break;
    }
    console.log(JSON.stringify(chosen));
} else {
    // Twice: the first compiles and warms up.
    for (const isMeasured of [false, true]) {
        const prompt = Array.from({length: Number(first)}, (_, at) => 1000 + at * 7 % 4000);
        let clock = performance.now();
        const times = [];
        for await (const _ of generate(prompt)) {
            times.push(performance.now() - clock);
            clock = performance.now();
            if (times.length > Number(second))
                break;
        }
        if (isMeasured) {
            const steps = times.slice(1);
            console.log(JSON.stringify({
                prefill: 1000 * prompt.length / times[0],
                decode: 1000 * steps.length / steps.reduce((sum, time) => sum + time, 0)
            }));
        }
    }
}
process.exit(0);
