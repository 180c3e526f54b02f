// Drives one page of a real Chromium for the tests: a JSON command per line on stdin, a JSON answer per line on
// stdout. Arguments: the browser's executable, a directory for its profile, `touch` for a phone. playwright-core comes
// from web/.
import { createRequire } from "node:module";
import { writeFile } from "node:fs/promises";
import { createInterface } from "node:readline";

const require = createRequire(new URL("../../web/package.json", import.meta.url));
const { chromium } = require("playwright-core");

const [executablePath, profile, device] = process.argv.slice(2);
const isPhone = device === "touch";
const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);

const context = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: false, // the new headless mode is asked for by its flag; playwright's own means the old one
  viewport: isPhone ? { width: 390, height: 844 } : { width: 1280, height: 800 },
  hasTouch: isPhone,
  isMobile: isPhone,
  permissions: ["clipboard-read", "clipboard-write"],
  args: ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"],
});
const page = context.pages()[0] ?? (await context.newPage());
page.setDefaultTimeout(45_000);

// Keys and input methods as a system has them: playwright itself knows the keys of one layout.
const system = await context.newCDPSession(page);

/** A key of a layout: what it gives, and where it is. */
async function key(type, { key, code, shift = false, control = false }) {
  const modifiers = (control ? 2 : 0) + (shift ? 8 : 0);
  const text = type === "keyDown" && [...key].length === 1 && !control ? key : undefined;
  await system.send("Input.dispatchKeyEvent", { type, key, code, modifiers, text });
}

let complaints = [];
const requests = [];
page.on("console", (message) => {
  // Chromium's advice on how noVNC keeps its picture.
  if (message.text().includes("willReadFrequently")) return;
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
  key: async (which) => {
    await key("keyDown", which);
    await key("keyUp", which);
  },
  key_down: (which) => key("keyDown", which),
  key_up: (which) => key("keyUp", which),
  // An input method: what it shows while it is not sure, then what it means.
  compose: async ({ drafts, text }) => {
    for (const draft of drafts) {
      await system.send("Input.imeSetComposition", { text: draft, selectionStart: draft.length, selectionEnd: draft.length });
    }
    await system.send("Input.insertText", { text });
  },
  copy: ({ text }) => page.evaluate((text) => navigator.clipboard.writeText(text), text),
  copied: () => page.evaluate(() => navigator.clipboard.readText()),
  value: ({ selector }) => page.inputValue(selector),
  click: ({ selector }) => page.click(selector),
  tap: ({ selector }) => page.tap(selector),
  // Fingers on the middle of an element that move by so much.
  touch: async ({ selector, fingers, dx, dy }) => {
    const box = await page.locator(selector).boundingBox();
    const at = (part) =>
      Array.from({ length: fingers }, (_, finger) => ({
        x: box.x + box.width / 2 + finger * 40 + dx * part,
        y: box.y + box.height / 2 + dy * part,
      }));
    await system.send("Input.dispatchTouchEvent", { type: "touchStart", touchPoints: at(0) });
    for (const part of [0.2, 0.4, 0.6, 0.8, 1]) {
      await system.send("Input.dispatchTouchEvent", { type: "touchMove", touchPoints: at(part) });
    }
    await system.send("Input.dispatchTouchEvent", { type: "touchEnd", touchPoints: [] });
  },
  files: ({ selector, paths }) => page.setInputFiles(selector, paths),
  // A file of this text, dropped on an element.
  drop: ({ selector, name, text }) =>
    page.locator(selector).evaluate(
      (place, { name, text }) => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([text], name));
        for (const type of ["dragenter", "dragover", "drop"]) place.dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
      },
      { name, text },
    ),
  download: async ({ selector, path }) => {
    const [download] = await Promise.all([page.waitForEvent("download"), page.click(selector)]);
    await download.saveAs(path);
    return download.suggestedFilename();
  },
  resize: ({ width, height }) => page.setViewportSize({ width, height }),
  // What a person can see of an element and touch: its box, and whether it is what lies on top in its middle.
  box: ({ selector }) =>
    page.locator(selector).evaluate((element) => {
      const { x, y, width, height } = element.getBoundingClientRect();
      const top = document.elementFromPoint(x + width / 2, y + height / 2);
      return { x, y, width, height, reachable: element.contains(top), page: document.documentElement.scrollWidth };
    }),
  focused: () => page.evaluate(() => document.activeElement?.id || document.activeElement?.tagName.toLowerCase()),
  // Moves a recording's bar; after how many milliseconds another picture is there.
  seek: ({ milliseconds }) =>
    page.evaluate(
      (milliseconds) =>
        new Promise((resolve) => {
          const shown = () => document.querySelector(".replay-screen:not(.unseen-screen)");
          const [bar, former, begun] = [document.querySelector("#time"), shown(), performance.now()];
          const look = () => (shown() && shown() !== former ? resolve(performance.now() - begun) : requestAnimationFrame(look));
          bar.value = String(milliseconds);
          bar.dispatchEvent(new Event("input"));
          look();
        }),
      milliseconds,
    ),
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
