// An entry: text of the agent's, text of a person in the editor, or a tool call, folded.

import { badge, element } from "../dom.js";
import { isWhole } from "./model.js";
import { Prose } from "./prose.js";
import { size } from "./words.js";

export class EntryView {
  /** @param {object} entry @param {(id: string) => Promise<void>} more reads on in a long entry */
  constructor(entry, more) {
    this.entry = entry;
    this.read = more;
    this.root = element("div", { className: "entry" });
    this.root.dataset.entry = entry.id;
    this.build();
  }

  build() {
    const { entry } = this;
    this.isTool = Boolean(entry.tool);
    this.prose = null;
    this.place = this.root;
    this.root.replaceChildren();
    this.root.dataset.role = this.isTool ? "tool" : entry.role;
    if (!this.isTool) {
      this.showText();
      return;
    }
    this.name = element("span", { className: "tool-name" });
    this.status = element("span");
    this.fold = element("details", { className: "tool" }, element("summary", {}, this.name, this.status));
    this.place = this.fold;
    // The text of a folded call is made when somebody looks.
    this.fold.addEventListener("toggle", () => this.fold.open && !this.prose && this.showText());
    this.root.append(this.fold);
    this.showTool();
  }

  showTool() {
    const { name, status } = this.entry.tool;
    this.name.textContent = name || "Tool";
    this.status.replaceChildren(...(status ? [badge(status)] : []));
  }

  showText() {
    this.prose = new Prose();
    this.prose.append(this.entry.text);
    if (this.isTool) this.prose.finish();
    this.place.append(this.prose.root);
    this.showMore();
  }

  /** A button while there is more than is here. */
  showMore() {
    const { entry } = this;
    if (isWhole(entry)) {
      this.button?.remove();
      this.button = null;
      return;
    }
    if (!this.button) {
      this.button = element("button", { type: "button", className: "secondary more" });
      this.button.addEventListener("click", () => this.readOn());
      this.place.append(this.button);
    }
    this.button.textContent = `Show more (${size(entry.bytes)} of ${size(entry.length)} shown)`;
  }

  async readOn() {
    this.button.disabled = true;
    try {
      await this.read(this.entry.id);
    } catch (fault) {
      if (this.button) this.button.textContent = `${fault.message} Try again`;
    }
    if (this.button) this.button.disabled = false;
  }

  /** @param {import("./model.js").Change} change */
  update({ how, text, from }) {
    if (this.isTool !== Boolean(this.entry.tool)) {
      this.build();
      return;
    }
    if (this.isTool) this.showTool();
    if (!this.prose) return;
    if (how === "append") this.prose.append(text);
    if (how === "rewrite") this.prose.rewrite(this.entry.text, from);
    if (this.isTool) this.prose.finish();
    this.showMore();
  }

  /** Nothing is expected to follow. */
  finish() {
    this.prose?.finish();
  }
}
