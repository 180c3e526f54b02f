// Drives one page of a real Chromium for the tests: a JSON command per line on stdin, a JSON answer per line on
// stdout. Arguments: the browser's executable, a directory for its profile. playwright-core comes from web/.
import { createRequire } from "node:module";
import { writeFile } from "node:fs/promises";
import { createInterface } from "node:readline";

const require = createRequire(new URL("../../web/package.json", import.meta.url));
const { chromium } = require("playwright-core");

const [executablePath, profile] = process.argv.slice(2);
const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);

const context = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: false, // the new headless mode is asked for by its flag; playwright's own means the old one
  viewport: { width: 1280, height: 800 },
  args: ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"],
});
const page = context.pages()[0] ?? (await context.newPage());
page.setDefaultTimeout(45_000);

let complaints = [];
const requests = [];
page.on("console", (message) => {
  if (["error", "warning"].includes(message.type())) complaints.push(`${message.type()}: ${message.text()}`);
});
page.on("pageerror", (fault) => complaints.push(`exception: ${fault.message}`));
page.on("request", (request) => requests.push(request.url()));
page.on("websocket", (socket) => requests.push(socket.url().replace(/^ws/, "http")));

const commands = {
  open: ({ url }) => page.goto(url).then(() => null),
  wait: ({ selector }) => page.waitForSelector(selector).then(() => null),
  texts: ({ selector }) => page.locator(selector).allTextContents(),
  address: () => page.url(),
  type: ({ text }) => page.keyboard.type(text),
  press: ({ key }) => page.keyboard.press(key),
  click: ({ selector }) => page.click(selector),
  resize: ({ width, height }) => page.setViewportSize({ width, height }),
  // What a person can see of an element and touch: its box, and whether it is what lies on top in its middle.
  box: ({ selector }) =>
    page.locator(selector).evaluate((element) => {
      const { x, y, width, height } = element.getBoundingClientRect();
      const top = document.elementFromPoint(x + width / 2, y + height / 2);
      return { x, y, width, height, reachable: element.contains(top), page: document.documentElement.scrollWidth };
    }),
  focused: () => page.evaluate(() => document.activeElement?.id || document.activeElement?.tagName.toLowerCase()),
  choose: ({ selector, value }) => page.selectOption(selector, value).then(() => null),
  fill: ({ selector, text }) => page.fill(selector, text),
  screenshot: ({ path }) => page.screenshot({ path }).then(() => null),
  complaints: () => {
    const now = complaints;
    complaints = [];
    return now;
  },
  requests: () => requests,
  canvas: async ({ path }) => {
    const { width, height, pixels } = await page.evaluate(() => {
      const canvas = document.querySelector("#screen canvas");
      // Read from a copy: reading from the page's own canvas would change how the browser keeps it.
      const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
      const context = copy.getContext("2d", { willReadFrequently: true });
      context.drawImage(canvas, 0, 0);
      const { data } = context.getImageData(0, 0, copy.width, copy.height);
      let text = "";
      for (let at = 0; at < data.length; at += 32_768) text += String.fromCharCode(...data.subarray(at, at + 32_768));
      return { width: canvas.width, height: canvas.height, pixels: btoa(text) };
    });
    await writeFile(path, Buffer.from(pixels, "base64"));
    return { width, height };
  },
};

say({ value: "started" });
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  if (command.do === "close") break;
  try {
    say({ value: (await commands[command.do](command)) ?? null });
  } catch (fault) {
    say({ error: `${command.do}: ${fault.message}` });
  }
}
await context.close();
say({ value: "closed" });
process.exit(0);
