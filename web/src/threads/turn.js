// A turn: what was asked, what the agent said and did, what it asks, and how it ended.

import { badge, element } from "../dom.js";
import { EntryView } from "./entry.js";
import { canResend, isActive, isFinal, isQueued } from "./model.js";
import { QuestionView } from "./question.js";
import { tokens } from "./words.js";

/** A longer prompt is folded. */
const LONG = 1_500;

export class TurnView {
  /**
   * @param {object | null} turn none for what belongs to no turn that is known
   * @param {{more: Function, answer: Function, cancel: Function, resend: Function}} acts
   */
  constructor(turn, acts) {
    this.turn = turn;
    this.acts = acts;
    this.entries = new Map();
    this.questions = new Map();
    this.body = element("div", { className: "entries" });
    this.asks = element("div", { className: "asks" });
    this.foot = element("div", { className: "foot" });
    this.fault = element("p", { className: "fault", hidden: true });
    this.fault.setAttribute("role", "alert");
    this.root = element("article", { className: "turn" }, this.body, this.asks, this.foot, this.fault);
    if (!turn) return;
    this.root.dataset.turn = turn.id;
    this.root.prepend(promptOf(turn));
    this.update();
  }

  /** The turn changed. */
  update() {
    const { turn } = this;
    this.root.dataset.state = turn.state;
    this.root.setAttribute("aria-busy", String(isActive(turn)));
    if (isFinal(turn)) for (const view of this.entries.values()) view.finish();
    const parts = [];
    if (turn.state !== "completed") parts.push(badge(turn.state));
    if (turn.exit_status !== null && turn.exit_status !== undefined) parts.push(element("span", { textContent: `exit status ${turn.exit_status}` }));
    if (turn.cause) parts.push(element("span", { className: "cause", textContent: turn.cause.message }));
    const used = tokens(turn.usage);
    if (used) parts.push(element("span", { className: "quiet", textContent: used }));
    if (!isFinal(turn)) parts.push(this.cancelButton());
    if (canResend(turn) && !turn.resent) parts.push(this.button("Send again", "resend", () => this.acts.resend(turn.id)));
    this.keepFocus(() => this.foot.replaceChildren(...parts));
    this.foot.hidden = parts.length === 0;
  }

  cancelButton() {
    const { turn } = this;
    const made = this.button("Cancel", "cancel", () => this.acts.cancel(turn.id));
    made.setAttribute("aria-label", isQueued(turn) ? "Cancel this prompt" : "Cancel this turn");
    if (turn.cancel_requested) Object.assign(made, { disabled: true, textContent: "Cancelling" });
    return made;
  }

  /** A button that was just pressed may be made anew. */
  keepFocus(change) {
    const had = document.activeElement?.dataset?.act;
    const mine = had && this.foot.contains(document.activeElement);
    change();
    if (mine) (this.foot.querySelector(`[data-act="${had}"]:not(:disabled)`) ?? this.root.closest("[tabindex]"))?.focus();
  }

  button(text, act, call) {
    const made = element("button", { type: "button", className: "secondary small", textContent: text });
    made.dataset.act = act;
    made.addEventListener("click", async () => {
      made.disabled = true;
      this.complain("");
      try {
        await call();
      } catch (fault) {
        this.complain(fault.message);
        made.disabled = false;
      }
    });
    return made;
  }

  complain(text) {
    this.fault.textContent = text;
    this.fault.hidden = !text;
  }

  /** An entry for the first time: in front of another one of the turn, or last. */
  addEntry(entry, before) {
    const later = this.entries.get(before);
    if (!later) [...this.entries.values()].at(-1)?.finish();
    const view = new EntryView(entry, this.acts.more);
    // A person's words in the editor are the prompt that stands above already.
    view.root.hidden = entry.role === "user" && entry.text.trim() === this.turn?.prompt.trim();
    this.entries.set(entry.id, view);
    this.body.insertBefore(view.root, later?.root ?? null);
    if (later || (this.turn && isFinal(this.turn))) view.finish();
    return view;
  }

  /** A question, new or changed. */
  question(question) {
    const known = this.questions.get(question.id);
    if (known) {
      known.update();
      return;
    }
    const view = new QuestionView(question, (body) => this.acts.answer(question.id, body));
    this.questions.set(question.id, view);
    this.asks.append(view.root);
  }

  /** An event that has no meaning to the server, under its own name. */
  custom({ name, data }) {
    const text = element("pre", { textContent: JSON.stringify(data, null, 2) });
    this.body.append(element("details", { className: "tool custom" }, element("summary", { textContent: name }), text));
  }
}

/** What was asked, and by whom. */
function promptOf(turn) {
  const who = [turn.by ?? { editor: "in the editor", input: "the session's task" }[turn.origin], turn.interrupt ? "interrupting" : ""];
  const text = element("p", { className: "text", textContent: turn.prompt });
  const made = element("div", { className: "prompt" }, element("p", { className: "who", textContent: who.filter(Boolean).join(", ") }), text);
  if (turn.queued_at) made.title = new Date(turn.queued_at).toLocaleString();
  if (turn.prompt.length > LONG) {
    text.textContent = `${turn.prompt.slice(0, LONG)}…`;
    const more = element("button", { type: "button", className: "secondary small", textContent: "Show all" });
    more.addEventListener("click", () => {
      text.textContent = turn.prompt;
      more.remove();
    });
    made.append(more);
  }
  if (turn.attachments?.length) {
    const files = turn.attachments.map((path) => element("li", {}, element("code", { textContent: path })));
    const list = element("ul", { className: "files" }, ...files);
    list.setAttribute("aria-label", "Attached");
    made.append(list);
  }
  return made;
}
