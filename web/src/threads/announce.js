// New text for people who listen: whole sentences, not each piece of a stream.

import { element } from "../dom.js";
import { sentenceEnd } from "./words.js";

const EVERY = 1_500;
/** Lines that stay in the region: what was read is of no use. */
const KEPT = 10;
/** More at once nobody wants to hear. */
const MOST = 1_000;

export class Announcer {
  constructor() {
    this.root = element("div", { className: "unseen" });
    this.root.setAttribute("aria-live", "polite");
    this.pending = "";
    this.timer = 0;
  }

  /** A piece of a text that grows. */
  add(text) {
    this.pending = (this.pending + text).slice(-MOST);
    this.timer ||= setTimeout(() => this.flush(sentenceEnd(this.pending)), EVERY);
  }

  /** One thing, at once, after all that is pending. */
  say(text) {
    this.pending += `\n${text}`;
    this.flush(this.pending.length);
  }

  flush(end) {
    clearTimeout(this.timer);
    this.timer = 0;
    const text = this.pending.slice(0, end).trim();
    this.pending = this.pending.slice(end);
    if (text) this.root.append(element("p", { textContent: text }));
    while (this.root.childElementCount > KEPT) this.root.firstElementChild.remove();
  }

  /** Another thread: what is pending belongs to the former one. */
  clear() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.pending = "";
    this.root.replaceChildren();
  }
}
