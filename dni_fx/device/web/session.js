/** A model that is trained on a device, batch after batch. */

import { batchOf } from "./batches.js";
import { DeviceError } from "./errors.js";
import { follow } from "./orders.js";
import { readTensors, writeTensors } from "./safetensors.js";
import { hits } from "./scores.js";
import { scalar } from "./tensors.js";

/** @typedef {import("./tensors.js").Tensor} Tensor */
/** @typedef {"decoupled" | "exact"} Mode */

export const MODES = ["decoupled", "exact"];
const WEIGHTS = ["p:", "b:"];
const PRIME = 2n ** 31n - 1n;

/**
 * The model of a folder that `onnx-training` has written, and its training. `open` makes one.
 *
 * In the mode `decoupled` each stage takes its step as soon as it has run; in `exact` true gradients go up from
 * stage to stage, and a step is one of plain backpropagation. In both, one stage is at work at a time, and a
 * method that is called while another is at work waits for its turn.
 *
 * Inputs are an object of tensors by name, or one tensor for a model with one input, or an array of them for a
 * model with several; targets likewise. A tensor is one of onnxruntime-web, or `{data, dims}`, or an array of
 * numbers, nested or typed.
 */
export class Session {
  /**
   * @param {import("./manifest.js").Manifest} manifest
   * @param {import("./store.js").Store} store
   * @param {import("./graphs.js").Graphs} graphs
   * @param {{mode: Mode, rate: number, seed: number}} options
   */
  constructor(manifest, store, graphs, { mode, rate, seed }) {
    this.manifest = manifest;
    this.store = store;
    this.graphs = graphs;
    /** `decoupled` or `exact`; what is put here counts from the next step on. */
    this.mode = mode;
    /** The learning rate; likewise. */
    this.rate = rate;
    this.seed = seed;
    /** @type {Promise<unknown>} */
    this.last = Promise.resolve();
  }

  /** How many steps the model has been trained for. */
  get steps() {
    return Number(this.store.get("steps").data[0]);
  }

  /**
   * Train on one batch.
   *
   * @param {unknown} inputs
   * @param {unknown} targets
   * @returns {Promise<number>} Its loss.
   * @throws {DeviceError} The batch is not what the model takes.
   */
  step(inputs, targets) {
    return this.inTurn(async () => {
      if (!MODES.includes(this.mode)) throw modeError(this.mode);
      const batch = batchOf(this.manifest, inputs, targets ?? {});
      const number = this.steps + 1;
      const numbers = this.numbers(number, batch.size);
      const given = new Map([...numbers, ...batch.inputs, ...batch.targets, ...batch.context]);
      const orders = this.manifest.orders[this.warmsUp() ? "exact" : this.mode];
      const left = await follow(orders, this.graphs, given).catch(halfway);
      this.store.set("steps", scalar("int64", BigInt(number)));
      return Number(left.get("loss")?.data[0]);
    });
  }

  /**
   * The outputs of the model in eval mode, in its order.
   *
   * @param {unknown} inputs
   * @returns {Promise<Tensor[]>}
   * @throws {DeviceError} The inputs are not what the model takes.
   */
  predict(inputs) {
    return this.inTurn(() => this.predicted(batchOf(this.manifest, inputs).inputs));
  }

  /**
   * The mean loss over batches in eval mode and, where targets are classes, the part that is right.
   *
   * @param {Iterable<[unknown, unknown]> | AsyncIterable<[unknown, unknown]>} batches Inputs and targets.
   * @returns {Promise<{loss: number, accuracy?: number}>}
   * @throws {DeviceError} As `predict`; or there is no batch.
   */
  async evaluate(batches) {
    let [loss, total, right, seen] = [0, 0, 0, 0];
    if (this.manifest.outputs.length !== this.manifest.predictions.length) {
      const said = "the loss is of what the model returns in train mode, and in eval mode it returns something else.";
      throw new DeviceError(`${said} "predict" tells what.`);
    }
    for await (const [inputs, targets] of batches) {
      await this.inTurn(async () => {
        const batch = batchOf(this.manifest, inputs, targets ?? {});
        const found = await this.predicted(batch.inputs);
        const given = new Map(this.manifest.outputs.map((name, at) => [name, found[at]]));
        const judged = await this.graphs.run(this.manifest.loss, new Map([...given, ...batch.targets]));
        loss += Number(judged.get("loss")?.data[0]) * batch.size;
        total += batch.size;
        const counted = batch.targets.size === 1 ? hits(found[0], [...batch.targets.values()][0]) : null;
        right += counted?.right ?? 0;
        seen += counted?.seen ?? 0;
      });
    }
    if (!total) throw new DeviceError("there is no batch to evaluate on.");
    return { loss: loss / total, ...(seen ? { accuracy: right / seen } : {}) };
  }

