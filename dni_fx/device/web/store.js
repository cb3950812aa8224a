/** The weights and all else that stages keep. */

import { DeviceError } from "./errors.js";
import { readTensors, writeTensors } from "./safetensors.js";
import { alike, bare, described } from "./tensors.js";

/** @typedef {import("./tensors.js").Tensor} Tensor */

/** The tensors of all stages by the names that graphs know them by; each remembers the file that it is of. */
export class Store {
  /** @param {Iterable<[string, Uint8Array]>} files What is in the file of each stage. */
  constructor(files) {
    /** @type {Map<string, Map<string, Tensor>>} */
    this.held = new Map();
    /** @type {Map<string, Map<string, Tensor>>} */
    this.homes = new Map();
    /** @type {Set<string>} */
    this.changed = new Set();
    for (const [file, bytes] of files) {
      const tensors = readTensors(bytes, file);
      this.held.set(file, tensors);
      for (const name of tensors.keys()) this.homes.set(name, tensors);
    }
  }

  /** @returns {IterableIterator<string>} */
  names() {
    return this.homes.keys();
  }

  /**
   * @param {string} name
   * @returns {boolean}
   */
  has(name) {
    return this.homes.has(name);
  }

  /**
   * @param {string} name
   * @returns {Tensor}
   * @throws {DeviceError} It is not there.
   */
  get(name) {
    const found = this.homes.get(name)?.get(name);
    if (found === undefined) throw new DeviceError(`a graph wants ${name}, which no file of the folder has.`);
    return found;
  }

  /**
   * @param {string} name
   * @param {Tensor} value
   * @throws {DeviceError} It has another type or shape than what it is to replace.
   */
  set(name, value) {
    this.check(name, value);
    this.homes.get(name)?.set(name, bare(value));
    for (const [file, tensors] of this.held) if (tensors.has(name)) this.changed.add(file);
  }

  /**
   * Do nothing if a tensor may take this place.
   *
   * @param {string} name
   * @param {Tensor} value
   * @throws {DeviceError} It has another type or shape than what is there.
   */
  check(name, value) {
    const held = this.get(name);
    if (held.type !== value.type || !alike(held.dims, value.dims)) {
      throw new DeviceError(`${name} is ${described(held)}, and ${described(value)} is to take its place.`);
    }
  }

  /**
   * Hand every file that has changed to `write`, which may be asynchronous.
   *
   * @param {(name: string, bytes: Uint8Array) => unknown} write
   */
  async flush(write) {
    for (const file of [...this.changed].sort()) {
      await write(file, writeTensors(this.held.get(file) ?? []));
      this.changed.delete(file);
    }
  }
}
