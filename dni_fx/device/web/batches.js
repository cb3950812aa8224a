/** A batch as the graphs of a folder take it. */

import { tensorOf } from "./conversion.js";
import { DeviceError } from "./errors.js";

/** @typedef {import("./tensors.js").Tensor} Tensor */
/** @typedef {import("./manifest.js").Taken} Taken */
/** @typedef {Map<string, Tensor>} Named */

/**
 * Inputs, targets and context by the names of graphs, and how many samples there are.
 *
 * @param {import("./manifest.js").Manifest} manifest
 * @param {unknown} inputs What a caller gives.
 * @param {unknown} [targets] Likewise, if there are any.
 * @returns {{inputs: Named, targets: Named, context: Named, size: number}}
 * @throws {DeviceError} Something is missing, or has another type or shape than the model takes.
 */
export function batchOf(manifest, inputs, targets) {
  const found = taken("input", manifest.inputs, inputs);
  const aims = targets === undefined ? new Map() : taken("target", manifest.targets, targets);
  const context = new Map();
  if (manifest.labelsAsContext && aims.size) context.set("context", [...aims.values()][0]);
  const given = [...manifest.inputs, ...(aims.size ? manifest.targets : [])];
  return { inputs: found, targets: aims, context, size: sizeOf(given, new Map([...found, ...aims])) };
}

/**
 * @param {string} kind
 * @param {readonly Taken[]} wanted
 * @param {any} given
 * @returns {Named}
 */
function taken(kind, wanted, given) {
  const names = wanted.map((each) => each.name);
  const named = byName(kind, names, given);
  const list = `the model takes the ${kind}s ${names.join(", ")}`;
  const missing = names.filter((name) => !named.has(name));
  if (missing.length) throw new DeviceError(`${list}; missing: ${missing.join(", ")}.`);
  const odd = [...named.keys()].filter((name) => !names.includes(name));
  if (odd.length) throw new DeviceError(`${list}, and not ${odd.join(", ")}.`);
  return new Map(wanted.map((each) => [each.value, checked(kind, each, named.get(each.name))]));
}

/**
 * @param {string} kind
 * @param {readonly string[]} names
 * @param {any} given
 * @returns {Map<string, unknown>}
 */
function byName(kind, names, given) {
  if (given instanceof Map) return given;
  const isTable = typeof given === "object" && given !== null && Object.getPrototypeOf(given) === Object.prototype;
  if (isTable && !("data" in given && "dims" in given)) return new Map(Object.entries(given));
  const several = Array.isArray(given) && names.length > 1 ? given : [given];
  if (several.length !== names.length) {
    throw new DeviceError(`the model takes ${names.length} ${kind}s, and ${several.length} are given.`);
  }
  return new Map(names.map((name, at) => [name, several[at]]));
}

/**
 * @param {string} kind
 * @param {Taken} wanted
 * @param {unknown} given
 * @returns {Tensor}
 */
function checked(kind, wanted, given) {
  const tensor = tensorOf(`the ${kind} ${wanted.name}`, wanted.dtype, given);
  const fits =
    tensor.dims.length === wanted.shape.length &&
    wanted.shape.every((size, at) => typeof size === "string" || size === tensor.dims[at]);
  if (!fits) {
    const [shape, found] = [wanted.shape.join(", "), tensor.dims.join(", ")];
    throw new DeviceError(`the ${kind} ${wanted.name} has shape (${shape}), and (${found}) is given.`);
  }
  return tensor;
}

/**
 * @param {readonly Taken[]} wanted
 * @param {Named} found
 * @returns {number} How many samples there are; sizes of one name are the same in all of a batch.
 */
function sizeOf(wanted, found) {
  /** @type {Map<string, Map<string, number>>} */
  const told = new Map();
  for (const { name, value, shape } of wanted) {
    for (const [at, size] of shape.entries()) {
      if (typeof size === "string") {
        told.set(size, (told.get(size) ?? new Map()).set(name, found.get(value)?.dims[at] ?? 1));
      }
    }
  }
  for (const [size, sizes] of told) {
    if (new Set(sizes.values()).size > 1) {
      const said = [...sizes].map(([name, each]) => `${name} has ${each}`).join(", ");
      throw new DeviceError(`the size ${size} is the same in all of a batch: ${said}.`);
    }
  }
  const [first] = told.values();
  const [size] = first?.values() ?? [[...found.values()].find((tensor) => tensor.dims.length)?.dims[0] ?? 1];
  if (!size) throw new DeviceError("a batch has one sample at least, and this one has none.");
  return size;
}
