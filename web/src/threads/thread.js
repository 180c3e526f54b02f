// The open thread: its turns from top to bottom, kept at the end while the reader is there.

import { element } from "../dom.js";
import { isActive } from "./model.js";
import { OFFERS } from "./offers.js";
import { TurnView } from "./turn.js";

/** Turns that are shown at first, and more with each press of the button. */
const SHOWN = 40;
/** Pixels from the end within which the reader counts as being there. */
const NEAR = 60;
/** Milliseconds after a touch or a key within which scrolling comes from it. */
const BY_HAND = 400;

export class ThreadView {
  /** @param {object} acts what buttons do @param {import("./announce.js").Announcer} announcer */
  constructor(acts, announcer) {
    this.acts = acts;
    this.announcer = announcer;
    this.moved = -BY_HAND;
    this.turns = element("div", { className: "turns" });
    this.earlier = element("button", { type: "button", className: "secondary earlier", textContent: "Show earlier turns" });
    this.earlier.addEventListener("click", () => this.goBack());
    this.log = element("div", { className: "log", tabIndex: 0 }, this.earlier, this.turns);
    this.log.setAttribute("role", "log");
    // The announcer tells what is new, in sentences.
    this.log.setAttribute("aria-live", "off");
    this.log.setAttribute("aria-label", "Conversation");
    this.end = element("button", { type: "button", className: "secondary to-end", textContent: "↓ Newest", hidden: true });
    this.end.addEventListener("click", () => this.toEnd());
    this.root = element("div", { className: "thread" }, this.log, this.end);
    this.log.addEventListener("scroll", () => this.scrolled());
    for (const name of ["wheel", "touchmove", "pointerdown", "keydown"]) {
      this.log.addEventListener(name, () => (this.moved = performance.now()), { passive: true });
    }
    // What is above may change its height, too: the end stays the end.
    new ResizeObserver(() => this.settle()).observe(this.turns);
    new ResizeObserver(() => this.settle()).observe(this.log);
    this.clear();
  }

  clear() {
    this.thread = null;
    this.views = new Map();
    this.places = new Map(); // entry → its turn's view
    this.current = null;
    this.hiddenTurns = [];
    this.turns.replaceChildren();
    this.earlier.hidden = true;
    this.end.hidden = true;
    this.atEnd = true;
  }

  /** Shows a thread from its snapshot. @param {import("./model.js").Thread} thread @param {number} most turns at first */
  show(thread, most = SHOWN) {
    const stay = this.thread?.id === thread.id && !this.atEnd ? this.log.scrollTop : null;
    this.clear();
    this.thread = thread;
    const groups = groupsOf(thread);
    this.hiddenTurns = groups.splice(0, Math.max(0, groups.length - most));
    for (const group of groups) this.turns.append(this.make(group).root);
    this.offerEarlier();
    if (stay === null) this.toEnd();
    else this.log.scrollTop = stay;
  }

  make({ turn, entries }) {
    const view = new TurnView(turn, this.acts);
    this.views.set(turn?.id ?? null, view);
    if (turn) turn.resent = [...this.thread.turns.values()].some((other) => other.resend_of === turn.id);
    for (const entry of entries) this.place(view, entry);
    for (const question of this.thread.questions.values()) {
      if ((question.turn ?? null) === (turn?.id ?? null)) view.question(question);
    }
    for (const custom of this.thread.customs) if ((custom.turn ?? null) === (turn?.id ?? null)) this.custom(view, custom);
    if (turn) view.update();
    return view;
  }

  place(view, entry, before) {
    this.places.set(entry.id, view);
    this.current = view;
    return view.addEntry(entry, before);
  }

  offerEarlier() {
    this.earlier.hidden = this.hiddenTurns.length === 0 && !this.thread.before;
  }

  /** Shows what is here already, else asks for it. */
  async goBack() {
    if (this.hiddenTurns.length > 0) {
      this.showEarlier();
      return;
    }
    this.earlier.disabled = true;
    await this.acts.earlier().catch(() => {}); // the button is still there
    this.earlier.disabled = false;
  }

