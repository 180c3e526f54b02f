// One terminal of the session: xterm.js on its line. It lives in the session; this only looks at it.

import { FitAddon } from "@xterm/addon-fit";
import { Unicode11Addon } from "@xterm/addon-unicode11";
import { Terminal as Screen } from "@xterm/xterm";
import { element } from "../dom.js";
import { Line } from "./line.js";
import "./sheet.js";

/** Lines that can be scrolled back to; the session itself keeps 256 KiB. */
const SCROLLBACK = 5_000;
/** As the stage: a terminal is dark in both schemes. */
const THEME = { background: "#16181d", foreground: "#e8eaf0", cursor: "#e8eaf0", selectionBackground: "#4f46e599" };
const FONT = 'ui-monospace, "Cascadia Mono", "DejaVu Sans Mono", monospace';

export class Terminal {
  /**
   * @param {string} path @param {string} name
   * @param {object} hooks
   * @param {() => Promise<boolean>} hooks.before whether there is something to connect to
   * @param {(text: string) => void} hooks.onState the line is broken; "" where it stands
   * @param {(words: string) => void} hooks.onEnd
   * @param {() => void} hooks.leave the keyboard is wanted elsewhere on the page
   */
  constructor(path, name, { before, onState, onEnd, leave }) {
    this.name = name;
    this.root = element("div", { className: "terminal-place", hidden: true });
    this.ended = "";
    this.screen = new Screen({
      allowProposedApi: true, // the widths of Unicode 11
      cursorBlink: false,
      fontFamily: FONT,
      fontSize: 13,
      scrollback: SCROLLBACK,
      theme: THEME,
    });
    this.fit = new FitAddon();
    this.screen.loadAddon(this.fit);
    this.screen.loadAddon(new Unicode11Addon());
    this.screen.unicode.activeVersion = "11";
    this.screen.attachCustomKeyEventHandler((event) => this.ours(event, leave));
    this.encoder = new TextEncoder();
    this.screen.onData((text) => this.line?.send(this.encoder.encode(text)));
    this.screen.onBinary((text) => this.line?.send(Uint8Array.from(text, (character) => character.charCodeAt(0))));
    this.screen.onResize((size) => this.line?.resize(size));
    this.observer = new ResizeObserver(() => this.fitNow());
    this.observer.observe(this.root);
    this.hooks = {
      before,
      size: () => this.screen,
      onAttached: () => {
        this.screen.reset();
        this.screen.options.disableStdin = false;
        onState("");
        this.line.resize(this.screen); // it may have changed meanwhile
      },
      onBytes: (bytes, done) => this.screen.write(bytes, done),
      onExit: ({ exit_status: status, signal }) => this.end(signal ? `ended by ${signal}` : `ended with exit status ${status}`, onEnd),
      onBroken: (why) => {
        this.screen.options.disableStdin = true;
        onState(why);
      },
    };
    this.path = path;
  }

  /** Shown for the first time it connects: only then its size is known. */
  show() {
    this.root.hidden = false;
    if (!this.opened) {
      this.opened = true;
      this.screen.open(this.root);
      this.screen.textarea.setAttribute("aria-label", `Terminal ${this.name}; Ctrl+F6 leaves it`);
    }
    this.fitNow();
    if (!this.line && !this.ended) this.line = new Line(this.path, this.hooks);
  }

  hide() {
    this.root.hidden = true;
  }

  focus() {
    this.screen.focus();
  }

  fitNow() {
    if (this.opened && this.root.clientWidth > 0) this.fit.fit();
  }

  end(words, onEnd) {
    this.ended = words;
    this.screen.options.disableStdin = true;
    this.screen.write(`\r\n\x1b[2m[${words}]\x1b[0m\r\n`);
    onEnd(words);
  }

  /** True for what the program gets; the page keeps copying, pasting and leaving. */
  ours(event, leave) {
    const { key, type, ctrlKey, metaKey, altKey, shiftKey } = event;
    if (key === "F6" && ctrlKey) {
      if (type === "keydown") leave();
      return false;
    }
    const letter = ctrlKey && !metaKey && !altKey ? key.toLowerCase() : "";
    if (letter === "c" && (shiftKey || this.screen.hasSelection())) {
      if (type === "keydown") {
        event.preventDefault();
        // By the page's own copying, which needs nobody's leave: xterm.js gives it what is selected.
        document.execCommand("copy");
        this.screen.clearSelection();
      }
      return false;
    }
    // The browser pastes, and xterm.js takes what comes.
    return letter !== "v";
  }

  close() {
    this.line?.stop();
    this.observer.disconnect();
    this.screen.dispose();
    this.root.remove();
  }
}
