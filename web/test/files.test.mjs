// Files in words, and what of them is shown.
import assert from "node:assert/strict";
import test from "node:test";
import { imageType, join, parent, size, textOf, uploadName } from "../src/files/words.js";

test("sizes are short", () => {
  const cases = [[0, "0 B"], [1023, "1023 B"], [1024, "1.0 KiB"], [1536, "1.5 KiB"], [2 ** 20 - 1, "1.0 MiB"], [5 * 2 ** 30, "5.0 GiB"], [2 ** 50, "1024.0 TiB"]];
  for (const [bytes, words] of cases) assert.equal(size(bytes), words);
});

test("paths go down and up", () => {
  assert.equal(join("", "a"), "a");
  assert.equal(join("a/b", "c"), "a/b/c");
  assert.equal(parent("a/b/c"), "a/b");
  assert.equal(parent("a"), "");
});

test("only texts are shown as text, whole characters alone", () => {
  const bytes = new TextEncoder().encode("größe 語");
  assert.equal(textOf(bytes, true), "größe 語");
  assert.equal(textOf(bytes.subarray(0, bytes.length - 1), false), "größe ", "a cut character is left out");
  assert.equal(textOf(bytes.subarray(0, bytes.length - 1), true), null);
  assert.equal(textOf(new Uint8Array([0x61, 0, 0x62]), true), null);
  assert.equal(textOf(new Uint8Array([0xff, 0xfe]), true), null);
});

test("pictures are known by their names", () => {
  assert.equal(imageType("a.PNG"), "image/png");
  assert.equal(imageType("png"), null);
  assert.equal(imageType("a.png.txt"), null);
});

test("an upload has the same name when the same file is chosen again, and no other", () => {
  const name = uploadName("a/b.bin\n5\n1700000000000");
  assert.match(name, /^[A-Za-z0-9_-]{1,64}$/);
  assert.equal(uploadName("a/b.bin\n5\n1700000000000"), name);
  const names = new Set(Array.from({ length: 10_000 }, (_, number) => uploadName(`file-${number}\n5\n0`)));
  assert.equal(names.size, 10_000);
});
