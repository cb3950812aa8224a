// Trains a folder on the batches of a file, and prints the error in percent: digits.mjs PACKAGES LIBRARY FOLDER DATA MODE

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, library, folder, data, mode] = process.argv.slice(2);
const ort = createRequire(join(packages, "here.js"))("onnxruntime-web");
const { open, readTensors } = await import(pathToFileURL(library).href);

const known = readTensors(readFileSync(data));
const session = await open((name) => readFileSync(join(folder, name)), { ort, mode });
for (const [x, y] of pairs("x", "y")) await session.step(x, y);
const { accuracy } = await session.evaluate(pairs("held_x", "held_y"));
console.log(100 * (1 - accuracy));

/** Pairs of what two tensors hold along their first dimension. */
function* pairs(...names) {
  const [x, y] = names.map((name) => known.get(name));
  for (let at = 0; at < x.dims[0]; at++) yield [part(x, at), part(y, at)];
}

function part({ type, dims, data }, at) {
  const size = data.length / dims[0];
  return { type, dims: dims.slice(1), data: data.subarray(at * size, (at + 1) * size) };
}
