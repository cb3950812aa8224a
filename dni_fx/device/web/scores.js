/** How right a model is. */

/** @typedef {import("./tensors.js").Tensor} Tensor */

/**
 * How many targets are the class with the largest score, and how many there are; null where targets are no
 * classes of these scores.
 *
 * @param {Tensor} scores Shape `(batch, classes, ...)`, or `(classes)` for a target without dimensions.
 * @param {Tensor} target Shape `(batch, ...)`.
 * @returns {{right: number, seen: number} | null}
 */
export function hits(scores, target) {
  if (!["int64", "int32", "uint8"].includes(target.type) || scores.dims.length !== target.dims.length + 1) {
    return null;
  }
  const axis = scores.dims.length > 1 ? 1 : 0;
  const classes = scores.dims[axis];
  const inner = scores.dims.slice(axis + 1).reduce((all, size) => all * size, 1);
  const seen = target.data.length;
  let right = 0;
  for (let at = 0; at < seen; at++) {
    const first = Math.floor(at / inner) * classes * inner + (at % inner);
    if (BigInt(largest(scores.data, first, inner, classes)) === BigInt(target.data[at])) right++;
  }
  return { right, seen };
}

/**
 * @param {import("./tensors.js").Data} data
 * @param {number} first
 * @param {number} stride
 * @param {number} classes
 * @returns {number} The first of the largest; what is no number counts as larger than any, as in numpy.
 */
function largest(data, first, stride, classes) {
  let best = 0;
  for (let each = 1; each < classes; each++) {
    const [held, value] = [data[first + best * stride], data[first + each * stride]];
    if (held !== held) break;
    if (value > held || value !== value) best = each;
  }
  return best;
}
