/** One step of training, stage after stage. */

import { NEW } from "./graphs.js";
import { nothing, sum } from "./tensors.js";

/** @typedef {import("./tensors.js").Tensor} Tensor */
/** @typedef {import("./manifest.js").Graph} Graph */
/** @typedef {import("./manifest.js").Stage} Stage */
/** @typedef {Map<string, Tensor>} Named */

/** A step on one batch: `given` are its targets and numbers, `values` what stages have written so far. */
export class Step {
  /**
   * @param {import("./manifest.js").Manifest} manifest
   * @param {import("./graphs.js").Graphs} graphs
   * @param {Named} given
   * @param {Named} inputs
   */
  constructor(manifest, graphs, given, inputs) {
    this.manifest = manifest;
    this.graphs = graphs;
    this.given = given;
    this.values = new Map(inputs);
    /** @type {Named} */
    this.arrived = new Map();
    /** @type {Named} */
    this.lent = new Map();
    /** @type {Named} */
    this.buffers = new Map();
    this.unread = new Map(manifest.boundaries.map((each) => [each.name, new Set(each.consumers)]));
  }

  /**
   * Every stage that can takes its step at once; the others when the loss is there.
   *
   * @returns {Promise<number>} The loss.
   */
  async decoupled() {
    const waiting = [];
    for (const stage of this.manifest.stages) {
      this.take(await this.run(stage.step ?? stage.forward));
      if (stage.step === null) waiting.push(stage);
      else await this.answer(stage);
    }
    const loss = await this.judge();
    for (const stage of waiting.reverse()) {
      this.take(await this.run(stage.backward, await this.sent(stage)));
      await this.answer(stage);
    }
    await this.end();
    return loss;
  }

  /**
   * All stages forward, and then backward with true gradients; synthesizers learn from these.
   *
   * @returns {Promise<number>} The loss.
   */
  async exact() {
    for (const stage of this.manifest.stages) this.take(await this.run(stage.forward));
    const loss = await this.judge();
    for (const stage of [...this.manifest.stages].reverse()) {
      this.take(await this.run(stage.backward, this.filled(stage, this.arrived)));
      await this.answer(stage);
    }
    await this.end();
    return loss;
  }

  /**
   * What goes up to a stage that has waited for the loss: that of its outputs, and else guesses.
   *
   * @param {Stage} stage
   * @returns {Promise<Named>}
   */
  async sent(stage) {
    const crossing = new Set(this.manifest.boundaries.flatMap((each) => each.values.map(gradientOf)));
    const found = new Map([...this.arrived].filter(([name]) => !crossing.has(name)));
    for (const { producer, guess } of this.manifest.boundaries) {
      if (producer === stage.stage && guess !== null) {
        for (const [name, each] of await this.run(guess)) found.set(name, each);
      }
    }
    return this.filled(stage, found);
  }

  /**
   * These gradients, and zeros for what nobody has told one of.
   *
   * @param {Stage} stage
   * @param {Named} found
   * @returns {Named}
   */
  filled(stage, found) {
    const wanted = stage.backward.inputs.filter((name) => name.startsWith("g:") && !found.has(name));
    return new Map([...found, ...wanted.map((name) => this.zero(`v:${name.slice(2)}`))]);
  }

  /**
   * The loss of the model's outputs, whose gradients have arrived with it.
   *
   * @returns {Promise<number>}
   */
  async judge() {
    const found = await this.run(this.manifest.loss);
    const loss = Number(found.get("loss")?.data[0]);
    found.delete("loss");
    this.take(found);
    return loss;
  }

  /**
   * @param {Graph} graph
   * @param {Named} [more]
   * @returns {Promise<Named>}
   */
  run(graph, more = new Map()) {
    return this.graphs.run(graph, new Map([...this.given, ...this.values, ...more]));
  }

  /**
   * Take in what a graph has returned: values, gradients of values and parameters, and buffers.
   *
   * @param {Named} found
   */
  take(found) {
    for (const [name, each] of found) {
      const kind = name.split(":", 1)[0];
      if (kind === "v") this.values.set(name, each);
      else if (kind === "g") add(this.arrived, name, each);
      else if (kind === "gp") add(this.lent, name, each);
      else this.buffers.set(name.startsWith(NEW) ? name.slice(NEW.length) : name, each);
    }
  }

  /**
   * Teach the synthesizers whose readers have all run backward; this stage was one of them.
   *
   * @param {Stage} stage
   */
  async answer(stage) {
    for (const boundary of this.manifest.boundaries) {
      const unread = this.unread.get(boundary.name);
      if (unread?.delete(stage.stage) && !unread.size && boundary.learn !== null) {
        const truths = boundary.values.map((name) => this.truth(name));
        await this.run(boundary.learn, new Map(truths));
      }
    }
  }

  /**
   * @param {string} value
   * @returns {[string, Tensor]} The gradient of a value, zeros if none has arrived.
   */
  truth(value) {
    const arrived = this.arrived.get(gradientOf(value));
    return arrived === undefined ? this.zero(value) : [gradientOf(value), arrived];
  }

  /**
   * @param {string} value
   * @returns {[string, Tensor]} A gradient of zeros for a value.
   */
  zero(value) {
    const known = this.values.get(value);
    if (known === undefined) throw new Error(`no stage has written ${value}`);
    return [gradientOf(value), nothing(known)];
  }

  /** Move what several stages share, and keep the buffers. */
  async end() {
    if (this.manifest.shared !== null) await this.run(this.manifest.shared.graph, this.lent);
    for (const [name, each] of this.buffers) this.graphs.store.set(name, each);
  }
}

/** @param {string} value */
const gradientOf = (value) => `g:${value.slice(2)}`;

/**
 * @param {Named} known
 * @param {string} name
 * @param {Tensor} more
 */
function add(known, name, more) {
  const before = known.get(name);
  known.set(name, before === undefined ? more : sum(before, more));
}
