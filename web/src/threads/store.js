// Conversations of one session, kept up to date: the list of threads, and one thread that is open.
//
// Snapshot, then feed: the list says after which sequence the feed begins; of the thread that is opened, events that
// arrive while its pages are read wait, and those that a page has already are left out by the fold. A gap, or a thread
// that went on without the feed, is read again from the snapshot.

import { Backoff } from "../backoff.js";
import { Thread, isWhole, sumOf } from "./model.js";

/** A burst of events is one reading of the list. */
const CALM = 250;
/** Without any event the list is read so often: a feed that is dead may not say so. */
const LOOK = 30_000;
/** A feed that is behind the list gets so much time. */
const GRACE = 5_000;
/** Entries that are read at once of what was said before. */
const EARLIER = 200;
/** A snapshot older than what the feed has told already is asked for again, so often. */
const TRIES = 3;

/** A clock as the store needs it. */
const CLOCK = { set: (call, wait) => setTimeout(call, wait), clear: (timer) => clearTimeout(timer) };

export class Store {
  /**
   * @param {object} parts
   * @param {ReturnType<import("./client.js").routesOf>} parts.routes
   * @param {typeof import("../feed.js").follow} parts.follow
   * @param {(news: object) => void} parts.onNews `{what: "list" | "opening" | "opened" | "earlier" | "closed" | "feed" | "fault" |
   *   "session"}`, or a change of the open thread
   */
  constructor({ routes, follow, onNews, clock = CLOCK }) {
    Object.assign(this, { routes, follow, onNews, clock });
    this.list = [];
    this.open = null; // {id, thread, waiting, reading, failed}
    this.seen = new Map(); // last sequence that the feed told of each thread
    this.feed = null;
    this.feedState = "connecting";
    this.sequence = 0; // last of the feed
    this.backoff = new Backoff();
    this.timers = {};
    this.stopped = false;
  }

  /** Reads the list, then follows the feed. Tried again until it works or the session is not there for us. */
  async start() {
    try {
      await this.readList();
    } catch (fault) {
      if (this.stopped) return;
      this.onNews({ what: "fault", fault });
      if (fault.status === 401 || fault.status === 403 || fault.status === 404) return;
      this.later("start", this.backoff.next(), () => this.start());
      return;
    }
    if (this.stopped) return;
    this.backoff.reset();
    this.feed = this.follow({
      path: this.routes.feed,
      after: this.sequence,
      onItem: (item) => this.take(item),
      onState: (state) => {
        this.feedState = state;
        this.onNews({ what: "feed", state });
      },
    });
    this.look();
  }

  stop() {
    this.stopped = true;
    this.feed?.stop();
    for (const timer of Object.values(this.timers)) this.clock.clear(timer);
  }

  /** One timer of a name: the first one counts. */
  later(name, wait, call) {
    this.timers[name] ??= this.clock.set(() => {
      delete this.timers[name];
      if (!this.stopped) call();
    }, wait);
  }

  async readList() {
    const { threads } = await this.routes.list().catch((fault) => {
      // Removed: what was read stays to be looked at, and nobody is asked any more.
      if (fault.code === "session_not_found" && this.feed && !this.stopped) {
        this.stop();
        this.onNews({ what: "fault", fault });
      }
      throw fault;
    });
    if (this.stopped) return;
    this.list = threads;
    // Where the feed begins; later it knows better.
    if (!this.feed) this.sequence = Math.max(0, ...threads.map((thread) => thread.sequence));
    this.onNews({ what: "list" });
  }

  refresh() {
    this.later("list", CALM, () => this.readList().catch((fault) => this.stopped || this.onNews({ what: "fault", fault })));
  }

  /** Level-triggered: whatever the feed says, the list is right sooner or later. */
  look() {
    this.later("look", LOOK, async () => {
      await this.readList().catch(() => {});
      if (this.stopped) return;
      if (this.behind()) this.later("behind", GRACE, () => this.behind() && this.catchUp());
      this.look();
    });
  }

  /** True when the list knows events that the feed has not told. */
  behind() {
    return this.list.some((view) => view.sequence > this.sequence);
  }

  catchUp() {
    if (this.feedState === "live") this.feed.restart();
    else this.reload();
  }

