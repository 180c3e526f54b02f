// Text into blocks: paragraphs and fenced code. Incremental: what arrives is read once, and a rewrite is read again
// from the block in which it begins. Pure; a sink makes of it what it likes.
//
// Long blocks are cut at a line's end: a browser lays out a block as a whole whenever a letter of it changes.

/** Characters after which a block is cut. */
const LONG = 8_192;
/** A line that may yet become a fence is held back, but not longer than this. */
const HELD = 200;

const BLANK = /^[ \t]*$/;
const OPENS = /^ {0,3}(`{3,}|~{3,})([^`\n]*)$/;
const MAY_OPEN = /^ {0,3}(?:`{0,2}|~{0,2}|`{3,}[^`]*|~{3,}[^`]*)$/;
const CLOSES = /^ {0,3}(`{3,}|~{3,})[ \t]*$/;
const MAY_CLOSE = /^ {0,3}(?:`*|~*)[ \t]*$/;

/**
 * @typedef {object} Sink
 * @property {(kind: "text" | "code", info: string, continued: boolean) => void} open
 * @property {(text: string) => void} text more of the open block
 * @property {(count: number) => void} drop only the first `count` blocks stay
 */

export class Blocks {
  /** @param {Sink} sink */
  constructor(sink) {
    this.sink = sink;
    this.begin(0);
    /** @type {{kind: string, fence: string, start: number, continued: boolean}[]} */
    this.all = [];
  }

  begin(at) {
    this.at = at; // characters that were read
    this.held = ""; // the beginning of a line that is not decided
    this.lineStart = true;
    this.open = null;
  }

  /** @param {string} text what follows */
  append(text) {
    let rest = this.held + text;
    this.held = "";
    while (rest) {
      const end = rest.indexOf("\n") + 1;
      const line = end ? rest.slice(0, end) : rest;
      rest = end ? rest.slice(end) : "";
      if (!this.lineStart) this.put(line);
      else if (end) this.line(line);
      else if (this.undecided(line)) this.held = line;
      else this.put(line);
    }
  }

  /** Nothing follows for now: what was held back is a line. */
  finish() {
    const held = this.held;
    this.held = "";
    if (held) this.line(held);
  }

  /** The text is another one from character `from` on. @param {string} text all of it @param {number} from */
  rewrite(text, from) {
    let keep = this.all.length - 1;
    while (keep >= 0 && this.all[keep].start >= from) keep -= 1;
    // Without its fence the block would be more of the one before.
    if (keep > 0 && this.all[keep].kind === "code" && !this.all[keep].continued) keep -= 1;
    const first = this.all[keep];
    keep = Math.max(keep, 0);
    this.sink.drop(keep);
    this.all.length = keep;
    this.begin(first ? first.start : 0);
    if (first?.continued) this.start(first.kind, "", first.fence, true);
    this.append(text.slice(this.at));
  }

  undecided(line) {
    if (line.length > HELD) return false;
    if (this.open?.kind === "code") return MAY_CLOSE.test(line);
    return BLANK.test(line) || MAY_OPEN.test(line);
  }

  /** A whole line. */
  line(line) {
    const bare = line.endsWith("\n") ? line.slice(0, -1) : line;
    if (this.open?.kind === "code") {
      const fence = CLOSES.exec(bare)?.[1];
      if (!fence?.startsWith(this.open.fence)) return this.put(line);
    } else {
      const [, fence, info] = OPENS.exec(bare) ?? [];
      if (fence) {
        this.start("code", info.trim(), fence, false);
        return this.skip(line);
      }
      if (!BLANK.test(bare)) return this.put(line);
    }
    this.open = null;
    return this.skip(line);
  }

  skip(line) {
    this.at += line.length;
    this.lineStart = true;
  }

  put(line) {
    if (!this.open) this.start("text", "", "", false);
    else if (this.lineStart && this.at - this.open.start > LONG) this.start(this.open.kind, "", this.open.fence, true);
    this.sink.text(line);
    this.skip(line);
    this.lineStart = line.endsWith("\n");
  }

  start(kind, info, fence, continued) {
    this.open = { kind, fence, start: this.at, continued };
    this.all.push(this.open);
    this.sink.open(kind, info, continued);
  }
}
