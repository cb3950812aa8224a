/** What can go wrong on a device. */

/** A folder is not what was written, or a batch is not what the model takes; says what to do. */
export class DeviceError extends Error {
  /**
   * @param {string} message What was being done, what was found, and what to do.
   * @param {{cause?: unknown}} [options]
   */
  constructor(message, options) {
    super(message, options);
    this.name = "DeviceError";
  }
}

/**
 * One line of whatever was thrown: WebAssembly throws numbers, too.
 *
 * @param {unknown} error
 * @returns {string}
 */
export function told(error) {
  return String(error instanceof Error ? error.message : error).trim().split("\n", 1)[0];
}
