/** Where the files of a folder come from. */

import { DeviceError, told } from "./errors.js";

/** @typedef {(name: string) => Uint8Array | ArrayBuffer | Promise<Uint8Array | ArrayBuffer>} Read */

/**
 * What reads the files of a folder: the function that was given, or one that fetches below an address.
 *
 * @param {string | URL | Read} source
 * @returns {(name: string) => Promise<Uint8Array>} Throws a `DeviceError` where a file is not there.
 */
export function reader(source) {
  const read = typeof source === "function" ? source : fetching(source);
  return async (name) => {
    try {
      const found = await read(name);
      if (found instanceof Uint8Array) return found;
      if (found instanceof ArrayBuffer) return new Uint8Array(found);
      throw new Error(`what was read is no Uint8Array but ${typeof found}`);
    } catch (error) {
      const hint = "A folder to train from is written by dni-fx export --form training.";
      throw new DeviceError(`cannot read ${name}: ${told(error)}. ${hint}`, { cause: error });
    }
  };
}

/**
 * @param {string | URL} address
 * @returns {Read}
 */
function fetching(address) {
  return async (name) => {
    const here = /** @type {any} */ (globalThis).location?.href;
    const text = `${address}`.replace(/\/?$/, "/");
    if (!URL.canParse(text, here) || text.startsWith("file:")) {
      throw new Error(`${address} is no address to fetch from: give a function that reads a file by its name`);
    }
    const folder = new URL(text, here);
    const response = await fetch(new URL(encodeURIComponent(name), folder));
    if (!response.ok) throw new Error(`${response.url} answers ${response.status}`);
    return response.arrayBuffer();
  };
}
