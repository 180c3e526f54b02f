// The box for a prompt. Enter sends, Shift+Enter begins a line, Ctrl+Enter (or Cmd+Enter) interrupts what runs.
//
// A prompt carries a key that stays until it was accepted: sent again after a lost answer it is still one prompt.

import { element } from "../dom.js";
import { newKey } from "./client.js";

/** Most pixels that the box grows to. */
const TALL = 220;

export class Composer {
  /** @param {(prompt: {prompt: string, attachments: string[], agent?: string, interrupt: boolean, idempotency_key: string}) => Promise<unknown>} send */
  constructor(send) {
    this.send = send;
    this.drafts = new Map(); // by thread; "" for a new one
    this.thread = "";
    this.key = null;
    this.sending = false;
    this.refused = "";
    this.words = "";
    this.box = element("textarea", { id: "prompt", rows: 1, maxLength: 200_000 });
    this.box.setAttribute("enterkeyhint", "send");
    this.files = element("ul", { className: "files", hidden: true });
    this.files.setAttribute("aria-label", "Attached");
    this.path = element("input", { type: "text", placeholder: "path in the workspace", spellcheck: false, autocapitalize: "off", autocomplete: "off" });
    this.path.setAttribute("aria-label", "Path of an attachment in the workspace");
    this.add = element("button", { type: "button", className: "secondary small", textContent: "Add" });
    this.adding = element("div", { className: "adding", hidden: true }, this.path, this.add);
    this.agent = element("input", { type: "text", placeholder: "agent (optional)", spellcheck: false, autocapitalize: "off", autocomplete: "off" });
    this.agent.setAttribute("aria-label", "Agent of the new thread; the session's own where empty");
    this.attach = element("button", { type: "button", className: "secondary small", textContent: "Attach" });
    this.attach.setAttribute("aria-expanded", "false");
    this.interrupt = element("button", { type: "button", className: "secondary small", textContent: "Interrupt", hidden: true });
    this.interrupt.title = "End the running turn and send this (Ctrl+Enter)";
    this.submit = element("button", { type: "submit", className: "small", textContent: "Send" });
    this.fault = element("p", { className: "fault", hidden: true });
    this.fault.setAttribute("role", "alert");
    const label = element("label", { htmlFor: "prompt", className: "unseen", textContent: "Prompt" });
    const row = element("div", { className: "send" }, this.attach, this.agent, element("span", { className: "space" }), this.interrupt, this.submit);
    this.root = element("form", { className: "composer" }, this.fault, this.files, this.adding, label, this.box, row);
    this.listen();
    this.show("", false);
  }

  listen() {
    this.root.addEventListener("submit", (event) => {
      event.preventDefault();
      this.go(false);
    });
    this.interrupt.addEventListener("click", () => this.go(true));
    this.box.addEventListener("input", () => this.changed());
    this.box.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.altKey || event.isComposing) return;
      event.preventDefault();
      this.go(event.ctrlKey || event.metaKey);
    });
    this.attach.addEventListener("click", () => {
      this.adding.hidden = !this.adding.hidden;
      this.attach.setAttribute("aria-expanded", String(!this.adding.hidden));
      if (!this.adding.hidden) this.path.focus();
    });
    this.add.addEventListener("click", () => this.addFile());
    this.path.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      event.preventDefault();
      this.addFile();
    });
  }

  /** Another thread: its own draft. @param {string} thread "" for a new one @param {boolean} busy something runs in it */
  show(thread, busy) {
    if (thread !== this.thread) {
      this.drafts.set(this.thread, { text: this.box.value, attached: this.attached, key: this.key });
      const draft = this.drafts.get(thread) ?? { text: "", attached: [], key: null };
      this.thread = thread;
      this.box.value = draft.text;
      this.key = draft.key;
      this.setFiles(draft.attached);
      this.complain("");
    }
    this.agent.hidden = thread !== "";
    this.interrupt.hidden = !busy;
    this.words = thread === "" ? "A new thread: what shall it do?" : busy ? "Prompt; waits for the running turn" : "Prompt";
    this.hint();
  }

  /** Why no prompt is taken; empty: they are. @param {string} why */
  refuse(why) {
    this.refused = why;
    for (const control of [this.box, this.interrupt, this.attach, this.agent]) control.disabled = why !== "";
    this.submit.disabled = why !== "" || this.sending;
    this.hint();
  }

  hint() {
    const words = this.refused || this.words;
    if (this.box.placeholder === words) return;
    this.box.placeholder = words;
    this.grow();
  }

  get attached() {
    return [...this.files.children].map((file) => file.dataset.path);
  }

  setFiles(paths) {
    this.files.replaceChildren(
      ...paths.map((path) => {
        const remove = element("button", { type: "button", className: "remove", textContent: "×" });
        remove.setAttribute("aria-label", `Remove ${path}`);
        remove.addEventListener("click", () => {
          this.setFiles(this.attached.filter((other) => other !== path));
          this.changed();
          this.box.focus();
        });
        const file = element("li", {}, element("code", { textContent: path }), remove);
        file.dataset.path = path;
        return file;
      }),
    );
    this.files.hidden = paths.length === 0;
  }

  addFile() {
    const path = this.path.value.trim();
    if (path && !this.attached.includes(path)) this.setFiles([...this.attached, path]);
    this.path.value = "";
    this.adding.hidden = true;
    this.attach.setAttribute("aria-expanded", "false");
    this.changed();
    this.box.focus();
  }

  /** Another prompt than the one whose answer was lost. */
  changed() {
    this.key = null;
    this.grow();
  }

  grow() {
    this.box.style.height = "auto";
    if (this.box.scrollHeight > 0) this.box.style.height = `${Math.min(this.box.scrollHeight + 2, TALL)}px`;
  }

  complain(text) {
    this.fault.textContent = text;
    this.fault.hidden = !text;
  }

  async go(interrupt) {
    const prompt = this.box.value;
    if (!prompt.trim() || this.sending || this.refused) return;
    const { thread } = this;
    this.key ??= newKey();
    this.sending = true;
    this.submit.disabled = true;
    this.complain("");
    try {
      const agent = thread === "" ? this.agent.value.trim() || undefined : undefined;
      await this.send({ prompt, attachments: this.attached, agent, interrupt, idempotency_key: this.key });
      this.sent(thread, prompt);
    } catch (fault) {
      this.complain(fault.message);
    }
    this.sending = false;
    this.submit.disabled = this.refused !== "";
  }

  /** It was accepted: what was typed meanwhile stays. */
  sent(thread, prompt) {
    this.drafts.delete(thread);
    if (thread === "") this.agent.value = "";
    if (this.box.value !== prompt) return;
    this.box.value = "";
    this.setFiles([]);
    this.changed();
  }
}
