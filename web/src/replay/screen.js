// The picture of a recording: an RFB client for each segment, which is put in the place of the one before once it has
// drawn what it is to show.

import RFB from "@novnc/novnc";
import { initLogging } from "../../node_modules/@novnc/novnc/core/util/logging.js";
import { element } from "../dom.js";
import { Channel } from "./channel.js";

// A client that is ended in the middle of a picture says so on the console; what is wrong is told by its event.
initLogging("none");

/** What cannot be drawn for so long, in milliseconds, is shown as it is. */
const PATIENCE = 1_000;

export class Screen {
  /** @param {HTMLElement} place @param {() => void} onBroken what was recorded is not what a display says */
  constructor(place, onBroken) {
    this.place = place;
    this.onBroken = onBroken;
    this.current = null;
    this.next = null;
    /** What is seen until the current one is. */
    this.former = [];
  }

  /** Another segment begins. */
  begin() {
    this.next?.end();
    this.next = this.client();
  }

  client() {
    const root = element("div", { className: "replay-screen unseen-screen" });
    this.place.append(root);
    const channel = new Channel();
    const rfb = new RFB(root, channel, { shared: true });
    rfb.viewOnly = true;
    rfb.scaleViewport = true;
    rfb.background = "transparent";
    rfb.addEventListener("disconnect", ({ detail }) => !detail.clean && this.onBroken());
    const end = () => {
      rfb.disconnect();
      root.remove();
    };
    // Films have JPEGs, which the browser unpacks while the rest waits.
    const drawn = async () => {
      const display = rfb._display;
      const until = performance.now() + PATIENCE;
      while (display.pending() && performance.now() < until) {
        await Promise.race([display.flush(), new Promise((resolve) => setTimeout(resolve, PATIENCE))]);
      }
    };
    return { root, channel, end, drawn };
  }

  /** What the display said next. @param {Uint8Array} bytes */
  feed(bytes) {
    (this.next ?? this.current)?.channel.feed(bytes);
  }

  /** All that belongs to this moment was fed: it is shown. */
  show() {
    const { next } = this;
    if (!next) return;
    this.next = null;
    if (this.current) this.former.push(this.current);
    this.current = next;
    // noVNC stops in the middle where it has just got in; nothing more wakes it.
    next.channel.feed(new Uint8Array(0));
    next.drawn().then(() =>
      requestAnimationFrame(() => {
        // Another one has taken its place before it was seen.
        if (this.current !== next) return;
        next.root.classList.remove("unseen-screen");
        for (const former of this.former.splice(0)) former.end();
      }),
    );
  }
}
