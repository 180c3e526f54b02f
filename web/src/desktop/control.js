// Who may type in the desktop: shown in the bar, taken and handed back with one button.
//
// While this tab holds the control it renews it; a tab that is closed hands it back, and one that dies loses it by time.

import { api } from "../api.js";

/** What was looked at so long ago, in milliseconds, is looked at again: an event can be lost. */
const OLD = 60_000;
/** How soon a look that failed is tried again, in milliseconds. */
const AGAIN = 2_000;
/** Seconds until the control is free again when this tab says nothing more, and between two renewals. */
const TTL = 90;
const RENEW = 30;
const KEY = "helix.seat";

/** This tab, in tickets and in the lease: the same after a reload. */
function seatOfTab() {
  const known = sessionStorage.getItem(KEY);
  if (known) return known;
  const made = `tab-${crypto.randomUUID().slice(0, 8)}`;
  sessionStorage.setItem(KEY, made);
  return made;
}

export class Control {
  /**
   * @param {string} session @param {HTMLElement} words @param {HTMLButtonElement} button
   * @param {(mayType: boolean) => void} onChange whether what is typed here is heard
   */
  constructor(session, words, button, onChange) {
    this.path = `/api/v1/sessions/${encodeURIComponent(session)}/control`;
    this.words = words;
    this.button = button;
    this.onChange = onChange;
    this.seat = seatOfTab();
    this.view = null;
    this.shown = false;
    this.looksOnly = false;
    this.readAt = 0;
    this.fault = "";
    button.addEventListener("click", () => this.press());
    addEventListener("pagehide", () => this.mine && this.leave());
  }

  /** True while this tab holds it. */
  get mine() {
    return this.view?.holder?.seat === this.seat;
  }

  get isOld() {
    return performance.now() - this.readAt > OLD;
  }

  get mayType() {
    return !this.looksOnly && (!this.view?.holder || this.mine);
  }

  /** The desktop is there, for who may drive it or only look. @param {"view" | "control"} role */
  async show(role) {
    this.looksOnly = role === "view";
    this.shown = true;
    // A session that was made again counts from 0.
    this.view = null;
    await this.read();
  }

  /** The desktop is gone: nothing to control. */
  hide() {
    this.shown = false;
    clearTimeout(this.timer);
    this.words.hidden = true;
    this.button.hidden = true;
  }

  /** As it is now. What fails is tried again. */
  async read() {
    this.readAt = performance.now();
    try {
      this.take(await api(this.path));
    } catch (fault) {
      // A session that has ended has none any more; whatever else is wrong passes.
      if ([403, 404].includes(fault.status)) this.hide();
      else if (this.mine) this.renewLater();
      else this.lookAgain();
    }
  }

  lookAgain() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.shown && this.read(), AGAIN);
  }

  renewLater() {
    clearTimeout(this.timer);
    if (this.mine) this.timer = setTimeout(() => this.renew(), RENEW * 1000);
  }

  /** Somebody else's change, as the feed tells it. */
  heard(event) {
    if (this.shown && event.epoch > (this.view?.epoch ?? -1)) this.take({ ...this.view, epoch: event.epoch, holder: event.holder ?? null });
  }

  /** What an answer or an event says; an older one that comes late says nothing. */
  take(view) {
    if (view.epoch < (this.view?.epoch ?? -1)) return;
    this.view = view;
    this.fault = "";
    this.renewLater();
    this.draw();
    this.onChange(this.mayType);
  }

  draw() {
    const { holder } = this.view;
    this.words.hidden = false;
    this.words.dataset.state = this.mine ? "mine" : holder ? "taken" : "free";
    if (this.fault) this.words.textContent = this.fault;
    else if (this.mine) this.words.textContent = "You have the control";
    else if (holder) this.words.textContent = `${holder.by} has the control`;
    else this.words.textContent = this.looksOnly ? "You only look" : "";
    this.words.title = holder ? `seat ${holder.seat}, since ${new Date(holder.since).toLocaleString()}` : "";
    this.button.hidden = this.looksOnly;
    this.button.textContent = this.mine ? "Hand back" : "Take control";
    this.button.setAttribute("aria-pressed", String(this.mine));
  }

  async press() {
    this.button.disabled = true;
    await this.change(this.mine);
    this.button.disabled = false;
  }

  async renew() {
    await this.change(false, true);
  }

  async change(handBack, ifFree = false) {
    try {
      const { seat } = this;
      if (handBack) this.take(await api(`${this.path}?seat=${seat}`, { method: "DELETE" }));
      else this.take(await api(this.path, { method: "PUT", body: { seat, ttl_seconds: TTL, if_free: ifFree } }));
    } catch (fault) {
      await this.read();
      if (ifFree || !this.view) return;
      this.fault = fault.message;
      this.draw();
    }
  }

  /** The last word of a page that is left: nothing waits for its answer. */
  leave() {
    api(`${this.path}?seat=${this.seat}`, { method: "DELETE", keepalive: true }).catch(() => {});
  }
}
