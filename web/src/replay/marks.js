// What happened beside the picture, as marks on the bar and lines of a list. Pure.
//
// One key is no news: what one person types or points without a pause is one mark.

import { clock } from "./timeline.js";

/** Keys, moves and entries that follow each other so closely belong together. */
const PAUSE = 3_000_000;

/** @typedef {{at: number, until: number, kind: string, by: string, words: string, count: number}} Mark */

const KIND = {
  key: "input",
  pointer: "input",
  clipboard: "input",
  resize: "input",
  call: "input",
  control: "control",
  thread: "thread",
  gap: "gap",
  missed: "gap",
  viewer_joined: "viewer",
  viewer_left: "viewer",
  ended: "end",
};

/** Kinds, and how people call them. */
export const KINDS = { input: "Input", control: "Control", thread: "Conversation", gap: "Gaps", viewer: "Viewers", end: "End" };

function wordsOf(event, count) {
  switch (event.type) {
    case "key":
      return `${event.by} typed ${count} ${count === 1 ? "key" : "keys"}`;
    case "pointer":
      return `${event.by} used the pointer`;
    case "clipboard":
      return `${event.by} put something into the clipboard`;
    case "resize":
      return `${event.by} changed the size to ${event.width}x${event.height}`;
    case "call":
      return `${event.by}: ${[event.call, ...(event.actions ?? [])].join(", ")}`;
    case "control":
      return event.holder ? `${event.holder.by} took the control` : "The control was free again";
    case "thread":
      return [event.what, event.text].filter(Boolean).join(": ");
    case "gap":
      return `Nothing was recorded from ${clock(event.from_us)} on: ${event.reason}`;
    case "missed":
      return `${event.count} events could not be noted`;
    case "viewer_joined":
      return `${event.by} opened the desktop${event.role === "view" ? " to look" : ""}`;
    case "viewer_left":
      return `${event.by} closed the desktop`;
    case "ended":
      return "The session ended";
    default:
      return "";
  }
}

/** True for what may be one of many: a key is pressed and released, a pointer moves in steps. */
const merges = ({ type, what }) => type === "key" || type === "pointer" || (type === "thread" && what === "entry");

export class Marks {
  constructor() {
    /** @type {Mark[]} */
    this.all = [];
    this.last = new Map();
  }

  /** @param {object[]} events in the order of time; types that are not known are passed over */
  take(events) {
    for (const event of events) {
      const kind = KIND[event.type];
      if (!kind || (event.type === "key" && !event.down)) continue;
      const row = `${event.type} ${event.by ?? event.turn ?? ""}`;
      const before = this.last.get(row);
      if (before && merges(event) && event.at_us - before.until < PAUSE) {
        before.until = event.at_us;
        before.count += 1;
        before.words = wordsOf(event, before.count);
        continue;
      }
      const at = event.type === "gap" ? event.from_us : event.at_us;
      const mark = { at, until: event.at_us, kind, by: event.by ?? "", words: wordsOf(event, 1), count: 1 };
      this.last.set(row, mark);
      this.all.push(mark);
    }
  }
}
