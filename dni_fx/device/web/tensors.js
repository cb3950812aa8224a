/** Arrays of numbers with a type and a shape, in the form that onnxruntime-web has for them. */

import { DeviceError } from "./errors.js";

/**
 * @typedef {"float32" | "float64" | "int64" | "int32" | "uint8" | "bool"} Type
 * @typedef {Float32Array | Float64Array | BigInt64Array | Int32Array | Uint8Array} Data
 * @typedef {{type: Type, dims: readonly number[], data: Data}} Tensor As `Tensor` of onnxruntime-web has them.
 */

/**
 * What holds the numbers of a type, whether they are truths (0), whole numbers (1) or any (2), and what
 * safetensors calls the type.
 *
 * @type {Readonly<Record<Type, {holds: any, kind: number, code: string}>>}
 */
export const TYPES = Object.freeze({
  float32: { holds: Float32Array, kind: 2, code: "F32" },
  float64: { holds: Float64Array, kind: 2, code: "F64" },
  int64: { holds: BigInt64Array, kind: 1, code: "I64" },
  int32: { holds: Int32Array, kind: 1, code: "I32" },
  uint8: { holds: Uint8Array, kind: 1, code: "U8" },
  bool: { holds: Uint8Array, kind: 0, code: "BOOL" },
});

/**
 * A tensor without dimensions.
 *
 * @param {Type} type
 * @param {number | bigint} value
 * @returns {Tensor}
 */
export function scalar(type, value) {
  return { type, dims: [], data: TYPES[type].holds.of(value) };
}

/**
 * How many numbers a shape has.
 *
 * @param {readonly number[]} dims
 * @returns {number}
 */
export function count(dims) {
  return dims.reduce((all, size) => all * size, 1);
}

/**
 * The sum of two tensors of the same type and shape.
 *
 * @param {Tensor} one
 * @param {Tensor} other
 * @returns {Tensor}
 */
export function sum(one, other) {
  if (one.type !== other.type || !alike(one.dims, other.dims)) {
    throw new DeviceError(`cannot add ${described(other)} to ${described(one)}.`);
  }
  return { ...bare(one), data: mapped(one, (value, at) => value + other.data[at]) };
}

/**
 * A tensor times 0: what is not finite stays seen.
 *
 * @param {Tensor} tensor
 * @returns {Tensor}
 */
export function nothing(tensor) {
  const zero = /** @type {any} */ (tensor.data instanceof BigInt64Array ? 0n : 0);
  return { ...bare(tensor), data: mapped(tensor, (value) => value * zero) };
}

/**
 * Whether two shapes are equal.
 *
 * @param {readonly number[]} one
 * @param {readonly number[]} other
 * @returns {boolean}
 */
export function alike(one, other) {
  return one.length === other.length && one.every((size, at) => size === other[at]);
}

/**
 * Type and shape of a tensor, for messages.
 *
 * @param {{type?: string, dims: readonly number[]}} tensor
 * @returns {string}
 */
export function described(tensor) {
  return `${tensor.type ?? "an array"} of shape (${tensor.dims.join(", ")})`;
}

/**
 * Type, shape and numbers of a tensor, and nothing else of what may be around them.
 *
 * @param {Tensor} tensor
 * @returns {Tensor}
 */
export function bare({ type, dims, data }) {
  return { type, dims, data };
}

/**
 * @param {Tensor} tensor
 * @param {(value: any, at: number) => any} change
 * @returns {Data}
 */
function mapped(tensor, change) {
  return /** @type {any} */ (tensor.data).map(change);
}
