/** What a caller gives as a tensor of the type that a graph takes. */

import { DeviceError } from "./errors.js";
import { TYPES, count } from "./tensors.js";

/** @typedef {import("./tensors.js").Tensor} Tensor */
/** @typedef {import("./tensors.js").Type} Type */
/** @typedef {{type?: string, dims: number[], data: any}} Loose */

const KINDS = ["truths", "whole numbers", "numbers"];

/**
 * A tensor of a type: of a tensor, of anything with `data` and `dims`, of an array of JavaScript, nested or
 * typed, or of one number. Whole numbers become floats, and nothing loses its fraction.
 *
 * @param {string} what What a message calls it.
 * @param {string} wanted The type.
 * @param {unknown} given
 * @returns {Tensor}
 * @throws {DeviceError} It is none of these, is ragged, or has another type or numbers that do not fit.
 */
export function tensorOf(what, wanted, given) {
  if (!Object.hasOwn(TYPES, wanted)) {
    throw new DeviceError(`${what} is ${wanted}, which is none of ${Object.keys(TYPES).join(", ")}.`);
  }
  const type = /** @type {Type} */ (wanted);
  const { type: said, dims, data } = loose(what, given);
  if (!dims.every((size) => Number.isSafeInteger(size) && size >= 0) || data?.length !== count(dims)) {
    throw new DeviceError(`${what} has the shape (${dims.join(", ")}), and ${data?.length} numbers are given.`);
  }
  const { holds, kind } = TYPES[type];
  const isReady = data instanceof holds && (said === type || said === undefined);
  const has = isReady ? kind : kindOf(what, said, data);
  if (has > kind) {
    throw new DeviceError(`${what} is ${type}, and ${said ?? KINDS[has]} is given.`);
  }
  if (type === "bool" && !isTruths(data)) throw new DeviceError(`${what} is bool, and has more than 0 and 1.`);
  return { type, dims: [...dims], data: isReady ? data : converted(what, type, data) };
}

/**
 * @param {string} what
 * @param {any} given
 * @returns {Loose}
 */
function loose(what, given) {
  if (["number", "bigint", "boolean"].includes(typeof given)) return { dims: [], data: [given] };
  if (isTyped(given)) return { dims: [given.length], data: given };
  if (Array.isArray(given)) return nested(what, given);
  if (Array.isArray(given?.dims) && (isTyped(given.data) || Array.isArray(given.data))) return given;
  throw new DeviceError(`${what} is a tensor, an array or {data, dims}, and ${typeof given} is given.`);
}

/** @param {unknown} given */
const isTyped = (given) => ArrayBuffer.isView(given) && !(given instanceof DataView);

/**
 * @param {string} what
 * @param {any[]} given
 * @returns {Loose}
 */
function nested(what, given) {
  const dims = [given.length];
  let data = given;
  while (data.length && data.every((each) => Array.isArray(each) || isTyped(each))) {
    const size = data[0].length;
    if (data.some((each) => each.length !== size)) throw new DeviceError(`${what} has rows of several lengths.`);
    dims.push(size);
    data = data.flatMap((each) => [...each]);
  }
  return { dims, data };
}

/**
 * @param {string} what
 * @param {string | undefined} said
 * @param {any} data
 * @returns {number} What kind of numbers these are, as in `TYPES`.
 */
function kindOf(what, said, data) {
  if (Array.isArray(data)) {
    const at = data.findIndex((each) => !["number", "bigint", "boolean"].includes(typeof each));
    if (at >= 0) throw new DeviceError(`${what} has ${typeof data[at]} in it.`);
  }
  if (said !== undefined && Object.hasOwn(TYPES, said)) return TYPES[/** @type {Type} */ (said)].kind;
  if (said !== undefined && !/^u?int\d+$/.test(said)) throw new DeviceError(`${what} is given as ${said}.`);
  if (data instanceof Float32Array || data instanceof Float64Array) return 2;
  if (!Array.isArray(data)) return 1;
  if (data.every((each) => typeof each === "boolean") && data.length) return 0;
  return data.every((each) => typeof each !== "number" || Number.isInteger(each)) ? 1 : 2;
}

/** @param {Iterable<unknown>} data */
const isTruths = (data) => [...data].every((each) => Number(each) === 0 || Number(each) === 1);

/**
 * @param {string} what
 * @param {Type} type
 * @param {any} data
 * @returns {import("./tensors.js").Data}
 */
function converted(what, type, data) {
  const { holds, kind } = TYPES[type];
  const found = new holds(data.length);
  for (let at = 0; at < data.length; at++) {
    const value = Number(data[at]);
    const isWhole = typeof data[at] === "bigint" || Number.isInteger(value);
    if (kind === 2 || isWhole) found[at] = holds === BigInt64Array ? BigInt(data[at]) : value;
    if (kind < 2 && (!isWhole || BigInt(data[at]) !== BigInt(found[at]))) {
      throw new DeviceError(`${what}: ${data[at]} is no ${type}.`);
    }
  }
  return found;
}
