// Keys as X names them.
import assert from "node:assert/strict";
import test from "node:test";
import { KEY, isModifier, keysymsOf, ofShortcut, onlyChooses, textOfKey } from "../src/desktop/keysyms.js";

test("a text is the keys that give its characters", () => {
  assert.deepEqual(keysymsOf("aA1 ~"), [0x61, 0x41, 0x31, 0x20, 0x7e]);
  assert.deepEqual(keysymsOf("a\tb\r\nc\nd"), [0x61, KEY.Tab, 0x62, KEY.Return, 0x63, KEY.Return, 0x64]);
  assert.deepEqual(keysymsOf("ü€ж語😀"), [0xfc, 0x20ac, 0x6d6, 0x01008a9e, 0x0101f600]);
  assert.deepEqual(keysymsOf("a\0\x1b\x7f\x9bb"), [0x61, 0x62], "no key gives control characters");
});

test("with a modifier a key is its place where its layout has no Latin letter there", () => {
  assert.equal(ofShortcut(0x6d3, "KeyC"), 0x63, "Cyrillic es on C");
  assert.equal(ofShortcut(0x01000663, "Digit3"), 0x33, "an Arabic three");
  assert.equal(ofShortcut(0x7a, "KeyY"), 0x7a, "z of a German keyboard stays z");
  assert.equal(ofShortcut(0xff0d, "Enter"), 0xff0d);
  assert.equal(ofShortcut(0x6d3, "Comma"), 0x6d3);
});

test("what chooses, what modifies and what types is told apart", () => {
  assert.ok(onlyChooses(KEY.ISO_Level3_Shift) && onlyChooses(KEY.Caps_Lock) && !onlyChooses(KEY.Shift_L));
  assert.ok(isModifier(KEY.Super_L) && isModifier(KEY.Shift_L) && !isModifier(KEY.Delete));
  assert.deepEqual([0x20, 0x7e, KEY.Return, KEY.BackSpace].map(textOfKey), [" ", "~", "\n", "\b"]);
  for (const none of [undefined, KEY.Control_L, KEY.Left, 0xfc]) assert.equal(textOfKey(none), "");
});
