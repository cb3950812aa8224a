/** What a folder of training graphs holds: its `training.json`, as `dni_fx.device.manifest` tells it. */

import { DeviceError, told } from "./errors.js";

/**
 * @typedef {{file: string, inputs: string[], outputs: string[]}} Graph
 * @typedef {{name: string, value: string, dtype: string, shape: (number | string)[]}} Taken
 * @typedef {{stage: number, state: string, forward: Graph, backward: Graph, step: Graph | null,
 *   evaluate: Graph}} Stage
 * @typedef {{name: string, values: string[], producer: number, consumers: number[], warmup: number,
 *   guess: Graph | null, learn: Graph | null}} Boundary
 * @typedef {{graph: Graph, reads: Map<string, string>,  zeros: Map<string, string>,
 *   keeps: Map<string, string>, drops: string[]}} Order
 * @typedef {{slots: string[], rate: number, labelsAsContext: boolean, inputs: Taken[], targets: Taken[],
 *   outputs: string[], predictions: string[], stages: Stage[], boundaries: Boundary[], loss: Graph,
 *   shared: {graph: Graph, names: string[]} | null}} Contents
 * @typedef {Contents & {orders: Record<"decoupled" | "exact" | "evaluate", Order[]>}} Manifest
 */

export const NAME = "training.json";
const FORMAT = "dni_fx.onnx-training";
const VERSION = 3;

/**
 * What a folder holds.
 *
 * @param {Uint8Array} bytes Its `training.json`.
 * @returns {Manifest}
 * @throws {DeviceError} It is damaged, of another version than this one, or names files outside of the folder.
 */
export function readManifest(bytes) {
  let read;
  try {
    read = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    if (read.format !== FORMAT) throw new Error(`its format is ${JSON.stringify(read.format)}, not ${FORMAT}`);
  } catch (error) {
    throw damaged(error);
  }
  if (number(read.version) > VERSION) {
    throw new DeviceError(`cannot read ${NAME}: a newer dni_fx has written it. Take the .js files of that one.`);
  }
  if (read.version < VERSION) {
    throw new DeviceError(`cannot read ${NAME}: an older dni_fx has written it. Write it again.`);
  }
  try {
    return manifest(read);
  } catch (error) {
    throw damaged(error);
  }
}

/**
 * All graphs, by the names of their files.
 *
 * @param {Contents} contents
 * @returns {Map<string, Graph>}
 */
export function graphs(contents) {
  /** @type {(Graph | null | undefined)[]} */
  const found = [contents.loss, contents.shared?.graph];
  for (const each of contents.stages) found.push(each.forward, each.backward, each.step, each.evaluate);
  for (const each of contents.boundaries) found.push(each.guess, each.learn);
  return new Map(found.flatMap((graph) => (graph ? [[graph.file, graph]] : [])));
}

/** @param {unknown} error */
const damaged = (error) =>
  new DeviceError(`cannot read ${NAME}: it is not what dni_fx writes there (${told(error)}).`);

/**
 * @param {any} read
 * @returns {Manifest}
 */
function manifest(read) {
  /** @type {Contents} */
  const contents = {
    slots: list(read.slots, text),
    rate: number(read.rate),
    labelsAsContext: Boolean(read.labels_as_context),
    inputs: list(read.inputs, taken),
    targets: list(read.targets, taken),
    outputs: list(read.outputs, text),
    predictions: list(read.predictions, text),
    stages: list(read.stages, stage),
    boundaries: list(read.boundaries, boundary),
    loss: graph(read.loss),
    shared: read.shared === null ? null : { graph: graph(read.shared.graph), names: list(read.shared.names, text) },
  };
  const known = graphs(contents);
  const orders = (/** @type {unknown} */ each) => list(each, (one) => order(one, known));
  const { decoupled, exact, evaluate } = read.orders;
  return {
    ...contents,
    orders: { decoupled: orders(decoupled), exact: orders(exact), evaluate: orders(evaluate) },
  };
}

/**
 * @param {any} read
 * @param {ReadonlyMap<string, Graph>} known
 * @returns {Order}
 */
function order(read, known) {
  const named = known.get(read.graph);
  if (named === undefined) throw new Error(`there is no graph ${shown(read.graph)}`);
  const [reads, zeros, keeps] = [read.reads, read.zeros, read.keeps].map(names);
  return { graph: named, reads, zeros, keeps, drops: list(read.drops, text) };
}

/**
 * @param {any} read
 * @returns {Map<string, string>}
 */
const names = (read) => new Map(Object.entries(read).map(([name, other]) => [name, text(other)]));

/**
 * @param {any} read
 * @returns {Taken}
 */
function taken(read) {
  const size = (/** @type {unknown} */ each) => (typeof each === "number" ? each : text(each));
  return { name: text(read.name), value: text(read.value), dtype: text(read.dtype), shape: list(read.shape, size) };
}

/**
 * @param {any} read
 * @returns {Stage}
 */
function stage(read) {
  return {
    stage: number(read.stage),
    state: file(read.state),
    forward: graph(read.forward),
    backward: graph(read.backward),
    step: graphIfAny(read.step),
    evaluate: graph(read.evaluate),
  };
}

/**
 * @param {any} read
 * @returns {Boundary}
 */
function boundary(read) {
  return {
    name: text(read.name),
    values: list(read.values, text),
    producer: number(read.producer),
    consumers: list(read.consumers, number),
    warmup: number(read.warmup),
    guess: graphIfAny(read.guess),
    learn: graphIfAny(read.learn),
  };
}

/**
 * @param {any} read
 * @returns {Graph}
 */
function graph(read) {
  return { file: file(read.file), inputs: list(read.inputs, text), outputs: list(read.outputs, text) };
}

/** @param {any} read */
const graphIfAny = (read) => (read === null ? null : graph(read));

/**
 * @template T
 * @param {unknown} read
 * @param {(each: any) => T} item
 * @returns {T[]}
 */
function list(read, item) {
  if (!Array.isArray(read)) throw new Error(`${shown(read)} is no list`);
  return read.map((each) => item(each));
}

/**
 * @param {unknown} read
 * @returns {string}
 */
function text(read) {
  if (typeof read !== "string") throw new Error(`${shown(read)} is no text`);
  return read;
}

/**
 * @param {unknown} read
 * @returns {string}
 */
function file(read) {
  const name = text(read);
  if (!/^[^/\\]+$/.test(name) || name === "." || name === "..") {
    throw new DeviceError(`refused to read ${NAME}: ${shown(name)} is no file of the folder.`);
  }
  return name;
}

/**
 * @param {unknown} read
 * @returns {number}
 */
function number(read) {
  if (typeof read !== "number") throw new Error(`${shown(read)} is no number`);
  return read;
}

/** @param {unknown} read */
const shown = (read) => String(JSON.stringify(read)).slice(0, 80);
