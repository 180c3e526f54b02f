// One thread as the fold of its events: pure, and the same as the server's fold. A snapshot comes in pages, each with
// the sequence that it knows; events that a page has already are left out, so that a snapshot and a feed that overlap
// neither lose nor double anything.
//
// `apply` tells what changed, and of a text only the new piece: whoever shows it has work for the piece alone.

import { byteLength, indexOfByte } from "./bytes.js";

/** States in which the agent has a turn, as far as is known. */
const ACTIVE = new Set(["dispatched", "running"]);

export const isActive = (turn) => ACTIVE.has(turn.state);
export const isQueued = (turn) => turn.state === "queued";
export const isFinal = (turn) => !isActive(turn) && !isQueued(turn);
/** Nobody knows, or it did not work: it can be asked again. */
export const canResend = (turn) => turn.state === "unknown" || turn.state === "failed";

const USAGE = ["total_tokens", "input_tokens", "output_tokens", "thought_tokens", "cached_read_tokens", "cached_write_tokens"];

/** The sum of token counts. @param {...(Record<string, number> | null | undefined)} all */
export function sumOf(...all) {
  return Object.fromEntries(USAGE.map((name) => [name, all.reduce((sum, usage) => sum + (usage?.[name] ?? 0), 0)]));
}

/**
 * @typedef {object} Change
 * @property {"thread" | "turn" | "entry" | "question" | "custom"} what
 * @property {object} [turn] @property {object} [question] @property {object} [entry] @property {object} [custom]
 * @property {"new" | "append" | "rewrite" | "same"} [how] of an entry
 * @property {string} [before] the entry in front of which a new one belongs; none: last
 * @property {string} [text] what was appended
 * @property {number} [from] index from which the text was rewritten
 */

export class Thread {
  /** @param {object} detail newest page of the thread */
  constructor(detail) {
    this.id = detail.id;
    this.before = detail.entries_before ?? 0; // entries that are not here
    this.entries = new Map();
    this.takeState(detail);
    this.addPage(detail);
  }

  /** Everything but entries is as the newest page tells it. */
  takeState(detail) {
    this.session = detail.session;
    this.title = detail.title ?? null;
    this.agent = detail.agent ?? null;
    this.origin = detail.origin;
    this.usage = sumOf(detail.usage);
    this.bound = detail.acp_thread_id ?? null;
    this.lastActivity = detail.last_activity_at;
    this.sequence = detail.sequence;
    this.turnCount = detail.turns ?? 0;
    this.turns = new Map((detail.recent_turns ?? []).map((turn) => [turn.id, { ...turn }]));
    this.questions = new Map((detail.questions ?? []).map((question) => [question.id, { ...question }]));
    this.customs = [...(detail.custom_events ?? [])];
  }

  /** @param {object} detail a page; each knows at least what the former knew */
  addPage(detail) {
    if (detail.sequence >= this.sequence) this.takeState(detail);
    for (const view of detail.entries) this.entries.set(view.id, entryOf(view, detail.sequence));
  }

  /** What was said before, from place `first` on. @param {number} first @param {{view: object, sequence: number}[]} entries */
  addEarlier(first, entries) {
    const known = this.entries;
    this.before = first;
    this.entries = new Map(entries.map(({ view, sequence }) => [view.id, entryOf(view, sequence)]));
    // What the feed has told meanwhile is newer.
    for (const [id, entry] of known) this.entries.set(id, entry);
  }

  /** A new entry, in front of the one that it belongs before. */
  insert(entry, before) {
    const later = before ? [...this.entries.keys()].indexOf(before) : -1;
    const moved = later < 0 ? [] : [...this.entries].slice(later);
    for (const [id] of moved) this.entries.delete(id);
    for (const [id, one] of [[entry.id, entry], ...moved]) this.entries.set(id, one);
  }

  /** State of the newest turn, as the list tells it. */
  get state() {
    return [...this.turns.values()].at(-1)?.state ?? null;
  }

