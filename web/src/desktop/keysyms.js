// Characters and keys as X names them. Pure.

import keysyms from "../../node_modules/@novnc/novnc/core/input/keysymdef.js";

export const KEY = {
  BackSpace: 0xff08,
  Tab: 0xff09,
  Return: 0xff0d,
  Escape: 0xff1b,
  Home: 0xff50,
  Left: 0xff51,
  Up: 0xff52,
  Right: 0xff53,
  Down: 0xff54,
  End: 0xff57,
  Insert: 0xff63,
  Mode_switch: 0xff7e,
  Num_Lock: 0xff7f,
  Shift_L: 0xffe1,
  Control_L: 0xffe3,
  Caps_Lock: 0xffe5,
  Alt_L: 0xffe9,
  Super_L: 0xffeb,
  Delete: 0xffff,
  ISO_Level3_Shift: 0xfe03,
};

/** Keys that only choose which character another one gives: the character itself is what is sent. */
const CHOOSES_CHARACTER = new Set([KEY.Mode_switch, KEY.ISO_Level3_Shift, KEY.Caps_Lock, KEY.Num_Lock]);

/** @param {number} keysym */
export const onlyChooses = (keysym) => CHOOSES_CHARACTER.has(keysym);

/** Shift, Control, Alt, Super and their like. @param {number} keysym */
export const isModifier = (keysym) => keysym >= 0xffe1 && keysym <= 0xffee;

/** The keys that give a text, in order; what no key gives is left out. @param {string} text @returns {number[]} */
export function keysymsOf(text) {
  const found = [];
  for (const character of text.replaceAll("\r\n", "\n")) {
    const point = character.codePointAt(0);
    if (character === "\n" || character === "\r") found.push(KEY.Return);
    else if (character === "\t") found.push(KEY.Tab);
    else if (point >= 0x20 && (point < 0x7f || point > 0x9f)) found.push(keysyms.lookup(point));
  }
  return found;
}

/**
 * With Control, Alt or Super a key means its place, not its character: Ctrl+С on a Cyrillic keyboard is Ctrl+C.
 * @param {number} keysym what the layout says @param {string} code where the key is
 */
export function ofShortcut(keysym, code) {
  const isLatin = keysym < 0x100 || (keysym >= 0xfe00 && keysym <= 0xffff);
  const [, place] = /^(?:Key([A-Z])|Digit[0-9])$/.exec(code) ?? [];
  if (isLatin || !/^(?:Key|Digit)/.test(code)) return keysym;
  return (place ? place.toLowerCase() : code.at(-1)).charCodeAt(0);
}

const TEXT_OF = { [KEY.Return]: "\n", [KEY.Tab]: "\t", [KEY.BackSpace]: "\b" };

/** What a key of every keyboard types; nothing for one that does something else. @param {number | undefined} keysym */
export function textOfKey(keysym) {
  return TEXT_OF[keysym] ?? (keysym >= 0x20 && keysym < 0x7f ? String.fromCharCode(keysym) : "");
}
