/** Follows the orders of a step: one graph after another, on tensors by name. */

import { DeviceError } from "./errors.js";
import { BUFFER, NEW } from "./graphs.js";
import { nothing, sum } from "./tensors.js";

/** @typedef {import("./tensors.js").Tensor} Tensor */
/** @typedef {import("./manifest.js").Order} Order */
/** @typedef {import("./graphs.js").Graphs} Graphs */
/** @typedef {Map<string, Tensor>} Named */

/**
 * What is left when all orders are done, of what was given and of what graphs have written. Buffers are kept in the
 * store at the end, since what runs a stage again has to see them as they were.
 *
 * @param {readonly Order[]} orders
 * @param {Graphs} graphs
 * @param {ReadonlyMap<string, Tensor>} given
 * @returns {Promise<Named>}
 * @throws {DeviceError} A graph cannot be read, or does not run, or wants what nobody gives.
 */
export async function follow(orders, graphs, given) {
  const values = new Map(given);
  /** @type {Named} */
  const buffers = new Map();
  for (const order of orders) await obey(order, graphs, values, buffers);
  for (const [name, each] of buffers) graphs.store.set(name, each);
  return values;
}

/**
 * Run one graph, whose results come among the values.
 *
 * @param {Order} order
 * @param {Graphs} graphs
 * @param {Named} values
 * @param {Named} buffers
 */
async function obey(order, graphs, values, buffers) {
  const more = [
    ...[...order.reads].map(([name, other]) => /** @type {const} */ ([name, one(values, other)])),
    ...[...order.zeros].map(([name, other]) => /** @type {const} */ ([name, nothing(one(values, other))])),
  ];
  for (const [name, each] of await graphs.run(order.graph, new Map([...values, ...more]))) {
    const before = values.get(name);
    const kept = order.keeps.get(name);
    if (kept !== undefined) values.set(kept, each);
    if (name.startsWith(BUFFER)) buffers.set(name.slice(NEW.length), each);
    else if (before !== undefined && /^gp?:/.test(name)) values.set(name, sum(before, each));
    else values.set(name, each);
  }
  for (const name of order.drops) values.delete(name);
}

/**
 * @param {Named} values
 * @param {string} name
 * @returns {Tensor}
 */
function one(values, name) {
  const found = values.get(name);
  if (found === undefined) throw new DeviceError(`the folder is damaged: its orders want ${name}, which nobody gives.`);
  return found;
}
