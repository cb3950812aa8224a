// What a session promises beside its numbers: session.mjs PACKAGES LIBRARY FOLDER

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, library, folder] = process.argv.slice(2);
const ort = createRequire(join(packages, "here.js"))("onnxruntime-web");
ort.env.wasm.numThreads = 1;
const { DeviceError, open, readTensors, writeTensors } = await import(pathToFileURL(library).href);

const read = (name) => readFileSync(join(folder, name));
const refused = (work, message) =>
  assert.rejects(work, (error) => error instanceof DeviceError && message.test(error.message) || assert.fail(error));
const row = [1, 2, 3, 4, 5, 6];
const [x, y] = [[row, row.map((each) => -each / 3), row], [0, 1, 2]];

// A tensor of onnxruntime, an array, and data with a shape are the same batch.
const flat = { data: Float64Array.from(x.flat()), dims: [3, 6] };
const tensor = new ort.Tensor("float32", Float32Array.from(x.flat()), [3, 6]);
const [one, other, third] = await Promise.all([1, 2, 3].map(() => open(read, { ort })));
const loss = await one.step(x, y);
assert.equal(loss, await other.step({ x: flat }, { target: Int32Array.from(y) }));
assert.equal(loss, await third.step(new Map([["x", tensor]]), [BigInt64Array.from(y.map(BigInt))][0]));
assert.ok(Number.isFinite(loss));

// Calls that nobody waits for take their turns.
const losses = await Promise.all([one.step(x, y), one.step(x, y), one.step(x, y)]);
assert.deepEqual(losses, [await other.step(x, y), await other.step(x, y), await other.step(x, y)]);
assert.deepEqual(await one.save(), await other.save());
assert.equal(one.steps, 4);

// What is no batch is refused and changes nothing.
const before = await one.save();
for (const [inputs, targets, message] of [
  [[[1, 2]], [0], /shape \(batch, 6\), and \(1, 2\)/], [[[1, 2], [3]], [0, 1], /rows of several lengths/],
  [{ z: x }, y, /missing: x/], [{ x, z: x }, y, /not z/], [x, [0.5, 1, 2], /is int64, and numbers/],
  [x, undefined, /missing: target/], [null, y, /is given/], ["x", y, /is given/], [[["a"]], y, /string in it/],
  [{ data: new Float32Array(5), dims: [1, 6] }, [0], /5 numbers/], [{ data: row, dims: [-1, -6] }, [0], /6 numbers/],
  [{ x: { type: "int64", data: new BigInt64Array(6), dims: [1, 6] } }, { target: [1n << 70n] }, /is no int64/],
  [{ type: "float32", data: ["a", 2, 3, 4, 5, 6], dims: [1, 6] }, [0], /string in it/],
  [{ type: "float16", data: new Uint16Array(6), dims: [1, 6] }, [0], /given as float16/],
  [[row], { type: "int64", data: [0.5], dims: [1] }, /0.5 is no int64/],
  [x, [0, 1], /x has 3, target has 2/], [{ data: new Float32Array(0), dims: [0, 6] }, [], /one sample at least/],
]) {
  await refused(one.step(inputs, targets), message);
}
assert.deepEqual(await one.save(), before);
assert.equal(one.steps, 4);
await refused((await open(read, { ort })).step(x, [0, -1, 2]), /loss.onnx.*stages that had taken theirs stay moved/s);
await refused(one.evaluate([]), /no batch/);

// Weights of a file are taken whole or not at all.
const held = readTensors(before);
const first = "first.weight";
const last = [...held.keys()].at(-1);
const less = writeTensors([...held].filter(([name]) => name !== last));
const zeros = [...held].map(([name, each]) => [name, { ...each, data: new each.data.constructor(each.data.length) }]);
const wrong = zeros.map(([name, each]) => (name === last ? [name, { type: "uint8", dims: [], data: Uint8Array.of(1) }] : [name, each]));
await refused(one.load(less), /has no .*is it of another model/);
await refused(one.load(writeTensors(wrong)), /is to take its place/);
await refused(one.load(before.slice(0, -1)), /cannot read the weights/);
assert.deepEqual(await one.save(), before);
await one.load(writeTensors([...zeros, ["of no use", held.get(first)]]));
assert.ok((await one.weights()).get(first).data.every((each) => each === 0));
await one.load(before);
assert.deepEqual(await one.save(), before);

// What was flushed goes on as if there had been no break.
const files = new Map();
await one.flush((name, bytes) => void files.set(name, bytes));
const again = await open((name) => files.get(name) ?? read(name), { ort });
assert.equal(await again.step(x, y), await one.step(x, y));
assert.deepEqual(await again.save(), await one.save());

// Another seed drops other values out, and a rate of nothing moves nothing.
const still = await open(read, { ort, rate: 0, mode: "exact", seed: -7 });
const start = (await still.weights()).get(first).data.slice();
assert.notEqual(await still.step(x, y), loss);
assert.deepEqual((await still.weights()).get(first).data, start);

// A worker keeps the memory of what it is sent.
const worker = {
  Tensor: ort.Tensor,
  env: { wasm: { proxy: true } },
  InferenceSession: {
    async create(...given) {
      const session = await ort.InferenceSession.create(...given);
      const run = async (feeds, names) => {
        const found = await session.run(feeds, names);
        for (const { data } of Object.values(feeds)) structuredClone(data.buffer, { transfer: [data.buffer] });
        return found;
      };
      return { run, release: () => session.release() };
    },
  },
};
const sent = await open(read, { ort: worker });
assert.equal(await sent.step(x, y), loss);
assert.deepEqual([await sent.step(x, y), await sent.step(x, y)], losses.slice(0, 2));

// A folder that is not whole or not ours.
const manifest = JSON.parse(read("training.json"));
const described = (change) => {
  const text = typeof change === "string" ? change : JSON.stringify({ ...manifest, ...change });
  return (name) => (name === "training.json" ? new TextEncoder().encode(text) : read(name));
};
for (const [change, message] of [
  ["{", /not what dni_fx writes/], ["null", /not what dni_fx writes/], [{ format: "other" }, /its format is/],
  [{ version: 99 }, /newer/], [{ version: 1 }, /older/], [{ stages: 3 }, /is no list/], [{ loss: { ...manifest.loss, file: "../x" } }, /no file of the folder/],
  [{ loss: { ...manifest.loss, file: "x.onnx" } }, /there is no graph "loss.onnx"/],
  [{ stages: [{ ...manifest.stages[0], state: "x.safetensors" }] }, /cannot read x.safetensors|there is no graph/],
]) {
  await refused(open(described(change), { ort }), message);
}
await refused(open("http://127.0.0.1:9", { ort }), /cannot read training.json/);
await refused(open(folder, { ort }), /no address to fetch from: give a function/);
await refused(open(pathToFileURL(folder), { ort }), /no address to fetch from: give a function/);
await refused(open(read, { ort, mode: "backward" }), /mode is decoupled or exact/);
await refused(open(read, { ort, seed: 0.5 }), /whole number/);
const damaged = await open((name) => (name.endsWith(".onnx") ? read(name).subarray(9) : read(name)), { ort });
await refused(damaged.step(x, y), /cannot read .*\.onnx/);
await again.close();
await again.close();
await refused(again.step(x, y), /is closed/);
console.log("kept");
