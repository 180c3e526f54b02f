// The head of the panel: the way back to the list, the thread's title, and how it is.

import { badge, element } from "../dom.js";
import { allTokens, stateOf, titleOf, tokens } from "./words.js";

/** Most characters of a title. */
const MOST = 200;

export class Title {
  /** @param {{rename: (title: string) => Promise<unknown>, back: () => void, fresh: () => void}} acts */
  constructor({ rename, back, fresh }) {
    this.rename = rename;
    this.thread = null;
    this.back = element("button", { type: "button", className: "secondary small back", textContent: "‹ Threads" });
    this.back.addEventListener("click", back);
    this.name = element("h2");
    this.edit = element("button", { type: "button", className: "secondary small edit", textContent: "Rename" });
    this.edit.addEventListener("click", () => this.begin());
    this.fresh = element("button", { type: "button", className: "secondary small fresh", textContent: "New" });
    this.fresh.setAttribute("aria-label", "New thread");
    this.fresh.addEventListener("click", fresh);
    this.field = element("input", { type: "text", maxLength: MOST, hidden: true });
    this.field.setAttribute("aria-label", "Title of the thread");
    this.field.addEventListener("keydown", (event) => {
      if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
      // The key would press the button that has the focus next.
      event.preventDefault();
      if (event.key === "Enter") this.save();
      this.finish();
      this.edit.focus();
    });
    this.field.addEventListener("blur", () => this.finish());
    this.facts = element("span", { className: "facts" });
    this.under = element("div", { className: "row under" }, this.facts, this.edit);
    this.fault = element("p", { className: "fault", hidden: true });
    this.fault.setAttribute("role", "alert");
    const row = element("div", { className: "row" }, this.back, this.name, this.field, this.fresh);
    this.root = element("header", { className: "chat-head" }, row, this.under, this.fault);
  }

  /** @param {object | null} thread none: the list is shown @param {number} count of all threads */
  show(thread, count) {
    if (this.thread?.id !== thread?.id) this.finish();
    this.thread = thread;
    this.name.textContent = thread ? titleOf(thread) : "Threads";
    this.name.title = thread ? titleOf(thread) : "";
    this.back.hidden = thread === null;
    this.back.setAttribute("aria-label", `All threads (${count})`);
    this.fresh.hidden = thread === null;
    this.under.hidden = thread === null;
    if (!thread) return;
    const told = [thread.agent, thread.queued ? `${thread.queued} queued` : "", allTokens(thread.usage)].filter(Boolean).join(" · ");
    this.facts.replaceChildren(...(thread.state ? [badge(stateOf(thread))] : []), element("span", { className: "quiet", textContent: told, title: tokens(thread.usage) }));
  }

  begin() {
    this.complain("");
    this.field.value = this.thread.title ?? "";
    this.editing(true);
    this.field.focus();
    this.field.select();
  }

  async save() {
    const title = this.field.value.trim();
    if (!title || title === this.thread?.title) return;
    try {
      await this.rename(title);
    } catch (fault) {
      this.complain(fault.message);
    }
  }

  finish() {
    this.complain("");
    this.editing(false);
  }

  editing(on) {
    this.field.hidden = !on;
    this.name.hidden = on;
    this.edit.hidden = on;
  }

  complain(text) {
    this.fault.textContent = text;
    this.fault.hidden = !text;
  }
}
