/**
 * Trains in a browser or in Node, by onnxruntime-web and without PyTorch, what `onnx-training` has written.
 *
 *     import * as ort from "onnxruntime-web";
 *     import { open } from "./dni_fx.js";
 *
 *     const session = await open("digits", { ort });
 *     for (const [images, labels] of batches) await session.step({ x: images }, labels);
 *     const bytes = await session.save(); // safetensors, under the names that the PyTorch model knows
 *
 * In Node, which fetches no paths, a function reads the files of the folder:
 *
 *     import { readFileSync } from "node:fs";
 *
 *     const session = await open((name) => readFileSync(`digits/${name}`), { ort });
 */

import { DeviceError } from "./errors.js";
import { reader } from "./folder.js";
import { Graphs } from "./graphs.js";
import { NAME, graphs as graphsOf, readManifest } from "./manifest.js";
import { MODES, Session, modeError } from "./session.js";
import { Store } from "./store.js";

export { DeviceError } from "./errors.js";
export { readTensors, writeTensors } from "./safetensors.js";
export { Session } from "./session.js";

/**
 * The session of a folder. All of its files are read at once, so that no step breaks off for want of one.
 *
 * @param {string | URL | import("./folder.js").Read} folder The address of the folder, or a function that
 *   returns a file of it by name.
 * @param {object} [options]
 * @param {any} [options.ort] The module `onnxruntime-web`, which is imported by this name if it is not given.
 * @param {import("./session.js").Mode} [options.mode] `decoupled` unless asked.
 * @param {number} [options.rate] The learning rate, if it is not to be that of the folder.
 * @param {number} [options.seed] A whole number by which dropout and the like draw, 0 unless asked.
 * @param {object} [options.session] Options of the sessions of onnxruntime; they run on `wasm` unless asked.
 * @returns {Promise<Session>}
 * @throws {DeviceError} The folder is not whole, or was not written by `onnx-training`.
 */
export async function open(folder, { ort, mode = "decoupled", rate, seed = 0, session = {} } = {}) {
  if (!MODES.includes(mode)) throw modeError(mode);
  if (!Number.isSafeInteger(seed)) throw new DeviceError(`seed is a whole number, not ${seed}.`);
  const runtime = ort ?? (await import("onnxruntime-web"));
  const read = reader(folder);
  const manifest = readManifest(await read(NAME));
  const all = async (/** @type {string[]} */ names) =>
    new Map(await Promise.all(names.map(async (name) => /** @type {const} */ ([name, await read(name)]))));
  const store = new Store(await all(manifest.stages.map((stage) => stage.state)));
  const options = { executionProviders: ["wasm"], logSeverityLevel: 4, ...session };
  const graphs = new Graphs(runtime, await all([...graphsOf(manifest).keys()]), store, options);
  return new Session(manifest, store, graphs, { mode, rate: rate ?? manifest.rate, seed });
}
