// The session's workspace beside its desktop: directories to walk through, files to look at, fetch, bring and remove.

import { element } from "../dom.js";
import { age } from "../words.js";
import { routesOf } from "./client.js";
import { droppedFiles } from "./dropped.js";
import { Preview } from "./preview.js";
import { Transfers } from "./transfers.js";
import { join, parent, size } from "./words.js";

const MARKS = { directory: "/", link: " →", other: " •", file: "" };

export class Files {
  /** @param {HTMLElement} place @param {string} session */
  constructor(place, session) {
    this.place = place;
    this.routes = routesOf(session);
    this.path = "";
    this.ready = null;
    this.reading = 0;
    this.crumbs = element("nav", { className: "crumbs" });
    this.crumbs.setAttribute("aria-label", "Directory");
    this.words = element("p", { className: "fault words", hidden: true });
    this.words.setAttribute("role", "alert");
    this.list = element("ul", { className: "file-list" });
    this.empty = element("p", { className: "empty", textContent: "Nothing is here. Drop files to bring them.", hidden: true });
    this.more = element("button", { type: "button", className: "secondary small more-files", textContent: "Show more", hidden: true });
    this.more.addEventListener("click", () => this.read(this.after));
    const chooser = element("input", { type: "file", multiple: true, hidden: true, id: "file-chooser" });
    chooser.addEventListener("change", () => {
      this.bring([...chooser.files].map((file) => ({ path: file.name, file })));
      chooser.value = "";
    });
    const upload = element("button", { type: "button", className: "small", textContent: "Upload" });
    upload.addEventListener("click", () => chooser.click());
    const again = element("button", { type: "button", className: "secondary small", textContent: "↻" });
    again.setAttribute("aria-label", "Read again");
    again.addEventListener("click", () => this.read());
    this.buttons = [upload, again];
    this.transfers = new Transfers(this.routes, (path) => this.isHere(path) && this.read());
    this.preview = new Preview(this.routes, { onBack: () => this.focusRow(this.looked), onDownload: (path, entry) => this.transfers.download(path, entry) });
    place.replaceChildren(
      element("div", { className: "side-head" }, this.crumbs, again, upload, chooser),
      this.words,
      element("div", { className: "file-scroll" }, this.list, this.empty, this.more),
      this.preview.root,
      this.transfers.root,
    );
    this.dropping();
  }

  takeSession(session) {
    const ready = session?.phase === "Ready";
    for (const button of this.buttons) button.disabled = !ready;
    if (ready === this.ready) return;
    this.ready = ready;
    if (!ready) this.say(`Files can be reached while the session is Ready; it is ${session?.phase}.`);
    else this.read();
  }

  /** The panel is looked at: what is there may have changed. */
  shown() {
    if (this.ready) this.read();
  }

  stop() {
    this.transfers.stop();
    this.preview.hide();
  }

  say(text) {
    this.words.textContent = text;
    this.words.hidden = !text;
  }

  /** True for what would be in the directory that is shown. */
  isHere(path) {
    return this.path === "" || parent(path) === this.path || path.startsWith(`${this.path}/`);
  }

  /** The directory as it is now, or its names behind `after`. */
  async read(after = null) {
    this.reading += 1;
    const mine = this.reading;
    const { path } = this;
    try {
      const { entries, next_after: next } = await this.routes.list(path, after);
      if (mine !== this.reading) return;
      this.say("");
      this.after = next;
      this.more.hidden = !next;
      this.show(after ? [...this.entries, ...entries] : entries);
    } catch (fault) {
      if (mine !== this.reading) return;
      this.say(fault.message);
      // Removed meanwhile: up to what is there.
      if (fault.status === 404 && path) this.enter(parent(path));
    }
  }

  show(entries) {
    this.entries = entries;
    this.showCrumbs();
    const focused = this.list.contains(document.activeElement) ? document.activeElement.closest("li").dataset.name : null;
    const sorted = [...entries].sort((one, two) => (two.kind === "directory") - (one.kind === "directory"));
    this.list.replaceChildren(...sorted.map((entry) => this.row(entry)));
    this.empty.hidden = entries.length > 0;
    if (focused) this.focusRow(focused);
  }

  focusRow(name) {
    const row = [...this.list.children].find((one) => one.dataset.name === name);
    (row?.querySelector("button") ?? this.crumbs.querySelector("button"))?.focus();
  }

