// Keys that a phone's keyboard lacks, or that browser and system keep for themselves.

import { element } from "../dom.js";
import { KEY } from "./keysyms.js";

const MODIFIERS = [
  ["Ctrl", KEY.Control_L, "Control"],
  ["Alt", KEY.Alt_L, "Alt"],
  ["Shift", KEY.Shift_L, "Shift"],
  ["Super", KEY.Super_L, "Super"],
];
const KEYS = [
  ["Esc", KEY.Escape, "Escape"],
  ["Tab", KEY.Tab, "Tab"],
  ["←", KEY.Left, "Left"],
  ["↑", KEY.Up, "Up"],
  ["↓", KEY.Down, "Down"],
  ["→", KEY.Right, "Right"],
  ["Del", KEY.Delete, "Delete"],
];

export class KeyBar {
  /** @param {HTMLElement} place @param {import("./keys.js").Keys} keys @param {boolean} touch with a button for the keyboard */
  constructor(place, keys, touch) {
    this.place = place;
    this.buttons = new Map();
    const button = (text, label, press) => {
      const made = element("button", { type: "button", className: "secondary small", textContent: text });
      made.setAttribute("aria-label", label);
      // The field keeps the focus, and a phone its keyboard.
      made.addEventListener("pointerdown", (event) => event.preventDefault());
      made.addEventListener("click", press);
      place.append(made);
      return made;
    };
    if (touch) {
      const keyboard = button("⌨", "On-screen keyboard", () => {
        const shown = keyboard.getAttribute("aria-pressed") !== "true";
        keyboard.setAttribute("aria-pressed", String(shown));
        keys.onScreen(shown);
      });
      keyboard.setAttribute("aria-pressed", "false");
    }
    for (const [text, keysym, label] of MODIFIERS) this.buttons.set(keysym, button(text, `Hold ${label} for the next key`, () => keys.hold(keysym)));
    for (const [text, keysym, label] of KEYS) button(text, label, () => keys.tap(keysym));
    this.show(new Set());
  }

  /** @param {Set<number>} held */
  show(held) {
    for (const [keysym, button] of this.buttons) button.setAttribute("aria-pressed", String(held.has(keysym)));
  }
}