  get activeTurn() {
    return [...this.turns.values()].reverse().find(isActive) ?? null;
  }

  get openQuestions() {
    return [...this.questions.values()].filter((question) => question.status === "open");
  }

  /** The list's words for this thread, from what is known here. */
  summary() {
    const turns = [...this.turns.values()];
    return {
      id: this.id,
      title: this.title,
      agent: this.agent,
      origin: this.origin,
      state: this.state,
      active_turn: this.activeTurn?.id ?? null,
      queued: turns.filter(isQueued).length,
      turns: Math.max(this.turnCount, turns.length),
      open_questions: this.openQuestions.length,
      usage: this.usage,
      last_activity_at: this.lastActivity,
      sequence: this.sequence,
    };
  }

  /** A turn that a request has answered; its event may still be on the way. @returns {Change[]} */
  addTurn(view) {
    if (this.turns.has(view.id)) return [];
    const turn = { ...view };
    this.turns.set(view.id, turn);
    return [{ what: "turn", turn }];
  }

  /** The next event of this thread. @param {object} item as the feed tells it @returns {Change[]} */
  apply(item) {
    if (item.type === "entry") return this.applyEntry(item);
    if (item.sequence <= this.sequence) return [];
    this.sequence = item.sequence;
    this.lastActivity = item.at;
    switch (item.type) {
      case "thread_started":
        this.title = item.title ?? this.title;
        this.agent = item.agent ?? null;
        this.origin = item.origin;
        return [{ what: "thread" }];
      case "thread_bound":
        this.bound = item.acp_thread_id ?? null;
        return [{ what: "thread" }];
      case "thread_renamed":
        this.title = item.title;
        return [{ what: "thread" }];
      case "turn_queued":
        this.turnCount += 1;
        return this.addTurn(queued(this.id, item));
      case "turn_moved":
        return this.moveTurn(item);
      case "cancel_requested":
        return this.changeTurn(item.turn, (turn) => {
          turn.cancel_requested = true;
        });
      case "question_asked":
        return this.ask(item);
      case "question_answered":
        return this.changeQuestion(item.question, (question) => {
          if (question.status !== "open") return;
          Object.assign(question, { status: "answered", action: item.action, answered_by: item.by });
        });
      case "question_closed":
        return this.changeQuestion(item.question, (question) => {
          question.status = item.status;
        });
      case "custom":
        return this.addCustom({ name: item.name, data: item.data, at: item.at, sequence: item.sequence });
      default:
        return []; // of a newer server
    }
  }

  /** As a page tells it, but that it is new: with the turn that the agent has, else the last one. */
  addCustom(custom) {
    const turn = this.activeTurn ?? [...this.turns.values()].at(-1);
    const made = { ...custom, turn: turn?.id ?? null, live: true };
    this.customs.push(made);
    return [{ what: "custom", custom: made }];
  }

  changeTurn(id, change) {
    const turn = this.turns.get(id);
    if (!turn) return [];
    change(turn);
    return [{ what: "turn", turn }];
  }

  moveTurn(item) {
    const changes = this.changeTurn(item.turn, (turn) => {
      turn.state = item.state;
      turn.cause = item.cause ?? null;
      turn.exit_status = item.exit_status ?? turn.exit_status ?? null;
      turn.usage = item.usage ?? turn.usage ?? null;
      if (item.state === "dispatched") turn.dispatched_at = item.at;
      turn.finished_at = isFinal(turn) ? item.at : null;
    });
    if (!item.usage) return changes;
    this.usage = sumOf(this.usage, item.usage);
    return [...changes, { what: "thread" }];
  }

  ask(item) {
    if (this.questions.has(item.question)) return [];
    const question = {
      id: item.question,
      turn: item.turn ?? null,
      mode: item.mode,
      message: item.message,
      schema: item.schema ?? null,
      entry: item.entry ?? null,
      status: "open",
      answered_by: null,
    };
    this.questions.set(question.id, question);
    return [{ what: "question", question }];
  }

