// The desktop's place on the page and all that belongs to it: picture, keyboard, key bar, clipboard, menu.

import { api } from "../api.js";
import { byId } from "../dom.js";
import { short } from "../words.js";
import { Clipboard } from "./clipboard.js";
import { openDesktop } from "./connection.js";
import { KeyBar } from "./keybar.js";
import { Keys } from "./keys.js";
import { DesktopMenu } from "./menu.js";
import { Pointer } from "./pointer.js";

/** Fingers instead of a mouse: no keyboard but the one on the screen. */
const TOUCH = matchMedia("(pointer: coarse)").matches;

/** The desktop takes the keyboard only where nothing else has it: somebody may be writing a prompt. */
function nobodyTypes() {
  return !document.activeElement || document.activeElement === document.body;
}

export class Stage {
  /** @param {string} session @param {string} seat @param {(text: string) => void} onFault what was typed did not arrive */
  constructor(session, seat, onFault) {
    this.session = session;
    this.onFault = onFault;
    this.seat = seat;
    this.desktop = null;
    this.may = true; // the gate decides all the same
    this.clipboard = new Clipboard(session, seat, {
      works: () => this.keys.focused && document.hasFocus(),
      onNews: (waits) => this.menu.mark(waits),
    });
    this.keys = new Keys(byId("desktop-keys"), byId("draft"), {
      paste: (text) => this.clipboard.give(text),
      write: (text) => this.write(text),
      leave: () => byId("screen").focus(),
      onHeld: (held) => this.keyBar.show(held),
    });
    this.keyBar = new KeyBar(byId("key-bar"), this.keys, TOUCH);
    this.menu = new DesktopMenu(byId("desktop-button"), byId("desktop-menu"), {
      clipboard: this.clipboard.root,
      keyBar: byId("key-bar"),
      stage: byId("stage"),
      onSize: (size) => this.desktop?.setSize(size),
      touch: TOUCH,
    });
    this.pointer = new Pointer(byId("pointer"), byId("screen"), session);
    byId("screen").addEventListener("pointerdown", ({ pointerType }) => {
      if (pointerType === "mouse" || !this.keys.focused) this.keys.focus();
    });
    byId("screen").addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      this.keys.focus();
    });
    if (TOUCH) byId("desktop-keys").inputMode = "none";
    byId("stage").addEventListener("fullscreenchange", () => document.fullscreenElement && this.keys.focus());
    this.mayType(this.may);
  }

  /** A connection. @param {(role: "view" | "control") => void} onConnected */
  async open(onConnected) {
    this.desktop = await openDesktop(byId("screen"), this.session, this.seat, {
      onConnected: (role) => {
        byId("desktop-button").hidden = false;
        this.pointer.start();
        if (role === "view") this.mayType(false);
        if (nobodyTypes()) this.keys.focus();
        onConnected(role);
      },
      onCopied: (text) => this.clipboard.heard(text),
    });
    this.keys.connect(this.desktop.key);
    this.desktop.setSize(this.menu.size.value);
    this.mayType(this.may);
    this.desktop.ended.then(() => this.left());
    return this.desktop;
  }

  /** Types by the API what no key of the display's gives. @param {string} text */
  async write(text) {
    try {
      const body = { actions: [{ type: "text", text }] };
      await api(`/api/v1/sessions/${encodeURIComponent(this.session)}/input`, { method: "POST", body, headers: { "x-helix-seat": this.seat } });
    } catch (fault) {
      this.onFault(`${JSON.stringify(short(text, 20))} was not typed: ${fault.message}`);
    }
  }

  left() {
    this.desktop = null;
    this.keys.connect(null);
    this.menu.show(false);
    this.pointer.stop();
    byId("desktop-button").hidden = true;
    byId("key-bar").hidden = true;
  }

  /** Whether what is typed here is heard. @param {boolean} may */
  mayType(may) {
    this.may = may;
    this.desktop?.mayType(may);
    this.clipboard.mayType(may);
    this.menu.mayType(may);
    byId("key-bar").hidden = !may || !this.desktop;
  }
}
