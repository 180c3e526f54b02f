// The keyboard of the desktop: a field that nobody sees, which has the focus in the picture's place.
//
// A field, because only a field gets what is composed (dead keys, input methods, on-screen keyboards) and what is
// pasted. All of it goes to the desktop as characters, never as places of keys: an ü arrives as ü, whatever layouts the
// two sides have. Keys that every keyboard has go with the picture's connection; what is beyond ASCII goes by the API,
// which types any character: over VNC the display gives each new one a key for good, and has some twenty to give. What
// is typed behind a text that is on its way waits for it, so that the order stays.

import Keyboard from "../../node_modules/@novnc/novnc/core/input/keyboard.js";
import { KEY, isModifier, keysymsOf, ofShortcut, onlyChooses, textOfKey } from "./keysyms.js";

/** On-screen keyboards delete only where there is something to delete. */
const FILLER = "________";
/** Keys whose meaning comes later, by composition or as text. */
const LATER = ["Dead", "Process", "Unidentified", "Compose"];

/** Milliseconds that a key has to reach the display before a text follows it on the other way. */
const AHEAD = 40;

/** Whether every keyboard has all of these. @param {string} text */
const isPlain = (text) => /^[\t\n\r\x20-\x7e]*$/.test(text);

/** A character beyond ASCII, typed for its own sake: with AltGr, or with Option on a Mac, it is that all the same. */
function isForeign(event) {
  const { key, ctrlKey, metaKey, altKey } = event;
  if ([...key].length !== 1 || isPlain(key)) return false;
  const chooses = event.getModifierState("AltGraph") || (altKey && !ctrlKey && /^Mac|^iP/.test(navigator.platform));
  return chooses || !(ctrlKey || metaKey || altKey);
}

export class Keys {
  /**
   * @param {HTMLTextAreaElement} field @param {HTMLElement} draft shows what is being composed
   * @param {object} hooks
   * @param {(text: string) => Promise<void>} hooks.paste puts a text into the desktop's clipboard
   * @param {(text: string) => Promise<void>} hooks.write types a text of any characters
   * @param {() => void} hooks.leave the keyboard is wanted elsewhere on the page
   * @param {(held: Set<number>) => void} hooks.onHeld modifiers that the key bar holds down
   */
  constructor(field, draft, { paste, write, leave, onHeld }) {
    Object.assign(this, { field, draft, paste, write, leave, onHeld });
    this.send = null;
    this.steps = [];
    this.sentAt = 0;
    this.running = false;
    this.pasting = null;
    this.held = new Set();
    this.modifiers = new Set();
    this.shortcuts = new Map();
    field.addEventListener("keydown", (event) => this.sort(event)); // before noVNC's listener, which takes everything
    this.keyboard = new Keyboard(field);
    this.keyboard.onkeyevent = (keysym, code, down) => this.key(keysym, code, down);
    this.keyboard.grab();
    field.addEventListener("beforeinput", (event) => this.edit(event));
    field.addEventListener("input", () => this.draft.hidden && this.clear());
    field.addEventListener("compositionupdate", ({ data }) => this.show(data));
    field.addEventListener("compositionend", ({ data }) => {
      this.show("");
      this.type(data);
      this.clear();
    });
    field.addEventListener("paste", (event) => {
      event.preventDefault();
      this.pasted(event.clipboardData?.getData("text/plain") ?? "");
    });
    field.addEventListener("blur", () => this.releaseAll());
    this.clear();
  }

  /** What is typed goes there from now on; nowhere without. @param {((keysym: number, down: boolean) => void) | null} send */
  connect(send) {
    if (!send) this.releaseAll();
    this.send = send;
  }

  focus() {
    this.field.focus({ preventScroll: true });
  }

  get focused() {
    return document.activeElement === this.field;
  }

  /** Whether a phone shows its keyboard while the field has the focus. @param {boolean} shown */
  onScreen(shown) {
    this.field.inputMode = shown ? "text" : "none";
    if (!shown) return this.field.blur();
    this.focus();
  }

  /** A press of one key, with the modifiers that are held. @param {number} keysym */
  tap(keysym) {
    this.emit(keysym, true);
    this.emit(keysym, false);
    this.letGo();
  }

  /** @param {string} text */
  type(text) {
    if (isPlain(text)) {
      for (const keysym of keysymsOf(text)) this.tap(keysym);
    } else {
      this.push({ text });
      this.letGo();
    }
  }

  /** Holds a modifier down until the next key, or lets it go. @param {number} keysym */
  hold(keysym) {
    const down = !this.held.has(keysym);
    if (down) this.held.add(keysym);
    else this.held.delete(keysym);
    this.emit(keysym, down);
    this.onHeld(this.held);
  }

  letGo() {
    if (this.held.size === 0) return;
    for (const keysym of this.held) this.emit(keysym, false);
    this.held.clear();
    this.onHeld(this.held);
  }

