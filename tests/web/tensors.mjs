// Reads a file of tensors and writes it again: tensors.mjs LIBRARY FILE OUT
// Then damages it in every way that one byte can, and wants each refused or read, and never a crash.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [library, file, out] = process.argv.slice(2);
const { DeviceError, readTensors, writeTensors } = await import(pathToFileURL(library).href);

const whole = new Uint8Array(readFileSync(file));
writeFileSync(out, writeTensors(readTensors(whole)));
// A file that lies in the midst of other memory, at an address that no number may have.
const around = new Uint8Array(whole.length + 6);
around.set(whole, 3);
assert.deepEqual(readTensors(around.subarray(3, 3 + whole.length)), readTensors(whole));

function tried(bytes) {
  try {
    return readTensors(bytes).size;
  } catch (error) {
    assert.ok(error instanceof DeviceError, `${error.stack}`);
    return -1;
  }
}

for (let end = 0; end < whole.length; end++) assert.equal(tried(whole.slice(0, end)), -1);
assert.equal(tried(new Uint8Array([...whole, 0])), -1);
for (let at = 0; at < whole.length; at++) {
  for (const other of [0, 0x22, 0x2d, 0x39, 0x5d, 0x7d, 0x7f, 0xff, whole[at] ^ 1, whole[at] ^ 16]) {
    const damaged = whole.slice();
    damaged[at] = other;
    tried(damaged);
  }
}

function described(table, numbers = 8) {
  const text = new TextEncoder().encode(typeof table === "string" ? table : JSON.stringify(table));
  const bytes = new Uint8Array(8 + text.length + numbers);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  return bytes;
}

const one = (change) => described({ a: { dtype: "F32", shape: [2], data_offsets: [0, 8], ...change } });
assert.equal(tried(one({})), 1);
const odd = [
  one({ dtype: "F8" }), one({ dtype: "__proto__" }), one({ dtype: null }), one({ shape: [-2] }), one({ shape: [2.5] }),
  one({ shape: [1e200, 1e200] }), one({ shape: "2" }), one({ shape: [3] }), one({ data_offsets: [0, 9] }),
  one({ data_offsets: [8, 0] }), one({ data_offsets: [-8, 0] }), one({ data_offsets: [4, 12] }), one({ data_offsets: [8] }),
  described("null"), described("[]"), described("7"), described("{"), described({ a: null }), described({ a: [] }),
  described({ a: { dtype: "U8", shape: [8], data_offsets: [0, 8] }, b: { dtype: "U8", shape: [8], data_offsets: [0, 8] } }),
  described({ a: { dtype: "U8", shape: [4], data_offsets: [0, 4] } }),
  described({ a: { dtype: "BOOL", shape: [8], data_offsets: [0, 8] } }).fill(7, -1),
];
for (const bytes of odd) assert.equal(tried(bytes), -1);
console.log("refused");