  showCrumbs() {
    const parts = this.path ? this.path.split("/") : [];
    const steps = [["Workspace", ""], ...parts.map((name, at) => [name, parts.slice(0, at + 1).join("/")])];
    this.crumbs.replaceChildren(
      ...steps.map(([textContent, path], at) => {
        const step = element("button", { type: "button", className: "plain", textContent });
        if (at === steps.length - 1) step.setAttribute("aria-current", "page");
        step.addEventListener("click", () => this.enter(path));
        return step;
      }),
    );
  }

  enter(path) {
    this.path = path;
    this.preview.hide();
    this.read();
  }

  row(entry) {
    const path = join(this.path, entry.name);
    const name = element("button", { type: "button", className: `plain name ${entry.kind}`, textContent: `${entry.name}${MARKS[entry.kind]}` });
    name.addEventListener("click", () => this.look(path, entry));
    const facts = element("span", { className: "quiet facts" }, entry.kind === "file" ? `${size(entry.size)} · ` : "", `${age(entry.modified)} ago`);
    facts.title = new Date(entry.modified).toLocaleString();
    const row = element("li", {}, name, facts);
    row.dataset.name = entry.name;
    if (entry.kind === "file") row.append(this.button("↓", `Download ${entry.name}`, () => this.transfers.download(path, entry)));
    row.append(this.removing(path, entry));
    return row;
  }

  button(textContent, label, press) {
    const made = element("button", { type: "button", className: "secondary small", textContent, title: label });
    made.setAttribute("aria-label", label);
    made.addEventListener("click", press);
    return made;
  }

  /** Pressed twice: there is no way back. */
  removing(path, entry) {
    const label = `Delete ${entry.name}${entry.kind === "directory" ? " with everything in it" : ""}`;
    const button = this.button("✕", label, async () => {
      if (!button.classList.contains("sure")) {
        button.classList.add("sure");
        button.textContent = "Delete?";
        return;
      }
      try {
        await this.routes.remove(path, entry.kind === "directory");
      } catch (fault) {
        this.say(fault.message);
        return;
      }
      this.read();
    });
    button.addEventListener("blur", () => {
      button.classList.remove("sure");
      button.textContent = "✕";
    });
    return button;
  }

  look(path, entry) {
    this.looked = entry.name;
    if (entry.kind === "directory" || entry.kind === "link") this.followable(path, entry);
    else if (entry.kind === "file") this.preview.show(path, entry);
    else this.say(`${entry.name} is neither a file nor a directory.`);
  }

  /** A link may lead to a directory or to a file, or out of the workspace: the session says which. */
  async followable(path, entry) {
    if (entry.kind === "directory") return this.enter(path);
    try {
      await this.routes.list(path);
      this.enter(path);
    } catch (fault) {
      if (fault.code === "outside_workspace") this.say(fault.message);
      else this.preview.show(path, entry);
    }
  }

  /** @param {{path: string, file: File}[]} files relative to the directory that is shown */
  bring(files) {
    const names = new Set(this.entries?.map(({ name }) => name));
    const replaced = files.filter(({ path }) => names.has(path)).map(({ path }) => path);
    if (replaced.length === 0) return this.send(files);
    const ask = element("li", { className: "asks" }, `Replace ${replaced.slice(0, 3).join(", ")}${replaced.length > 3 ? ` and ${replaced.length - 3} more` : ""}?`);
    const answer = (textContent, act) => {
      const button = element("button", { type: "button", className: "secondary small", textContent });
      button.addEventListener("click", () => {
        ask.remove();
        act();
      });
      ask.append(button);
      return button;
    };
    const yes = answer("Replace", () => this.send(files));
    answer("Keep", () => this.send(files.filter(({ path }) => !names.has(path))));
    this.transfers.root.prepend(ask);
    yes.focus();
  }

  send(files) {
    for (const { path, file } of files) this.transfers.upload(join(this.path, path), file);
  }

  dropping() {
    const { place } = this;
    let depth = 0;
    const over = (on) => place.classList.toggle("dropping", on);
    const isFiles = (event) => event.dataTransfer?.types.includes("Files") && this.ready;
    place.addEventListener("dragenter", (event) => {
      if (!isFiles(event)) return;
      depth += 1;
      over(true);
    });
    place.addEventListener("dragleave", () => {
      depth = Math.max(0, depth - 1);
      over(depth > 0);
    });
    place.addEventListener("dragover", (event) => isFiles(event) && event.preventDefault());
    place.addEventListener("drop", async (event) => {
      depth = 0;
      over(false);
      if (!isFiles(event)) return;
      event.preventDefault();
      try {
        this.bring(await droppedFiles(event.dataTransfer));
      } catch (fault) {
        this.say(fault.message);
      }
    });
  }
}