  releaseAll() {
    this.keyboard.ungrab(); // releases what is down
    this.keyboard.grab();
    this.letGo();
  }

  /** What is a key, what is to become text, and what is for the page. */
  sort(event) {
    const { key, ctrlKey, metaKey, altKey, shiftKey } = event;
    if (event.isComposing || event.keyCode === 229 || LATER.includes(key)) {
      event.stopImmediatePropagation();
    } else if (isForeign(event)) {
      event.preventDefault();
      event.stopImmediatePropagation();
      this.type(key);
    } else if (key === "F6" && ctrlKey) {
      event.preventDefault();
      event.stopImmediatePropagation();
      this.leave();
    } else if (((ctrlKey || metaKey) && !altKey && key.toLowerCase() === "v") || (shiftKey && !ctrlKey && key === "Insert")) {
      // The browser pastes into the field, which needs nobody's leave.
      event.stopImmediatePropagation();
      if (!event.repeat) this.pasting = { keysym: key === "Insert" ? KEY.Insert : key.charCodeAt(0), metaKey };
    }
  }

  key(keysym, code, down) {
    if (!keysym || onlyChooses(keysym)) return;
    if (down && this.modified) this.shortcuts.set(code, ofShortcut(keysym, code));
    const sent = this.shortcuts.get(code) ?? keysym;
    if (!down) this.shortcuts.delete(code);
    this.emit(sent, down);
    if (isModifier(sent)) this.noteModifier(sent, down);
    else if (!down) this.letGo();
  }

  noteModifier(keysym, down) {
    if (down) this.modifiers.add(keysym);
    else this.modifiers.delete(keysym);
  }

  /** A modifier is down that makes a shortcut of a key; Shift does not. */
  get modified() {
    return [...this.modifiers, ...this.held].some((keysym) => keysym >= KEY.Control_L);
  }

  emit(keysym, down) {
    this.push({ keysym, down });
  }

  /** One step after the other; keys alone wait for nothing. @param {{keysym?: number, down?: boolean, text?: string, paste?: string}} step */
  push(step) {
    this.steps.push(step);
    if (!this.running) this.run();
  }

  async run() {
    this.running = true;
    while (this.steps.length > 0) {
      const step = this.steps.shift();
      if (step.text) {
        // Both ways end at the same display, and nothing tells when a key has arrived there.
        const early = this.sentAt + AHEAD - performance.now();
        if (early > 0) await new Promise((resolve) => setTimeout(resolve, early));
        await this.write(step.text + this.following());
      } else if (step.paste) {
        const there = await this.paste(step.paste).then(() => true, () => false);
        // The key would paste what was there before.
        if (!there) this.steps.splice(0, step.keys);
      } else {
        this.send?.(step.keysym, step.down);
        this.sentAt = performance.now();
      }
    }
    this.running = false;
  }

  /** What waits behind a text and is text, too, goes with it. @returns {string} */
  following() {
    let text = "";
    for (;;) {
      const [next] = this.steps;
      const more = next?.text ?? textOfKey(next?.keysym);
      if (!more) return text;
      // A key that is let go of has typed when it was pressed.
      if (next.text || next.down) text += more;
      this.steps.shift();
    }
  }

  /** Text and deletions of on-screen keyboards and the like. What is composed comes when it is done. */
  edit(event) {
    const { inputType, data } = event;
    if (event.isComposing || inputType.includes("omposition")) return;
    event.preventDefault();
    const keys = { deleteContentBackward: KEY.BackSpace, deleteWordBackward: KEY.BackSpace, deleteContentForward: KEY.Delete };
    if (inputType in keys) this.tap(keys[inputType]);
    else if (inputType === "insertLineBreak" || inputType === "insertParagraph") this.tap(KEY.Return);
    else this.type(data ?? event.dataTransfer?.getData("text/plain") ?? "");
  }

  /** The text, then the key that pastes it there. @param {string} text */
  pasted(text) {
    const keys = this.pasting;
    this.pasting = null;
    // From a menu, or a phone's keyboard: there is no key that the desktop would understand.
    if (!keys) return this.type(text);
    const steps = [true, false].map((down) => ({ keysym: keys.keysym, down }));
    if (keys.metaKey) {
      // What the desktop's programs know is Control, not Command.
      this.releaseAll();
      steps.unshift({ keysym: KEY.Control_L, down: true });
      steps.push({ keysym: KEY.Control_L, down: false });
    }
    if (text) this.push({ paste: text, keys: steps.length });
    for (const step of steps) this.push(step);
  }

  show(text) {
    this.draft.textContent = text;
    this.draft.hidden = !text;
  }

  clear() {
    this.field.value = FILLER;
    this.field.setSelectionRange(FILLER.length, FILLER.length);
  }
}
