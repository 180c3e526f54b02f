// The conversation panel of one session: the list of threads, or one of them, and the box for prompts.

import { element } from "../dom.js";
import { follow } from "../feed.js";
import { short } from "../words.js";
import { Announcer } from "./announce.js";
import { routesOf } from "./client.js";
import { Composer } from "./composer.js";
import { ListView } from "./list.js";
import { OfferView } from "./offer.js";
import { Store } from "./store.js";
import { ThreadView } from "./thread.js";
import { Title } from "./title.js";
import { eventLine, lineOf } from "./words.js";

/** Lines about the agent's connection that are kept. */
const EVENTS = 50;
/** Characters of a new thread's title: it is called by its first prompt until somebody, or the agent, names it. */
const TITLE = 80;

export class Panel {
  /**
   * @param {HTMLElement} place @param {string} session
   * @param {{onSession: () => void, onCount: (questions: number) => void}} hooks the session changed; so many questions
   *   wait for an answer
   */
  constructor(place, session, { onSession, onCount }) {
    this.routes = routesOf(session);
    this.onSession = onSession;
    this.onCount = onCount;
    this.session = null;
    this.chosen = false; // somebody chose what is shown
    this.store = new Store({ routes: this.routes, follow, onNews: (news) => this.news(news) });
    this.announcer = new Announcer();
    this.list = new ListView((id) => this.open(id));
    this.view = new ThreadView(this.acts(), this.announcer);
    this.composer = new Composer((prompt) => this.send(prompt));
    this.title = new Title({
      rename: (title) => this.routes.rename(this.store.open.id, title),
      back: () => this.showList(),
      fresh: () => this.showNew(),
    });
    this.line = element("span");
    this.line.setAttribute("role", "status");
    this.events = element("ol", { className: "events" });
    this.offer = new OfferView((command) => this.routes.command(command));
    this.readOnly = element("p", { className: "quiet only-reads", textContent: "With this token you can read along, and not take part.", hidden: true });
    this.eventFeed = null;
    this.sync = element("details", { className: "sync" }, element("summary", { className: "line" }, this.line), this.events);
    this.trouble = element("p", { className: "fault trouble", hidden: true });
    this.trouble.setAttribute("role", "alert");
    this.sync.addEventListener("toggle", () => this.followEvents());
    this.place = place;
    const parts = [this.title, this.offer, this.list, this.view, this.composer, this.announcer].map(({ root }) => root);
    parts.splice(1, 0, this.sync, this.trouble);
    parts.splice(-2, 0, this.readOnly);
    place.replaceChildren(...parts);
    this.showLine();
    this.render();
  }

  async start() {
    await Promise.all([this.store.start(), this.readScope()]);
  }

  stop() {
    this.store.stop();
    this.eventFeed?.stop();
  }

  /** A token that only reads shall not offer what it cannot do. */
  async readScope() {
    const { scope } = await this.routes.whoami().catch(() => ({}));
    const mayWrite = scope !== "viewer";
    this.place.classList.toggle("read-only", !mayWrite);
    this.readOnly.hidden = mayWrite;
    this.composer.root.hidden = !mayWrite;
  }

  /** What the buttons inside of a thread do. */
  acts() {
    const here = () => this.store.open.id;
    return {
      more: (entry) => this.store.more(entry),
      earlier: () => this.store.earlier(),
      cancel: (turn) => this.routes.cancel(here(), turn),
      resend: async (turn) => this.store.accepted(await this.routes.resend(here(), turn)),
      answer: (question, body) => this.routes.answer(here(), question, body),
    };
  }

  async send({ agent, interrupt, ...prompt }) {
    const { open } = this.store;
    if (open) {
      const turn = await this.routes.prompt(open.id, { ...prompt, interrupt });
      this.store.accepted(turn);
      this.view.toEnd();
      return;
    }
    const { id } = await this.routes.create({ ...prompt, agent, title: short(prompt.prompt, TITLE) });
    this.open(id);
  }

  open(id) {
    this.chosen = true;
    this.announcer.clear();
    this.store.show(id);
  }

  showList() {
    this.chosen = true;
    this.store.close();
    this.store.refresh();
  }

  showNew() {
    this.showList();
    this.composer.box.focus();
  }

  /** The session as it was read last. */
  takeSession(session) {
    this.session = session;
    this.showLine();
  }

  news(news) {
    switch (news.what) {
      case "list":
        this.openFirst();
        break;
      case "opened":
        this.complain("");
        this.view.show(this.store.open.thread);
        break;
      case "opening":
      case "closed":
        this.complain("");
        this.view.clear();
        break;
      case "feed":
        this.showLine();
        return;
      case "session":
        if (news.item.type === "sync") this.onSession();
        return;
      case "earlier":
        this.view.extend();
        return;
      case "fault":
        this.failed(news.fault);
        break;
      default:
        this.view.change(news);
        if (news.what === "entry") return;
    }
    this.render();
  }

  /** Until somebody chooses, what happened last is what is looked at. */
  openFirst() {
    const [first] = this.store.summaries();
    if (!first || this.chosen || this.composer.box.value) return;
    this.open(first.id);
  }

  failed(fault) {
    if (fault.status === 401) this.onSession();
    else if (fault.status === 404 && fault.code !== "session_not_found" && this.store.open) {
      this.store.close();
      this.complain("This thread is gone.");
    } else this.complain(fault.status === 403 ? "This token may not read conversations." : fault.message);
  }

  complain(text) {
    this.trouble.textContent = text;
    this.trouble.hidden = !text;
  }

  /** Everything about the session as a whole, also what was before: once somebody wants to see it. */
  followEvents() {
    if (!this.sync.open || this.eventFeed) return;
    this.eventFeed = follow({ path: this.routes.sessionFeed, after: 0, onItem: (item) => item.type !== "gap" && this.showEvent(item) });
  }

  showEvent(item) {
    const time = element("time", { textContent: new Date(item.at).toLocaleTimeString() });
    this.events.append(element("li", {}, time, " ", eventLine(item)));
    while (this.events.childElementCount > EVENTS) this.events.firstElementChild.remove();
  }

  showLine() {
    const { state, text } = lineOf(this.session, this.store.feedState);
    if (this.line.textContent !== text) this.line.textContent = text;
    this.sync.dataset.state = state;
    this.composer.refuse(state === "over" ? "The session has ended." : "");
  }

  render() {
    const summaries = this.store.summaries();
    const { open } = this.store;
    const summary = summaries.find((one) => one.id === open?.id) ?? null;
    this.list.root.hidden = open !== null;
    this.view.root.hidden = open === null;
    if (open === null) this.list.show(summaries);
    this.offer.show(open?.thread ?? null);
    this.title.show(open && (summary ?? { id: open.id, title: null, origin: "api" }), summaries.length);
    this.composer.show(open?.id ?? "", Boolean(summary?.active_turn));
    this.onCount(summaries.reduce((sum, one) => sum + one.open_questions, 0));
    this.showLine();
  }
}
