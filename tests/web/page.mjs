// Draws ones and rings on the page of a sample, and says which they are: page.mjs PACKAGES ADDRESS
// Prints what the page says in the end, and then what it guesses of one more of each.

import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, address] = process.argv.slice(2);
const found = (name) => createRequire(join(packages, "here.js")).resolve(name);
const { default: chromium } = await import(pathToFileURL(found("@sparticuz/chromium")).href);
const { default: puppeteer } = await import(pathToFileURL(found("puppeteer-core")).href);

let browser;
try {
  const executablePath = await chromium.executablePath();
  browser = await puppeteer.launch({ args: chromium.args, executablePath, headless: "shell" });
} catch (error) {
  console.error(error.message);
  process.exit(77); // there is no browser for this machine
}
try {
  const page = await browser.newPage();
  const problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("requestfailed", (request) => problems.push(request.url()));
  await page.goto(address);
  const says = (pattern) => page.waitForFunction((text) => new RegExp(text).test(said.textContent), {}, pattern);
  await says("ready");
  const { x, y } = await (await page.$("#paper")).boundingBox();

  async function draw(digit, shift) {
    await page.click("#clear");
    const along = Array.from({ length: 17 }, (_, at) => (at / 8) * Math.PI);
    const ring = along.map((angle) => [120 + 60 * Math.cos(angle), 120 + (70 + shift) * Math.sin(angle)]);
    const places = digit ? [[100 + shift, 40], [110, 200]] : ring;
    await page.mouse.move(x + places[0][0], y + places[0][1]);
    await page.mouse.down();
    for (const [right, down] of places) await page.mouse.move(x + right, y + down, { steps: 3 });
    await page.mouse.up();
    await says("I guess");
    return page.$eval("#said", (line) => line.textContent);
  }

  for (const shift of [0, 10, 20]) {
    for (const digit of [0, 1]) {
      await draw(digit, shift);
      await page.click(`#digits button:nth-of-type(${digit + 1})`);
      await says("drawings? learned");
    }
  }
  console.log(await page.$eval("#said", (line) => line.textContent));
  console.log(await draw(0, 5));
  console.log(await draw(1, 5));
  for (const each of problems) console.log(each);
} finally {
  await browser.close();
}
