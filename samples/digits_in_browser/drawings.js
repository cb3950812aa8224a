/** Drawings as a net sees them, and a net that learns from those it has been told the digit of. */

export const SIDE = 8;

/**
 * What is drawn, cut out, put in the middle and made small.
 *
 * @param {ArrayLike<number>} ink How much there is at each pixel of a square, row by row, 0 to 255.
 * @param {number} width Of the square.
 * @returns {Float32Array} `SIDE * SIDE` numbers from 0 to 1.
 */
export function shrunk(ink, width) {
  const image = new Float32Array(SIDE * SIDE);
  const drawn = Array.from(ink, (_, at) => at).filter((at) => ink[at] > 0);
  if (!drawn.length) return image;
  const span = (places) => {
    const [from, to] = places.reduce(([a, b], each) => [Math.min(a, each), Math.max(b, each + 1)], [width, 0]);
    return { from, size: to - from };
  };
  const [across, down] = [span(drawn.map((at) => at % width)), span(drawn.map((at) => Math.floor(at / width)))];
  const size = Math.max(across.size, down.size);
  const cell = (place, { from, size: own }) => Math.floor(((place - from + (size - own) / 2) * SIDE) / size);
  for (const at of drawn) {
    image[cell(Math.floor(at / width), down) * SIDE + cell(at % width, across)] += ink[at];
  }
  const full = (255 * size * size) / (SIDE * SIDE);
  return image.map((each) => Math.min(1, each / full));
}

/** A session, and all drawings whose digit it has been told. */
export class Learner {
  /**
   * @param {import("../../dni_fx/device/web/session.js").Session} session
   * @param {() => number} random
   */
  constructor(session, random = Math.random) {
    this.session = session;
    this.random = random;
    this.drawings = [];
  }

  /**
   * Learn that an image is a digit, and go over what was learned before.
   *
   * @param {Float32Array} image
   * @param {number} digit
   * @param {number} steps
   * @returns {Promise<number>} The loss of the last step.
   */
  async learn(image, digit, steps = 40) {
    this.drawings.push({ image, digit });
    let loss = NaN;
    for (let step = 0; step < steps; step++) {
      const some = Array.from({ length: 15 }, () => this.drawings[Math.floor(this.random() * this.drawings.length)]);
      const batch = [{ image, digit }, ...some];
      loss = await this.session.step(batch.map((each) => each.image), batch.map((each) => each.digit));
    }
    return loss;
  }

  /**
   * How likely an image is each digit.
   *
   * @param {Float32Array} image
   * @returns {Promise<number[]>} Ten numbers whose sum is 1.
   */
  async guess(image) {
    const [{ data }] = await this.session.predict([image]);
    const most = Math.max(...data);
    const parts = Array.from(data, (each) => Math.exp(each - most));
    const all = parts.reduce((sum, each) => sum + each, 0);
    return parts.map((each) => each / all);
  }
}