  /** Every thread as the list shows it, newest activity first; the open one from what is known here. */
  summaries() {
    const open = this.open?.thread;
    const all = this.list.map((view) => (view.id === open?.id && view.sequence <= open.sequence ? { ...view, ...open.summary() } : view));
    if (open && !all.some((view) => view.id === open.id)) all.push(open.summary());
    return all.sort((a, b) => (a.last_activity_at < b.last_activity_at ? 1 : -1));
  }

  usage() {
    return sumOf(...this.summaries().map((view) => view.usage));
  }

  /** The next item of the feed. */
  take(item) {
    if (item.type === "gap") {
      // Lower than before where the store was emptied and counts anew.
      this.sequence = item.to - 1;
      this.seen.clear();
      this.reload();
      return;
    }
    this.sequence = item.sequence;
    if (item.thread === "_") {
      this.onNews({ what: "session", item });
      return;
    }
    this.seen.set(item.thread, item.sequence);
    const { open } = this;
    if (open?.id !== item.thread) {
      // A text that grows changes nothing in the list.
      if (item.type !== "entry") this.refresh();
      return;
    }
    if (open.reading) open.waiting.push(item);
    if (open.thread) this.tell(open.thread.apply(item));
  }

  tell(changes) {
    for (const change of changes) this.onNews(change);
  }

  /** Reads everything again; what is shown stays until then. */
  reload() {
    this.refresh();
    if (this.open) this.read(this.open);
  }

  /** Opens a thread in place of the former one. @param {string} id */
  show(id) {
    this.open = { id, thread: null, waiting: [], reading: null, failed: false };
    this.onNews({ what: "opening" });
    return this.read(this.open);
  }

  /** No thread is open. */
  close() {
    this.open = null;
    this.onNews({ what: "closed" });
  }

  async read(open) {
    const mine = {};
    Object.assign(open, { reading: mine, waiting: [], failed: false });
    const stale = () => this.stopped || this.open !== open || open.reading !== mine;
    try {
      const thread = await this.snapshot(open, stale);
      if (stale()) return;
      for (const item of open.waiting) thread.apply(item);
      Object.assign(open, { thread, waiting: [], reading: null });
      this.backoff.reset();
      this.onNews({ what: "opened" });
      await this.complete(thread);
    } catch (fault) {
      if (stale()) return;
      this.onNews({ what: "fault", fault });
      open.failed = fault.status !== 404;
      this.later("read", this.backoff.next(), () => this.open?.failed && this.read(this.open));
    }
  }

  /** The end of a thread: what was said last. */
  async snapshot(open, stale) {
    const told = this.seen.get(open.id) ?? 0;
    for (let left = TRIES; ; left -= 1) {
      const page = await this.routes.newest(open.id);
      if (stale()) return null;
      // What the feed has told before nobody tells again: a page without it comes from a replica that is behind.
      if (page.sequence < told && left > 0) continue;
      return new Thread(page);
    }
  }

  /** Reads what was said before what is here of the open thread. */
  async earlier() {
    const thread = this.open?.thread;
    if (!thread || thread.before === 0) return;
    const entries = [];
    const first = Math.max(0, thread.before - EARLIER);
    for (let at = first; at < thread.before; ) {
      const page = await this.routes.page(thread.id, at, thread.before - at);
      if (this.open?.thread !== thread) return;
      if (page.entries.length === 0) break;
      entries.push(...page.entries.map((view) => ({ view, sequence: page.sequence })));
      at += page.entries.length;
    }
    thread.addEarlier(first, entries);
    this.onNews({ what: "earlier" });
  }

  /** A text that is being written is wanted whole: its end is where something happens. */
  async complete(thread) {
    const entry = [...thread.entries.values()].at(-1);
    if (!entry || !thread.activeTurn || entry.turn !== thread.activeTurn.id) return;
    for (let before = -1; !isWhole(entry) && entry.bytes > before && this.open?.thread === thread; ) {
      before = entry.bytes;
      await this.more(entry.id);
    }
  }

  /** Reads on in a long entry. @param {string} id */
  async more(id) {
    const thread = this.open?.thread;
    const entry = thread?.entries.get(id);
    if (!entry) return;
    const piece = await this.routes.piece(thread.id, id, entry.bytes);
    if (this.open?.thread === thread) this.tell(thread.addPiece(piece));
  }

  /** A turn that a request has answered. */
  accepted(view) {
    const thread = this.open?.thread;
    if (thread?.id === view.thread) this.tell(thread.addTurn(view));
  }
}
