/** Runs the graphs of a folder on tensors by name. */

import { DeviceError, told } from "./errors.js";
import { bare } from "./tensors.js";

/** @typedef {import("./tensors.js").Tensor} Tensor */
/** @typedef {import("./manifest.js").Graph} Graph */

export const NEW = "new:";
export const BUFFER = "new:b:";

/** Sessions of onnxruntime, each opened when its graph first runs. */
export class Graphs {
  /**
   * @param {any} ort The module `onnxruntime-web`.
   * @param {Map<string, Uint8Array>} files The graphs by the names of their files; each is let go of when opened.
   * @param {import("./store.js").Store} store
   * @param {object} options Of a session of onnxruntime.
   */
  constructor(ort, files, store, options) {
    this.ort = ort;
    this.files = files;
    this.store = store;
    this.options = options;
    /** @type {Map<string, any>} */
    this.opened = new Map();
  }

  /**
   * What a graph returns of what is given and of what the store has. What it returns as new is put into
   * the store, but for buffers, which the caller puts there in time.
   *
   * @param {Graph} graph
   * @param {ReadonlyMap<string, Tensor>} given
   * @returns {Promise<Map<string, Tensor>>}
   * @throws {DeviceError} It cannot be read, or does not run.
   */
  async run(graph, given) {
    const wanted = graph.inputs.map((name) => /** @type {const} */ ([name, given.get(name) ?? this.store.get(name)]));
    const session = await this.session(graph.file);
    let found;
    try {
      const feeds = Object.fromEntries(wanted.map(([name, each]) => [name, this.fed(each)]));
      found = await session.run(feeds, graph.outputs);
    } catch (error) {
      throw new DeviceError(`cannot run ${graph.file}: ${told(error)}`, { cause: error });
    }
    /** @type {Map<string, Tensor>} */
    const returned = new Map();
    for (const name of graph.outputs) {
      if (name.startsWith(NEW) && !name.startsWith(BUFFER)) {
        this.store.set(name.slice(NEW.length), found[name]);
      } else {
        returned.set(name, bare(found[name]));
      }
    }
    return returned;
  }

  /** Let go of every session. */
  async close() {
    const sessions = [...this.opened.values()];
    this.opened.clear();
    this.files.clear();
    for (const each of sessions) await each.release();
  }

  /**
   * @param {Tensor} tensor
   * @returns {any}
   */
  fed({ type, data, dims }) {
    // A worker takes over the memory that it is sent, and here it is wanted again.
    return new this.ort.Tensor(type, this.ort.env?.wasm?.proxy ? data.slice() : data, dims);
  }

  /**
   * @param {string} file
   * @returns {Promise<any>}
   */
  async session(file) {
    const known = this.opened.get(file);
    if (known !== undefined) return known;
    const bytes = this.files.get(file);
    if (bytes === undefined) throw new DeviceError(`cannot run ${file}: the session is closed.`);
    let opened;
    try {
      opened = await this.ort.InferenceSession.create(bytes, this.options);
    } catch (error) {
      throw new DeviceError(`cannot read ${file}: ${told(error)}`, { cause: error });
    }
    this.files.delete(file);
    this.opened.set(file, opened);
    return opened;
  }
}
