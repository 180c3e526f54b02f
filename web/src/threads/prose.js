// Blocks as elements. Text becomes text nodes, never markup; a node stays small, because adding to one copies it.

import { element } from "../dom.js";
import { Blocks } from "./blocks.js";

const NODE = 4_096;

/** A place for a text that grows. */
export class Prose {
  constructor() {
    this.root = element("div", { className: "prose" });
    this.node = null;
    this.place = null;
    this.blocks = new Blocks({
      open: (kind, info, continued) => this.open(kind, info, continued),
      text: (text) => this.text(text),
      drop: (count) => this.drop(count),
    });
  }

  append(text) {
    this.blocks.append(text);
  }

  finish() {
    this.blocks.finish();
  }

  rewrite(text, from) {
    this.blocks.rewrite(text, from);
  }

  open(kind, info, continued) {
    this.place = element(kind === "code" ? "code" : "p");
    this.node = null;
    const block = kind === "code" ? element("pre", {}, this.place) : this.place;
    block.classList.toggle("continued", continued);
    if (info) block.dataset.info = info.split(/\s/, 1)[0];
    this.root.append(block);
  }

  text(text) {
    if (this.node && this.node.length + text.length <= NODE) {
      this.node.appendData(text);
      return;
    }
    this.node = document.createTextNode(text);
    this.place.append(this.node);
  }

  drop(count) {
    while (this.root.childElementCount > count) this.root.lastElementChild.remove();
    this.node = null;
    this.place = null;
  }
}
