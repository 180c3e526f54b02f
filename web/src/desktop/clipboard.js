// The clipboard both ways.
//
// From the desktop it comes with the picture (VNC's extended clipboard, any Unicode). It goes into this machine's
// clipboard by itself while somebody works in the desktop; else it waits behind a button, as a page that wrote it unasked
// could slip in what is pasted somewhere else. To the desktop it goes by the API, which holds it there also when this
// page is closed, and says why where it does not.

import { api } from "../api.js";
import { element } from "../dom.js";

/** Characters of a text that are taken from the desktop: as many as go there. */
const MOST = 1 << 20;

export class Clipboard {
  /**
   * @param {string} session @param {string} seat
   * @param {{works: () => boolean, onNews: (waits: boolean) => void}} hooks somebody works in the desktop now; a text waits
   *   for somebody to take it
   */
  constructor(session, seat, { works, onNews }) {
    this.path = `/api/v1/sessions/${encodeURIComponent(session)}/clipboard`;
    Object.assign(this, { seat, works, onNews });
    this.box = element("textarea", { id: "clipboard", rows: 4, spellcheck: false, placeholder: "What is copied on the desktop appears here." });
    this.copy = element("button", { type: "button", className: "secondary small", textContent: "Copy to this device" });
    this.put = element("button", { type: "button", className: "secondary small", textContent: "Put on the desktop" });
    this.words = element("p", { className: "quiet words" });
    this.words.setAttribute("role", "status");
    this.root = element(
      "section",
      { className: "clipboard" },
      element("label", { htmlFor: "clipboard", textContent: "Clipboard of the desktop" }),
      this.box,
      element("div", { className: "row" }, this.copy, this.put),
      this.words,
    );
    this.copy.addEventListener("click", () => this.take());
    this.put.addEventListener("click", () => this.give(this.box.value).catch(() => {}));
  }

  /** Whether a text may go to the desktop. @param {boolean} may */
  mayType(may) {
    this.put.disabled = !may;
  }

  /** Something was copied on the desktop. @param {string} text */
  async heard(text) {
    if (!text || text === this.box.value) return;
    if (text.length > MOST) return this.say("More than 1 MiB was copied on the desktop: too much for the page.");
    this.box.value = text;
    this.say("");
    let taken = false;
    if (this.works()) taken = await navigator.clipboard?.writeText(text).then(() => true, () => false);
    this.onNews(!taken);
  }

  /** Into this machine's clipboard, by a press of the button. */
  async take() {
    const { box } = this;
    // Without TLS a page has no other way than its own selection.
    const taken = await navigator.clipboard?.writeText(box.value).then(() => true, () => false);
    if (!taken) box.select();
    this.say(taken || document.execCommand("copy") ? "Copied." : "This browser does not let the page copy; select the text and copy it.");
    this.onNews(false);
  }

  /** Into the desktop's. @param {string} text */
  async give(text) {
    try {
      await api(this.path, { method: "PUT", body: { text }, headers: { "x-helix-seat": this.seat } });
      this.box.value = text;
      this.say("It is on the desktop: paste it there.");
    } catch (fault) {
      this.say(fault.message);
      this.onNews(true);
      throw fault;
    }
  }

  say(text) {
    this.words.textContent = text;
  }
}
