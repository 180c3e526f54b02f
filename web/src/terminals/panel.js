// The session's terminals beside its desktop: a tab for each, and a button for another one.
//
// What is open is what the session says; closing a tab here ends nothing. A terminal that is gone when its line comes
// back has ended meanwhile: it is told, not silently made anew.

import { api } from "../api.js";
import { element } from "../dom.js";
import { Terminal } from "./terminal.js";

export class Terminals {
  /** @param {HTMLElement} place @param {string} session */
  constructor(place, session) {
    this.base = `/api/v1/sessions/${encodeURIComponent(session)}/terminals`;
    this.key = `helix.terminal.${session}`;
    this.open = new Map();
    this.active = "";
    this.ready = null;
    this.tabs = element("div", { className: "terminal-tabs" });
    this.tabs.setAttribute("role", "tablist");
    this.tabs.setAttribute("aria-label", "Terminals");
    this.fresh = element("button", { type: "button", className: "secondary small fresh-terminal", textContent: "New" });
    this.fresh.setAttribute("aria-label", "New terminal");
    this.end = element("button", { type: "button", className: "secondary small", textContent: "End" });
    this.words = element("p", { className: "fault words", hidden: true });
    this.words.setAttribute("role", "status");
    this.screens = element("div", { className: "terminal-screens" });
    this.fresh.addEventListener("click", () => this.create());
    this.end.addEventListener("click", () => this.askToEnd());
    this.end.addEventListener("blur", () => this.sure(false));
    this.tabs.addEventListener("keydown", (event) => this.step(event));
    place.replaceChildren(element("div", { className: "side-head" }, this.tabs, this.fresh, this.end), this.words, this.screens);
  }

  /** The session as it was read last. */
  takeSession(session) {
    const ready = session?.phase === "Ready";
    if (ready === this.ready) return;
    this.ready = ready;
    this.fresh.disabled = !ready;
    this.end.disabled = !ready;
    if (ready) this.read();
    else this.say(`Terminals are there while the session is Ready; it is ${session?.phase}.`);
  }

  /** The panel is looked at. */
  shown() {
    this.open.get(this.active)?.show();
    this.focusIfAsked();
  }

  /** Who has pressed the button in the bar wants to type. */
  focusIfAsked() {
    if (document.activeElement?.id === "tab-terminal") this.open.get(this.active)?.focus();
  }

  stop() {
    for (const terminal of this.open.values()) terminal.close();
    this.open.clear();
    this.tabs.replaceChildren();
    this.screens.replaceChildren();
  }

  say(text) {
    this.words.textContent = text;
    this.words.hidden = !text;
  }

  /** What the session has; where there is none, one is made. */
  async read() {
    try {
      const { terminals } = await api(this.base);
      this.say("");
      for (const { name } of terminals) this.add(name);
      const known = sessionStorage.getItem(this.key);
      if (terminals.length === 0) await this.create();
      else if (!this.active) this.choose(this.open.has(known) ? known : terminals[0].name);
      this.focusIfAsked();
    } catch (fault) {
      this.ready = false; // asked again when the session is read again
      this.say(fault.message);
    }
  }

  async create() {
    try {
      // Names that others use by now, too.
      const { terminals } = await api(this.base);
      const taken = new Set([...this.open.keys(), ...terminals.map(({ name }) => name)]);
      let number = 1;
      while (taken.has(`shell-${number}`)) number += 1;
      const name = `shell-${number}`;
      this.add(name, true);
      this.choose(name);
      this.open.get(name).focus();
    } catch (fault) {
      this.say(fault.message);
    }
  }

  add(name, isNew = false) {
    if (this.open.has(name)) return;
    let made = isNew;
    const tab = element("button", { type: "button", className: "terminal-tab", textContent: name, id: `terminal-tab-${name}` });
    tab.setAttribute("role", "tab");
    tab.addEventListener("click", () => (this.active === name && this.open.get(name).ended ? this.remove(name) : this.choose(name)));
    this.tabs.append(tab);
    const terminal = new Terminal(`${this.base}/${encodeURIComponent(name)}`, name, {
      before: async () => {
        if (made) return true;
        const { terminals } = await api(this.base);
        const there = terminals.some((one) => one.name === name);
        if (!there) terminal.end("ended while nobody looked", ended);
        return there;
      },
      onState: (why) => {
        if (!why) made = false;
        if (name === this.active) this.say(why);
      },
      onEnd: (words) => ended(words),
      leave: () => tab.focus(),
    });
    const ended = (words) => {
      tab.classList.add("ended");
      tab.title = `${words}; press to close`;
      tab.textContent = `${name} ✕`;
      tab.setAttribute("aria-label", `${name}, ${words}: close`);
      if (name === this.active) this.end.disabled = true;
    };
    terminal.root.setAttribute("role", "tabpanel");
    terminal.root.setAttribute("aria-labelledby", tab.id);
    this.screens.append(terminal.root);
    this.open.set(name, terminal);
  }

  tab(name) {
    return document.getElementById(`terminal-tab-${name}`);
  }

  choose(name) {
    this.active = name;
    sessionStorage.setItem(this.key, name);
    this.say("");
    for (const [other, terminal] of this.open) {
      const chosen = other === name;
      this.tab(other).setAttribute("aria-selected", String(chosen));
      this.tab(other).tabIndex = chosen ? 0 : -1;
      if (chosen) terminal.show();
      else terminal.hide();
    }
    this.end.disabled = !this.open.get(name) || Boolean(this.open.get(name).ended);
    this.sure(false);
  }

  remove(name) {
    this.open.get(name).close();
    this.open.delete(name);
    this.tab(name).remove();
    const [next] = this.open.keys();
    if (name !== this.active) return;
    this.active = "";
    if (next) this.choose(next);
    else this.end.disabled = true;
  }

  step(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    const names = [...this.open.keys()];
    const next = names.at((names.indexOf(this.active) + by) % names.length);
    this.choose(next);
    this.tab(next).focus();
  }

  /** Pressed twice: what runs in it ends with it. */
  askToEnd() {
    if (!this.end.dataset.sure) return this.sure(true);
    this.sure(false);
    api(`${this.base}/${encodeURIComponent(this.active)}`, { method: "DELETE" }).catch((fault) => this.say(fault.message));
  }

  sure(asked) {
    if (asked) this.end.dataset.sure = "yes";
    else delete this.end.dataset.sure;
    this.end.textContent = asked ? "End it?" : "End";
  }
}
