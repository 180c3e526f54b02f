// Unpacks the Chromium of @sparticuz/chromium to the path that is given. The file has its name only when it is whole.
import { createReadStream, createWriteStream } from "node:fs";
import { rename } from "node:fs/promises";
import { pipeline } from "node:stream/promises";
import { createBrotliDecompress } from "node:zlib";

const [target] = process.argv.slice(2);
const packed = new URL("node_modules/@sparticuz/chromium/bin/chromium.br", import.meta.url);
await pipeline(
  createReadStream(packed),
  createBrotliDecompress(),
  createWriteStream(`${target}.new`, { mode: 0o755 }),
);
await rename(`${target}.new`, target);