  /**
   * Every parameter and buffer, by the name that the PyTorch model has for it.
   *
   * @returns {Promise<Map<string, Tensor>>} The arrays of the session itself: look at them, and do not write.
   */
  weights() {
    return this.inTurn(async () => this.held());
  }

  /**
   * The weights as the bytes of a `.safetensors` file, under the names that they have in PyTorch, where
   * `cut.load_state_dict(safetensors.torch.load_file(path), strict=False)` takes them.
   *
   * @returns {Promise<Uint8Array>}
   */
  save() {
    return this.inTurn(async () => writeTensors(this.held()));
  }

  /**
   * Take the weights of a `.safetensors` file by their names; what the optimizer keeps stays.
   *
   * @param {Uint8Array} bytes The whole file.
   * @throws {DeviceError} It is damaged, or lacks a weight, or one has another shape; weights are as they were.
   */
  load(bytes) {
    return this.inTurn(async () => {
      const found = readTensors(bytes, "the weights");
      const missing = [...this.held().keys()].filter((name) => !found.has(name));
      if (missing.length) {
        throw new DeviceError(`the file has no ${missing.slice(0, 5).join(", ")}: is it of another model?`);
      }
      const known = [...found].flatMap(([name, each]) =>
        WEIGHTS.filter((head) => this.store.has(head + name)).map((head) => ({ name: head + name, each })),
      );
      for (const { name, each } of known) this.store.check(name, each);
      for (const { name, each } of known) this.store.set(name, each);
    });
  }

  /**
   * Hand weights, optimizer state and synthesizers to `write`, file by file, as far as they have changed: an
   * `open` that reads these files in place of those of the folder goes on from there.
   *
   * @param {(name: string, bytes: Uint8Array) => unknown} write May be asynchronous.
   */
  flush(write) {
    return this.inTurn(() => this.store.flush(write));
  }

  /** Let go of the memory of onnxruntime; graphs that have not run yet cannot be run any more. */
  close() {
    return this.inTurn(() => this.graphs.close());
  }

  /**
   * @param {number} step
   * @param {number} size
   * @returns {Map<string, Tensor>}
   */
  numbers(step, size) {
    const seed = (BigInt(this.seed) * 1_000_003n + BigInt(step)) % PRIME;
    return new Map([
      ["lr", scalar("float64", this.rate)],
      ["step", scalar("float64", step)],
      ["batch", scalar("int64", BigInt(size))],
      ["seed", scalar("int64", seed < 0n ? seed + PRIME : seed)],
    ]);
  }

  /**
   * @param {ReadonlyMap<string, Tensor>} inputs
   * @returns {Promise<Tensor[]>}
   */
  async predicted(inputs) {
    const values = await follow(this.manifest.orders.evaluate, this.graphs, inputs);
    return this.manifest.predictions.map((name) => /** @type {Tensor} */ (values.get(name)));
  }

  /** @returns {Map<string, Tensor>} */
  held() {
    const names = [...this.store.names()].filter((name) => WEIGHTS.some((head) => name.startsWith(head)));
    return new Map(names.map((name) => [name.slice(2), this.store.get(name)]));
  }

  /** Whether true gradients still go up, since synthesizers have heard of too few of them. */
  warmsUp() {
    const heard = (/** @type {import("./manifest.js").Boundary} */ { name, learn }) =>
      learn === null ? this.steps : Number(this.store.get(`s:${name}:scale.seen`).data[0]);
    return this.manifest.boundaries.some((each) => each.warmup > 0 && heard(each) < each.warmup);
  }

  /**
   * @template T
   * @param {() => Promise<T>} work
   * @returns {Promise<T>} What the work returns, which begins when all that was asked for before is done.
   */
  inTurn(work) {
    const done = this.last.then(work);
    this.last = done.catch(() => undefined);
    return done;
  }
}

/**
 * @param {unknown} error
 * @returns {never}
 */
function halfway(error) {
  const after = "The step ended there: stages that had taken theirs stay moved. Load weights that were saved.";
  throw error instanceof DeviceError ? new DeviceError(`${error.message} ${after}`, { cause: error }) : error;
}

/**
 * What says that there is no such mode.
 *
 * @param {unknown} mode
 * @returns {DeviceError}
 */
export const modeError = (mode) => new DeviceError(`mode is ${MODES.join(" or ")}, not ${mode}.`);
