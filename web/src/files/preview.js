// A look at one file: its text or its picture. What the file says stays what it is: text, never markup.

import { element } from "../dom.js";
import { IMAGE_BYTES, TEXT_BYTES, imageType, size, textOf } from "./words.js";

export class Preview {
  /**
   * @param {ReturnType<import("./client.js").routesOf>} routes
   * @param {{onBack: () => void, onDownload: (path: string, entry: object) => void}} hooks
   */
  constructor(routes, { onBack, onDownload }) {
    this.routes = routes;
    this.title = element("h2", { tabIndex: -1 });
    this.body = element("div", { className: "preview-body" });
    const back = element("button", { type: "button", className: "secondary small", textContent: "Back" });
    const download = element("button", { type: "button", className: "secondary small", textContent: "Download" });
    back.addEventListener("click", () => {
      this.hide();
      onBack();
    });
    download.addEventListener("click", () => onDownload(this.path, this.entry));
    this.root = element("div", { className: "preview", hidden: true }, element("div", { className: "side-head" }, back, this.title, download), this.body);
    this.root.addEventListener("keydown", ({ key }) => key === "Escape" && back.click());
  }

  /** @param {string} path @param {{name: string, size: number}} entry */
  async show(path, entry) {
    this.path = path;
    this.entry = entry;
    this.title.textContent = entry.name;
    this.root.hidden = false;
    this.body.replaceChildren(this.note("Loading …"));
    this.title.focus();
    const content = await this.content(path, entry).catch((fault) => [this.note(fault.message)]);
    if (this.path !== path) return;
    this.body.replaceChildren(...content);
  }

  async content(path, entry) {
    const type = imageType(entry.name);
    if (type && entry.size > IMAGE_BYTES) return [this.note(`A picture of ${size(entry.size)}: download it to look at it.`)];
    const bytes = await this.routes.head(path, type ? IMAGE_BYTES : TEXT_BYTES);
    if (type) {
      URL.revokeObjectURL(this.address);
      this.address = URL.createObjectURL(new Blob([bytes], { type }));
      return [element("img", { src: this.address, alt: entry.name })];
    }
    const text = textOf(bytes, entry.size <= TEXT_BYTES);
    if (text === null) return [this.note(`Not a text: ${size(entry.size)} of bytes.`)];
    const parts = [element("pre", { textContent: text, tabIndex: 0 })];
    if (entry.size > TEXT_BYTES) parts.unshift(this.note(`The first ${size(TEXT_BYTES)} of ${size(entry.size)}.`));
    return entry.size === 0 ? [this.note("It is empty.")] : parts;
  }

  note(text) {
    return element("p", { className: "quiet", textContent: text });
  }

  hide() {
    this.path = null;
    this.root.hidden = true;
    this.body.replaceChildren();
    URL.revokeObjectURL(this.address);
  }
}