  /** More of the open thread is known at its beginning: what is looked at stays where it is. */
  extend() {
    const { log, thread } = this;
    const below = log.scrollHeight - log.scrollTop;
    this.show(thread, this.views.size + SHOWN);
    this.atEnd = false;
    log.scrollTop = log.scrollHeight - below;
  }

  /** What an agent offers stands above. */
  custom(view, custom) {
    if (custom.name !== OFFERS) view.custom(custom);
  }

  showEarlier() {
    const height = this.log.scrollHeight;
    const { current } = this;
    const more = this.hiddenTurns.splice(-SHOWN);
    this.turns.prepend(...more.map((group) => this.make(group).root));
    this.current = current;
    this.offerEarlier();
    this.log.scrollTop += this.log.scrollHeight - height;
  }

  /** The view of a turn, or of what came last where the turn is not known. */
  viewOf(id) {
    const known = this.views.get(id ?? null);
    if (known) return known;
    if (this.thread.turns.has(id) || !this.current) {
      const turn = this.thread.turns.get(id) ?? null;
      const view = this.make({ turn, entries: [] });
      this.turns.append(view.root);
      return view;
    }
    return this.current;
  }

  /** One change of the open thread. @param {import("./model.js").Change} change */
  change(change) {
    switch (change.what) {
      case "turn":
        this.turnChanged(change.turn);
        break;
      case "entry":
        this.entryChanged(change);
        break;
      case "question":
        this.viewOf(change.question.turn).question(change.question);
        if (change.question.status === "open") this.announcer.say(`The agent asks: ${change.question.message}`);
        break;
      case "custom":
        this.custom(this.viewOf(change.custom.turn), change.custom);
        break;
      default:
        return;
    }
    this.settle();
  }

  turnChanged(turn) {
    if (this.hiddenTurns.some((group) => group.turn?.id === turn.id)) return;
    const before = this.views.get(turn.id)?.root.dataset.state;
    const view = this.viewOf(turn.id);
    view.update();
    if (before && before !== turn.state && !isActive(turn)) this.announcer.say(`Turn ${turn.state}.`);
    const first = this.thread.turns.get(turn.resend_of);
    if (!first || first.resent) return;
    first.resent = true;
    this.views.get(first.id)?.update();
  }

  entryChanged(change) {
    const { entry } = change;
    const view = this.places.get(entry.id);
    if (view) view.entries.get(entry.id).update(change);
    else if (change.how === "new") this.place(this.viewOf(entry.turn), entry, change.before);
    if (entry.role !== "assistant") return;
    if (entry.tool) {
      if (change.how === "new") this.announcer.say(`Tool: ${entry.tool.name}`);
    } else if (change.how === "new") this.announcer.add(`${entry.text}`);
    else if (change.how === "append") this.announcer.add(change.text);
  }

  /** Browsers scroll by themselves when something above changes its height: only a person leaves the end. */
  scrolled() {
    const now = performance.now();
    if (this.isAtEnd()) {
      this.atEnd = true;
      this.end.hidden = true;
    } else if (now - this.moved < BY_HAND) {
      this.atEnd = false;
      this.end.hidden = false;
      this.moved = now;
    }
  }

  isAtEnd() {
    return this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < NEAR;
  }

  /** After something changed: stays at the end, or offers the way there. Once per picture. */
  settle() {
    if (this.settling) return;
    this.settling = true;
    requestAnimationFrame(() => {
      this.settling = false;
      if (this.atEnd) this.log.scrollTop = this.log.scrollHeight;
      else this.end.hidden = this.isAtEnd();
    });
  }

  toEnd() {
    this.atEnd = true;
    this.end.hidden = true;
    this.settle();
  }
}

/** Turns with their entries; what belongs to no known turn stays where it was said. */
function groupsOf(thread) {
  const before = { turn: null, entries: [] };
  const groups = new Map([...thread.turns.values()].map((turn) => [turn.id, { turn, entries: [] }]));
  let current = before;
  for (const entry of thread.entries.values()) {
    current = groups.get(entry.turn) ?? current;
    current.entries.push(entry);
  }
  const loose = [...thread.questions.values(), ...thread.customs].some((one) => !groups.has(one.turn));
  return before.entries.length > 0 || loose ? [before, ...groups.values()] : [...groups.values()];
}
