// The list of threads with their states.

import { badge, element } from "../dom.js";
import { age } from "../words.js";
import { sumOf } from "./model.js";
import { allTokens, stateOf, titleOf, tokens } from "./words.js";

export class ListView {
  /** @param {(id: string) => void} onOpen */
  constructor(onOpen) {
    this.onOpen = onOpen;
    this.rows = new Map();
    this.list = element("ul", { className: "thread-list" });
    this.empty = element("p", { className: "empty", textContent: "No conversation yet." });
    this.total = element("p", { className: "quiet total" });
    this.root = element("nav", { className: "threads" }, this.list, this.empty, this.total);
    this.root.setAttribute("aria-label", "Threads");
  }

  /** @param {object[]} threads in the order of the list */
  show(threads) {
    const rows = threads.map((thread) => {
      const row = this.rows.get(thread.id) ?? this.make(thread.id);
      fill(row, thread);
      return row;
    });
    this.rows = new Map(rows.map((row) => [row.dataset.thread, row]));
    // Only what moved is moved: focus stays where it is.
    rows.forEach((row, at) => {
      if (this.list.children[at] !== row) this.list.insertBefore(row, this.list.children[at] ?? null);
    });
    while (this.list.childElementCount > rows.length) this.list.lastElementChild.remove();
    this.empty.hidden = rows.length > 0;
    this.total.textContent = threads.length > 1 ? tokens(sumOf(...threads.map((thread) => thread.usage))) : "";
  }

  make(id) {
    const button = element("button", { type: "button", className: "thread-row" });
    button.addEventListener("click", () => this.onOpen(id));
    const row = element("li", {}, button);
    row.dataset.thread = id;
    return row;
  }
}

function fill(row, thread) {
  const told = [
    thread.agent,
    `${thread.turns} ${thread.turns === 1 ? "turn" : "turns"}`,
    thread.queued ? `${thread.queued} queued` : "",
    allTokens(thread.usage),
    thread.last_activity_at ? `${age(thread.last_activity_at)} ago` : "",
  ];
  const title = element("span", { className: "thread-title", textContent: titleOf(thread) });
  const states = element("span", { className: "states" });
  if (thread.open_questions) states.append(badge(thread.open_questions === 1 ? "asks" : `asks ${thread.open_questions}`));
  if (thread.state) states.append(badge(stateOf(thread)));
  const facts = element("span", { className: "quiet", textContent: told.filter(Boolean).join(" · ") });
  row.firstElementChild.replaceChildren(title, states, facts);
}
