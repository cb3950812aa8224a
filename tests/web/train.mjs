// Trains a folder in both modes on the batches of a file: train.mjs PACKAGES LIBRARY FOLDER OUT
// FOLDER is a path, or an address. Prints what came of it as JSON; weights go to OUT/MODE.safetensors.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, library, folder, out] = process.argv.slice(2);
const ort = createRequire(join(packages, "here.js"))("onnxruntime-web");
ort.env.wasm.numThreads = 1;
const { open, readTensors } = await import(pathToFileURL(library).href);

const given = readTensors(readFileSync(join(out, "batches.safetensors")));
const batches = [];
for (let at = 0; given.has(`x${at}`); at++) batches.push([given.get(`x${at}`), given.get(`y${at}`)]);
const source = folder.startsWith("http") ? folder : (name) => readFileSync(join(folder, name));

const found = {};
for (const mode of ["decoupled", "exact"]) {
  const session = await open(source, { ort, mode, seed: 3 });
  const losses = [];
  for (const [x, y] of batches) losses.push(await session.step({ x }, y));
  const outputs = (await session.predict(batches[0][0])).map(({ dims, data }) => ({ dims, data: [...data].map(String) }));
  writeFileSync(join(out, `${mode}.safetensors`), await session.save());
  found[mode] = { losses, outputs, score: await session.evaluate(batches), steps: session.steps };
  await session.close();
}
console.log(JSON.stringify(found));
