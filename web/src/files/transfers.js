// What is on its way: uploads, one after the other, and downloads. Each has a row with how far it is, and can be stopped.

import { ApiError } from "../api.js";
import { Backoff } from "../backoff.js";
import { element } from "../dom.js";
import { size, uploadName } from "./words.js";

/** Tries in a row without a byte more. */
const TRIES = 6;

/** One row. */
class Row {
  constructor(list, name, onStop) {
    this.words = element("span", { className: "transfer-words" });
    this.bar = element("progress", { max: 1, value: 0 });
    this.bar.setAttribute("aria-label", name);
    this.button = element("button", { type: "button", className: "secondary small", textContent: "Cancel" });
    this.button.setAttribute("aria-label", `Cancel ${name}`);
    this.root = element("li", {}, element("span", { className: "transfer-name", textContent: name }), this.words, this.bar, this.button);
    this.button.addEventListener("click", onStop);
    list.append(this.root);
  }

  show(bytes, whole) {
    this.bar.max = Math.max(1, whole);
    this.bar.value = bytes;
    this.words.textContent = `${size(bytes)} of ${size(whole)}`;
  }

  /** It is over; `fault` where not well. The row goes at the next press. */
  end(text, isFault = false, again = null) {
    this.root.classList.toggle("failed", isFault);
    this.words.textContent = text;
    this.bar.hidden = true;
    const button = element("button", { type: "button", className: "secondary small", textContent: again ? "Try again" : "Close" });
    button.addEventListener("click", () => {
      this.root.remove();
      again?.();
    });
    this.button.replaceWith(button);
    if (again) {
      const close = element("button", { type: "button", className: "secondary small", textContent: "Close" });
      close.addEventListener("click", () => this.root.remove());
      button.after(close);
    }
  }
}

export class Transfers {
  /** @param {ReturnType<import("./client.js").routesOf>} routes @param {(path: string) => void} onUploaded */
  constructor(routes, onUploaded) {
    this.routes = routes;
    this.onUploaded = onUploaded;
    this.root = element("ul", { className: "transfers" });
    this.root.setAttribute("aria-label", "On its way");
    this.queue = Promise.resolve();
    this.stopped = new AbortController();
  }

  stop() {
    this.stopped.abort();
  }

  /** @param {string} path where to @param {File} file */
  upload(path, file) {
    const own = new AbortController();
    this.stopped.signal.addEventListener("abort", () => own.abort());
    const row = new Row(this.root, path, () => own.abort());
    row.words.textContent = "waits";
    this.queue = this.queue.then(() => this.send(path, file, row, own.signal));
  }

  async send(path, file, row, signal) {
    const name = uploadName(`${path}\n${file.size}\n${file.lastModified}`);
    const backoff = new Backoff();
    let best = 0;
    for (;;) {
      try {
        signal.throwIfAborted();
        const offset = await this.routes.received(path, name);
        if (offset > best) backoff.reset();
        best = Math.max(best, offset);
        row.show(offset, file.size);
        await this.routes.upload(path, name, offset, file.slice(offset), (sent) => row.show(offset + sent, file.size), signal);
        row.root.remove();
        this.onUploaded(path);
        return;
      } catch (fault) {
        if (fault.name === "AbortError") return row.root.remove();
        // What broke off may still be written while the rest is begun: then it stands elsewhere in a moment.
        const mayPass = [0, 502, 503].includes(fault.status) || fault.code === "upload_mismatch";
        const passes = fault instanceof ApiError && mayPass && backoff.tries < TRIES;
        if (!passes) return row.end(fault.message, true, () => this.upload(path, file));
        row.words.textContent = `${fault.message} Trying again.`;
        await new Promise((resolve) => {
          const timer = setTimeout(resolve, backoff.next());
          signal.addEventListener("abort", () => resolve(clearTimeout(timer)), { once: true });
        });
      }
    }
  }

  /** @param {string} path @param {{name: string, size: number, etag: string}} entry */
  async download(path, entry) {
    const own = new AbortController();
    this.stopped.signal.addEventListener("abort", () => own.abort());
    const row = new Row(this.root, path, () => own.abort());
    try {
      row.show(0, entry.size);
      const whole = await this.routes.download(path, entry.size, entry.etag, (bytes) => row.show(bytes, entry.size), own.signal);
      const href = URL.createObjectURL(whole);
      element("a", { href, download: entry.name }).click();
      // The browser has it by then, or asks its user where to put it.
      setTimeout(() => URL.revokeObjectURL(href), 60_000);
      row.root.remove();
    } catch (fault) {
      if (fault.name === "AbortError") return row.root.remove();
      row.end(fault.message, true, () => this.download(path, entry));
    }
  }
}
