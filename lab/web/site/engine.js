// The page's side of engine.worker.js: calls with a time limit, and a new start where the device is lost, hangs, or the code
// breaks.
// @ts-check

/** Something that went wrong: `kind` is mask, wgsl, lost, memory, hang, broken or other. */
export class Fault extends Error {
  /** @param {{ kind: string, message: string, line?: number, column?: number }} fault */
  constructor({ kind, message, line, column }) {
    super(message);
    this.kind = kind;
    this.line = line;
    this.column = column;
  }
}

/** @typedef {{ resolve: (value: any) => void, reject: (fault: Fault) => void, line?: (line: any) => void, timer: number, limit: number }} Call */

class Engine {
  /** @type {Worker | undefined} */
  #worker;
  /** @type {Map<number, Call>} */
  #calls = new Map();
  #next = 0;
  /** @type {Promise<any> | undefined} */
  #opened;
  /** @type {Map<number, Promise<void>>} */
  #layers = new Map();
  /** @type {Map<string, { args: any[], resolve: (value: any) => void, reject: (error: any) => void } | null>} */
  #waiting = new Map();
  #useDevice = true;
  /** How long a call may take, in milliseconds. A driver for CPUs may compile for seconds. */
  limit = 30_000;
  /** Told of what went wrong and how it goes on. @type {(message: string) => void} */
  notice = () => {};

  /** What it computes on: starts it if need be. */
  about() {
    this.#opened ??= this.#open();
    return this.#opened;
  }

  /** Starts anew, with the device or without it. @param {boolean} device */
  async restart(device) {
    this.#useDevice = device;
    this.#stop(new Fault({ kind: "lost", message: "started anew" }));
    return this.about();
  }

  /** @returns {Promise<any>} */
  async #open() {
    this.#worker = new Worker(new URL("engine.worker.js", import.meta.url), { type: "module" });
    this.#worker.onmessage = ({ data }) => this.#heard(data);
    this.#worker.onerror = (event) => this.#broke(event.message || "the worker could not be loaded");
    try {
      return await this.#send("open", [this.#useDevice], this.limit);
    } catch (error) {
      if (!(error instanceof Fault) || error.kind !== "hang" || !this.#useDevice) throw error;
      this.#useDevice = false;
      this.notice("The device doesn't open. The page goes on with the CPU.");
      this.#opened = this.#open();
      return this.#opened;
    }
  }

  /** Calls a method; each line that it tells goes to `line`. @param {string} method @param {any[]} args */
  async call(method, args, { limit = this.limit, line = /** @type {((line: any) => void) | undefined} */ (undefined) } = {}) {
    await this.about();
    return this.#send(method, args, limit, line);
  }

  /** Calls a method with the newest arguments alone: calls that wait while others run are dropped, and give undefined.
   * @param {string} method @param {any[]} args */
  latest(method, args) {
    return new Promise((resolve, reject) => {
      const call = { args, resolve, reject };
      if (this.#waiting.has(method)) {
        this.#waiting.get(method)?.resolve(undefined);
        this.#waiting.set(method, call);
        return;
      }
      this.#waiting.set(method, null);
      const run = async (/** @type {typeof call} */ { args, resolve, reject }) => {
        try {
          resolve(await this.call(method, args));
        } catch (error) {
          reject(error);
        }
        const next = this.#waiting.get(method);
        if (next) {
          this.#waiting.set(method, null);
          run(next);
        } else {
          this.#waiting.delete(method);
        }
      };
      run(call);
    });
  }

  /** Loads a layer of the model, once. @param {number} layer */
  layer(layer) {
    const loaded = this.#layers.get(layer) ?? this.#load(layer);
    this.#layers.set(layer, loaded);
    return loaded;
  }

  /** @param {number} layer */
  async #load(layer) {
    const answer = await fetch(`data/minilm-layer${layer}.safetensors`);
    if (!answer.ok) {
      this.#layers.delete(layer);
      throw new Fault({ kind: "other", message: `the layer's file didn't load: ${answer.status}` });
    }
    await this.call("addLayer", [layer, await answer.arrayBuffer()]);
  }

  /** @param {string} method @param {any[]} args @param {number} limit @param {((line: any) => void)} [line] */
  #send(method, args, limit, line) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#calls.set(id, { resolve, reject, line, limit, timer: this.#timer(limit) });
      this.#worker?.postMessage({ id, method, args });
    });
  }

  /** @param {number} limit */
  #timer(limit) {
    return window.setTimeout(() => {
      const message = `There was no answer for ${limit / 1000} s, perhaps of a loop without an end, so the device was closed`;
      this.#stop(new Fault({ kind: "hang", message }));
    }, limit);
  }

  /** @param {any} data */
  #heard({ id, value, fault, line, broken }) {
    if (broken) return this.#broke(broken);
    const call = this.#calls.get(id);
    if (!call) return;
    clearTimeout(call.timer);
    if (line !== undefined) {
      // It lives.
      call.timer = this.#timer(call.limit);
      call.line?.(JSON.parse(line));
      return;
    }
    this.#calls.delete(id);
    if (!fault) return call.resolve(value);
    call.reject(new Fault(fault));
    if (fault.kind === "lost") this.#stop(new Fault(fault));
    if (fault.kind === "broken") this.#broke(fault.message);
  }

  /** @param {string} message */
  #broke(message) {
    this.#stop(new Fault({ kind: "broken", message }));
  }

  /** Ends the worker; the next call starts another one. @param {Fault} fault */
  #stop(fault) {
    this.#worker?.terminate();
    this.#worker = undefined;
    this.#opened = undefined;
    this.#layers.clear();
    const calls = [...this.#calls.values()];
    this.#calls.clear();
    for (const call of calls) {
      clearTimeout(call.timer);
      call.reject(fault);
    }
  }
}

export const engine = new Engine();
