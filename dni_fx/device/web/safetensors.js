/** Reads and writes safetensors: a table of JSON, and plain numbers behind it. */

import { DeviceError } from "./errors.js";
import { TYPES, count } from "./tensors.js";

/** @typedef {import("./tensors.js").Tensor} Tensor */
/** @typedef {{name: string, type: import("./tensors.js").Type, dims: number[], from: number, to: number}} Entry */

const LENGTH = 8;
const MOST_HEADER = 100_000_000;
const CODES = new Map(Object.entries(TYPES).map(([type, { code }]) => [code, type]));

/**
 * The tensors of a file by their names, each with memory of its own.
 *
 * @param {Uint8Array} bytes The whole file.
 * @param {string} [what] What a message calls it.
 * @returns {Map<string, Tensor>}
 * @throws {DeviceError} It is damaged, or has a type that is none of float32, float64, int64, int32, uint8
 *   and bool.
 */
export function readTensors(bytes, what = "the tensors") {
  const refuse = (/** @type {string} */ why) => new DeviceError(`cannot read ${what}: ${why}.`);
  const start = headerEnd(bytes, refuse);
  const entries = table(bytes.subarray(LENGTH, start), refuse);
  let end = 0;
  for (const entry of [...entries].sort((a, b) => a.from - b.from || a.to - b.to)) {
    if (entry.from !== end) throw refuse(`${entry.name} overlaps what is before it, or leaves a hole`);
    end = entry.to;
  }
  if (start + end !== bytes.length) {
    throw refuse(`its tensors end at byte ${start + end}, and it has ${bytes.length}`);
  }
  return new Map(
    entries.map(({ name, type, dims, from, to }) => {
      const { holds } = TYPES[type];
      // Not `bytes.slice`: that of a Buffer of Node is no copy.
      const data = new holds(Uint8Array.prototype.slice.call(bytes, start + from, start + to).buffer);
      if (type === "bool" && data.some((/** @type {number} */ each) => each > 1)) {
        throw refuse(`${name} has a truth that is neither 0 nor 1`);
      }
      return [name, { type, dims, data }];
    }),
  );
}

/**
 * A file of these tensors.
 *
 * @param {Iterable<[string, Tensor]>} tensors By their names.
 * @returns {Uint8Array}
 */
export function writeTensors(tensors) {
  // Wide numbers first: every tensor then begins at a multiple of what one of its numbers takes.
  const ordered = [...tensors].sort(([a, one], [b, other]) => width(other) - width(one) || (a < b ? -1 : 1));
  let end = 0;
  const entries = ordered.map(([name, { type, dims, data }]) => {
    const from = end;
    end += data.byteLength;
    return [name, { dtype: TYPES[type].code, shape: [...dims], data_offsets: [from, end] }];
  });
  const text = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)));
  const start = Math.ceil((LENGTH + text.length) / 8) * 8;
  const bytes = new Uint8Array(start + end).fill(0x20, LENGTH, start);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(start - LENGTH), true);
  bytes.set(text, LENGTH);
  end = start;
  for (const [, { data }] of ordered) {
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), end);
    end += data.byteLength;
  }
  return bytes;
}

/** @param {Tensor} tensor */
const width = (tensor) => TYPES[tensor.type].holds.BYTES_PER_ELEMENT;

/**
 * @param {Uint8Array} bytes
 * @param {(why: string) => DeviceError} refuse
 * @returns {number} Where numbers begin.
 */
function headerEnd(bytes, refuse) {
  if (bytes.length < LENGTH) throw refuse(`it has ${bytes.length} bytes`);
  const length = new DataView(bytes.buffer, bytes.byteOffset, LENGTH).getBigUint64(0, true);
  if (length > BigInt(Math.min(MOST_HEADER, bytes.length - LENGTH))) {
    throw refuse(`its table is said to have ${length} bytes, and it has ${bytes.length}`);
  }
  return LENGTH + Number(length);
}

/**
 * @param {Uint8Array} header
 * @param {(why: string) => DeviceError} refuse
 * @returns {Entry[]}
 */
function table(header, refuse) {
  let read;
  try {
    read = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(header));
  } catch {
    throw refuse("its table is no JSON");
  }
  if (read === null || typeof read !== "object" || Array.isArray(read)) throw refuse("its table is no table");
  return Object.entries(read)
    .filter(([name]) => name !== "__metadata__")
    .map(([name, said]) => entry(name, said, refuse));
}

/**
 * @param {string} name
 * @param {any} said
 * @param {(why: string) => DeviceError} refuse
 * @returns {Entry}
 */
function entry(name, said, refuse) {
  const type = /** @type {Entry["type"] | undefined} */ (CODES.get(said?.dtype));
  if (type === undefined) throw refuse(`${name} has the type ${JSON.stringify(said?.dtype)}`);
  const [dims, offsets] = [said.shape, said.data_offsets];
  if (!sizes(dims) || !sizes(offsets) || offsets.length !== 2 || offsets[0] > offsets[1]) {
    throw refuse(`${name} has no shape or no place`);
  }
  const wanted = count(dims) * TYPES[type].holds.BYTES_PER_ELEMENT;
  if (!Number.isSafeInteger(wanted) || offsets[1] - offsets[0] !== wanted) {
    throw refuse(`${name} has the shape (${dims.join(", ")}), and ${offsets[1] - offsets[0]} bytes`);
  }
  return { name, type, dims, from: offsets[0], to: offsets[1] };
}

/**
 * @param {unknown} given
 * @returns {given is number[]}
 */
function sizes(given) {
  return Array.isArray(given) && given.every((each) => Number.isSafeInteger(each) && each >= 0);
}