  changeQuestion(id, change) {
    const question = this.questions.get(id);
    if (!question) return [];
    change(question);
    return [{ what: "question", question }];
  }

  applyEntry(item) {
    const known = this.entries.get(item.entry);
    // An entry may be of an older page than the rest.
    if (item.sequence <= (known ? known.known : this.sequence)) return [];
    this.sequence = Math.max(this.sequence, item.sequence);
    this.lastActivity = item.at;
    const length = item.offset + byteLength(item.text);
    // It belongs to what was said before what is here.
    if (!known && item.before && !this.entries.has(item.before)) {
      if (item.offset === 0) this.before += 1;
      return [];
    }
    if (!known) {
      const entry = {
        id: item.entry,
        turn: item.turn ?? null,
        role: item.role,
        tool: item.tool ?? null,
        text: item.offset === 0 ? item.text : "",
        bytes: item.offset === 0 ? length : 0,
        length,
        known: item.sequence,
      };
      this.insert(entry, item.before);
      return [{ what: "entry", how: "new", entry, before: item.before }];
    }
    known.known = item.sequence;
    known.role = item.role;
    known.turn = item.turn ?? known.turn;
    known.tool = item.tool ?? null;
    return [{ what: "entry", entry: known, ...write(known, item.offset, item.text, length) }];
  }

  /** More of a long entry. @param {{id: string, offset: number, text: string, length: number}} piece @returns {Change[]} */
  addPiece(piece) {
    const entry = this.entries.get(piece.id);
    // Rewritten while it was asked for: what is asked next begins elsewhere.
    if (!entry || piece.offset !== entry.bytes || isWhole(entry)) return [];
    const text = piece.text;
    entry.text += text;
    entry.bytes += byteLength(text);
    entry.length = Math.max(piece.length, entry.bytes);
    return [{ what: "entry", entry, how: "append", text }];
  }
}

/** An entry of a page that knows all until `sequence`. */
function entryOf(view, sequence) {
  const bytes = byteLength(view.text);
  return {
    id: view.id,
    turn: view.turn ?? null,
    role: view.role,
    tool: view.tool ?? null,
    text: view.text,
    bytes, // of `text`
    length: view.truncated ? Math.max(view.length, bytes) : bytes, // of all of it
    known: sequence,
  };
}

/** True when all of its text is here. */
export const isWhole = (entry) => entry.bytes >= entry.length;

/** The text keeps its first `offset` bytes and goes on with `text`. @returns {Pick<Change, "how" | "text" | "from">} */
function write(entry, offset, text, length) {
  entry.length = length;
  if (offset > entry.bytes) return { how: "same" }; // behind what is here of a long one
  const from = offset === entry.bytes ? entry.text.length : indexOfByte(entry.text, entry.bytes, offset);
  const gone = entry.text.length - from;
  if (gone === 0) {
    entry.text += text;
    entry.bytes = length;
    return { how: "append", text };
  }
  // Told once more, perhaps with more behind it.
  if (text.length >= gone && text.startsWith(entry.text.slice(from))) {
    const more = text.slice(gone);
    entry.text += more;
    entry.bytes = length;
    return more ? { how: "append", text: more } : { how: "same" };
  }
  entry.text = entry.text.slice(0, from) + text;
  entry.bytes = length;
  return { how: "rewrite", from };
}

/** A turn as a request would answer it. */
function queued(thread, item) {
  return {
    id: item.turn,
    thread,
    state: "queued",
    cause: null,
    origin: item.origin,
    by: item.by ?? null,
    prompt: item.prompt,
    attachments: item.attachments ?? [],
    interrupt: item.interrupt ?? false,
    cancel_requested: false,
    resend_of: item.resend_of ?? null,
    usage: null,
    exit_status: null,
    queued_at: item.at,
    dispatched_at: null,
    finished_at: null,
  };
}
