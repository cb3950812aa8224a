// What the page of a sample does, without the page: drawings.mjs PACKAGES ADDRESS
// Learns strokes and rings of several sizes and places from the files that are served, and guesses others.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, address] = process.argv.slice(2);
const ort = createRequire(join(packages, "here.js"))("onnxruntime-web");
ort.env.wasm.numThreads = 1;

// Node imports no module from an address: what is served is put into a folder, and what it imports with it.
const known = new Set();
async function fetched(name, into) {
  known.add(name);
  const response = await fetch(`${address}/${name}`);
  assert.ok(response.ok && response.headers.get("content-type") === "text/javascript", name);
  const text = await response.text();
  const file = join(into, name.split("/").at(-1));
  await writeFile(file, text);
  for (const [, next] of text.matchAll(/from "\.\/(.*)"/g)) {
    const path = join(name, "..", next);
    if (!known.has(path)) await fetched(path, into);
  }
  return file;
}

const place = await mkdtemp(join(tmpdir(), "page-"));
await writeFile(join(place, "package.json"), '{"type": "module"}');
const imported = async (name) => import(pathToFileURL(await fetched(name, place)).href);
const { SIDE, Learner, shrunk } = await imported("drawings.js");
const { open } = await imported("dni_fx/dni_fx.js");

const WIDTH = 48;
function ink(digit, across, down, size) {
  return Uint8Array.from({ length: WIDTH * WIDTH }, (_, at) => {
    const [x, y] = [(at % WIDTH) - across, Math.floor(at / WIDTH) - down];
    const is = digit ? Math.abs(x) < 3 && Math.abs(y) < size : Math.abs(Math.hypot(x, y) - size) < 3;
    return is ? 255 : 0;
  });
}

// Where a drawing lies does not matter, its ink fills the square, and no ink is no number.
assert.deepEqual(shrunk(ink(0, 20, 20, 12), WIDTH), shrunk(ink(0, 27, 23, 12), WIDTH));
assert.deepEqual(shrunk(new Uint8Array(WIDTH * WIDTH), WIDTH), new Float32Array(SIDE * SIDE));
assert.deepEqual(shrunk(new Uint8Array(WIDTH * WIDTH).fill(255), WIDTH), new Float32Array(SIDE * SIDE).fill(1));

let state = 1;
const random = () => (state = (state * 48_271) % 2147483647) / 2147483647;
const learner = new Learner(await open(`${address}/model`, { ort }), random);
for (const size of [9, 12, 15]) {
  for (const digit of [0, 1]) await learner.learn(shrunk(ink(digit, 24, 24, size), WIDTH), digit);
}
for (const digit of [0, 1]) {
  const found = await learner.guess(shrunk(ink(digit, 22, 25, 13), WIDTH));
  assert.ok(Math.abs(found.reduce((sum, each) => sum + each) - 1) < 1e-6);
  console.log(found.indexOf(Math.max(...found)));
}
