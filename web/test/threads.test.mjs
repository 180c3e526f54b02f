// The fold of a thread's events, its texts by bytes, and their blocks. Oracles are plain: UTF-8 buffers for texts, one
// reading of the whole text for blocks.
import assert from "node:assert/strict";
import test from "node:test";
import { byteLength, indexOfByte } from "../src/threads/bytes.js";
import { Blocks } from "../src/threads/blocks.js";
import { Thread, canResend, isWhole } from "../src/threads/model.js";
import { choiceOf, offersOf } from "../src/threads/offers.js";

const ALPHABET = ["a", "b", " ", "\n", "é", "€", "😀", "```", "```\n", "~~~~", "\n\n", "word "];

/** The same numbers every time. */
function numbers(seed) {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

function textOf(random, parts) {
  return Array.from({ length: random(parts + 1) }, () => ALPHABET[random(ALPHABET.length)]).join("");
}

function detail(more = {}) {
  return {
    id: "thr_1",
    session: "s",
    title: null,
    agent: null,
    origin: "api",
    usage: {},
    turns: 0,
    last_activity_at: "2026-01-01T00:00:00Z",
    sequence: 10,
    recent_turns: [],
    entries: [],
    questions: [],
    ...more,
  };
}

const entryView = (id, text, more = {}) => ({ id, turn: null, role: "assistant", tool: null, text, length: Buffer.byteLength(text), truncated: false, ...more });
const entry = (sequence, offset, text, more = {}) => ({ sequence, type: "entry", at: "2026-01-01T00:00:01Z", entry: "1", role: "assistant", offset, text, ...more });
const event = (sequence, type, more = {}) => ({ sequence, type, at: "2026-01-01T00:00:02Z", ...more });

test("bytes are counted as UTF-8 counts them", () => {
  const random = numbers(1);
  for (let round = 0; round < 500; round += 1) {
    const text = textOf(random, 12);
    assert.equal(byteLength(text), Buffer.byteLength(text));
    let bytes = 0;
    for (const [at, character] of [...text].map((one, at, all) => [all.slice(0, at).join("").length, one])) {
      assert.equal(indexOfByte(text, byteLength(text), bytes), at);
      bytes += Buffer.byteLength(character);
    }
    assert.equal(indexOfByte(text, bytes, bytes), text.length);
  }
});

test("texts that grow and are rewritten end as the bytes say, and changes tell the way there", () => {
  const random = numbers(2);
  for (let round = 0; round < 300; round += 1) {
    const thread = new Thread(detail());
    let truth = Buffer.alloc(0);
    let shown = "";
    for (let sequence = 11; sequence < 30; sequence += 1) {
      let offset = random(3) ? truth.length : random(truth.length + 1);
      while (offset > 0 && (truth[offset] & 0xc0) === 0x80) offset -= 1;
      const text = textOf(random, 6);
      truth = Buffer.concat([truth.subarray(0, offset), Buffer.from(text)]);
      const [change] = thread.apply(entry(sequence, offset, text));
      if (change.how === "new") shown = change.entry.text;
      if (change.how === "append") shown += change.text;
      if (change.how === "rewrite") {
        assert.equal(shown.slice(0, change.from), change.entry.text.slice(0, change.from));
        shown = change.entry.text;
      }
      assert.equal(thread.entries.get("1").text, truth.toString());
      assert.equal(thread.entries.get("1").bytes, truth.length);
      assert.equal(shown, truth.toString());
    }
  }
});

test("an appended piece is told alone, however long the text is", () => {
  const thread = new Thread(detail({ entries: [entryView("1", "x".repeat(1000))] }));
  assert.deepEqual(thread.apply(entry(11, 1000, "é"))[0].text, "é");
  assert.deepEqual(thread.apply(entry(12, 1002, "!"))[0].text, "!");
  // Told again with more behind it: only that is new.
  const [again] = thread.apply(entry(13, 1000, "é!?"));
  assert.deepEqual([again.how, again.text], ["append", "?"]);
  assert.equal(thread.apply(entry(14, 1000, "é!?"))[0].how, "same");
});

test("a snapshot and a feed that overlap lose nothing and double nothing", () => {
  const random = numbers(3);
  for (let round = 0; round < 200; round += 1) {
    // Two entries and a turn, as one log.
    const log = [event(1, "thread_started", { origin: "api" }), event(2, "turn_queued", { turn: "int_1", origin: "api", prompt: "go" })];
    const lengths = { 1: 0, 2: 0 };
    for (let sequence = 3; sequence < 25; sequence += 1) {
      const id = String(1 + random(2));
      const text = textOf(random, 4);
      log.push(entry(sequence, lengths[id], text, { entry: id, turn: "int_1" }));
      lengths[id] += Buffer.byteLength(text);
    }
    log.push(event(25, "turn_moved", { turn: "int_1", state: "completed", usage: { total_tokens: 7 } }));
    const fold = (until) => {
      const thread = new Thread(detail({ sequence: 0 }));
      for (const item of log.filter((one) => one.sequence <= until)) thread.apply(item);
      return thread;
    };
    const page = (until, ids) => {
      const thread = fold(until);
      const entries = [...thread.entries.values()].filter((one) => ids.includes(one.id)).map((one) => entryView(one.id, one.text, { turn: one.turn }));
      return detail({ sequence: until, usage: thread.usage, recent_turns: [...thread.turns.values()], entries });
    };
    const first = 2 + random(23);
    const order = [...fold(first).entries.keys()];
    const second = first + random(26 - first);
    const thread = new Thread(page(first, order.slice(0, 1)));
    const rest = [...fold(second).entries.keys()].filter((id) => !order.slice(0, 1).includes(id));
    thread.addPage(page(second, rest));
    // The feed began before the snapshot.
    for (const item of log.slice(random(first))) thread.apply(item);
    const whole = fold(25);
    assert.deepEqual([...thread.entries.values()].map((one) => [one.id, one.text]), [...whole.entries.values()].map((one) => [one.id, one.text]));
    assert.deepEqual([...thread.turns.values()], [...whole.turns.values()]);
    assert.equal(thread.usage.total_tokens, 7);
    assert.equal(thread.sequence, 25);
  }
});

test("an entry that was heard late stands where it belongs", () => {
  const thread = new Thread(detail({ entries: [entryView("5", "five"), entryView("6", "six")], entries_before: 3 }));
  const [made] = thread.apply(entry(100, 0, "late", { entry: "4", before: "5" }));
  assert.deepEqual([made.how, made.before], ["new", "5"]);
  assert.deepEqual([...thread.entries.keys()], ["4", "5", "6"]);
  // Among what is not here: only counted, until it is read.
  assert.deepEqual(thread.apply(entry(101, 0, "earlier", { entry: "1", before: "2" })), []);
  assert.equal(thread.before, 4);
});

test("a long entry is read on piece by piece while it grows", () => {
  const whole = "0123456789é".repeat(20);
  const thread = new Thread(detail({ entries: [entryView("1", whole.slice(0, 30), { length: Buffer.byteLength(whole), truncated: true })] }));
  const known = thread.entries.get("1");
  assert.ok(!isWhole(known));
  // Behind what is here: only the length grows.
  assert.equal(thread.apply(entry(11, Buffer.byteLength(whole), "end"))[0].how, "same");
  assert.equal(known.length, Buffer.byteLength(whole) + 3);
  const text = `${whole}end`;
  const piece = (offset, bytes) => ({ id: "1", offset, text: Buffer.from(text).subarray(offset, offset + bytes).toString(), length: Buffer.byteLength(text) });
  assert.deepEqual(thread.addPiece(piece(0, 5)), [], "not what was asked for");
  assert.equal(thread.addPiece(piece(known.bytes, 48))[0].how, "append");
  assert.ok(!isWhole(known));
  thread.addPiece(piece(known.bytes, 10_000));
  assert.ok(isWhole(known));
  assert.equal(known.text, text);
  // Cut off and written anew within what is here.
  thread.apply(entry(12, 12, "new"));
  assert.equal(known.text, `${Buffer.from(text).subarray(0, 12)}new`);
});

test("turns, questions and titles follow their events", () => {
  const thread = new Thread(detail());
  const told = (item) => thread.apply(item).map((change) => change.what);
  assert.deepEqual(told(event(11, "turn_queued", { turn: "int_1", origin: "api", by: "ann", prompt: "go" })), ["turn"]);
  assert.deepEqual(told(event(11, "turn_queued", { turn: "int_1", origin: "api", prompt: "go" })), [], "known already");
  assert.deepEqual(told(event(12, "turn_moved", { turn: "int_1", state: "running" })), ["turn"]);
  assert.equal(thread.activeTurn.id, "int_1");
  thread.apply(event(13, "cancel_requested", { turn: "int_1", by: "ann" }));
  assert.ok(thread.turns.get("int_1").cancel_requested);
  thread.apply(event(14, "turn_moved", { turn: "int_1", state: "unknown", cause: { code: "not_proved", message: "nobody knows" } }));
  assert.ok(canResend(thread.turns.get("int_1")));
  assert.equal(thread.state, "unknown");
  // Later evidence counts.
  thread.apply(event(15, "turn_moved", { turn: "int_1", state: "completed", usage: { total_tokens: 5 }, exit_status: 0 }));
  assert.equal(thread.turns.get("int_1").cause, null);
  assert.equal(thread.usage.total_tokens, 5);

  const asked = event(16, "question_asked", { question: "q", mode: "form", message: "Which?", schema: {} });
  assert.deepEqual(told(asked), ["question"]);
  assert.equal(thread.summary().open_questions, 1);
  thread.apply(event(17, "question_answered", { question: "q", action: "accept", by: "ann" }));
  thread.apply(event(18, "question_answered", { question: "q", action: "decline", by: "bob" }));
  assert.deepEqual([thread.questions.get("q").status, thread.questions.get("q").answered_by], ["answered", "ann"]);
  thread.apply(event(19, "question_closed", { question: "q", status: "accepted" }));
  assert.equal(thread.questions.get("q").status, "accepted");

  thread.apply(event(20, "thread_renamed", { title: "Login" }));
  assert.equal(thread.title, "Login");
  assert.deepEqual(told(event(21, "something_newer")), []);
  assert.equal(thread.sequence, 21);
  // The answer to a request came before its event.
  assert.equal(thread.addTurn({ id: "int_2", thread: "thr_1", state: "queued", prompt: "more" }).length, 1);
  assert.deepEqual(told(event(22, "turn_queued", { turn: "int_2", origin: "api", prompt: "more" })), []);
});

class Recorder {
  constructor() {
    this.blocks = [];
    this.read = 0;
    this.parser = new Blocks({
      open: (kind, info, continued) => this.blocks.push({ kind, info, continued, text: "" }),
      text: (text) => {
        this.read += text.length;
        this.blocks.at(-1).text += text;
      },
      drop: (count) => {
        this.blocks.length = count;
      },
    });
  }
}

function read(text) {
  const recorder = new Recorder();
  recorder.parser.append(text);
  recorder.parser.finish();
  return recorder.blocks;
}

test("paragraphs and fenced code are blocks", () => {
  const blocks = read("one\ntwo\n\n\nthree\n```rust extra\nlet a;\n\n``\n~~~\n```\nafter ``` not a fence\n");
  assert.deepEqual(
    blocks.map(({ kind, info, text }) => [kind, info, text]),
    [
      ["text", "", "one\ntwo\n"],
      ["text", "", "three\n"],
      ["code", "rust extra", "let a;\n\n``\n~~~\n"],
      ["text", "", "after ``` not a fence\n"],
    ],
  );
  assert.deepEqual(read("~~~~\na\n~~~\n~~~~~\nb").map(({ kind, text }) => [kind, text]), [["code", "a\n~~~\n"], ["text", "b"]]);
  assert.deepEqual(read("").length, 0);
});

test("pieces and rewrites give the blocks of the whole text", () => {
  const random = numbers(4);
  for (let round = 0; round < 400; round += 1) {
    const recorder = new Recorder();
    let text = "";
    for (let step = 0; step < 15; step += 1) {
      if (random(4)) {
        const more = textOf(random, 6);
        text += more;
        recorder.parser.append(more);
      } else {
        const from = random(text.length + 1);
        text = text.slice(0, from) + textOf(random, 4);
        recorder.parser.rewrite(text, from);
      }
    }
    recorder.parser.finish();
    assert.deepEqual(recorder.blocks, read(text), JSON.stringify(text));
  }
});

test("a long text is read once, in blocks of bounded size", () => {
  const recorder = new Recorder();
  const line = `${"x".repeat(79)}\n`;
  for (let at = 0; at < 12_800; at += 1) recorder.parser.append(line);
  recorder.parser.finish();
  assert.equal(recorder.read, 1_024_000);
  assert.ok(recorder.blocks.length > 100 && recorder.blocks.every((block) => block.text.length < 10_000));
  assert.equal(recorder.blocks.map((block) => block.text).join("").length, 1_024_000);
  // A change near the end costs the last block.
  const text = `${line.repeat(12_799)}end`;
  recorder.parser.rewrite(text, 80 * 12_799);
  assert.ok(recorder.read < 1_024_000 + 10_000);
});

test("what an agent offers is told from its event, in the old form and in the new one", () => {
  const modes = { currentModeId: "ask", availableModes: [{ id: "ask", name: "Ask", description: "asks" }, { id: "code", name: "Code" }] };
  const models = { currentModelId: "small", availableModels: [{ modelId: "small", name: "Small" }, { modelId: "large", name: "" }] };
  const [mode, model] = offersOf({ acp_thread_id: "x", modes, models });
  assert.deepEqual(mode, { setting: "mode", current: "ask", options: [{ id: "ask", name: "Ask", about: "asks" }, { id: "code", name: "Code", about: "" }] });
  assert.deepEqual(model.options.map(({ id, name }) => [id, name]), [["small", "Small"], ["large", "large"]]);
  const options = [{ value: "a", name: "A" }, { name: "more", options: [{ value: "b", name: "B" }] }];
  const [newer] = offersOf({ modes: null, models: null, config_options: [{ id: "m", category: "model", currentValue: "b", options }, { id: "x", category: "thought_level", options }] });
  assert.deepEqual([newer.setting, newer.current, newer.options.map(({ id }) => id)], ["model", "b", ["a", "b"]]);
  // Nothing to choose from.
  const [named] = offersOf({ config_options: [{ id: "model", category: null, currentValue: "b", options }] });
  assert.deepEqual([named.setting, named.current], ["model", "b"]);
  for (const data of [undefined, null, "x", {}, { modes: { currentModeId: "a", availableModes: [{ id: "a" }] } }]) assert.deepEqual(offersOf(data), []);
  assert.deepEqual(choiceOf("model", "acp-1", "large"), { type: "set_session_model", data: { acp_thread_id: "acp-1", model_id: "large" } });
});

test("an event without a meaning stays with the turn that the agent had", () => {
  const thread = new Thread(detail());
  const custom = (sequence, name) => thread.apply(event(sequence, "custom", { name, data: {} }))[0].custom.turn;
  thread.apply(event(11, "turn_queued", { turn: "int_1", origin: "api", prompt: "go" }));
  thread.apply(event(12, "turn_moved", { turn: "int_1", state: "running" }));
  thread.apply(event(13, "turn_queued", { turn: "int_2", origin: "api", prompt: "then" }));
  assert.equal(custom(14, "mood"), "int_1");
  assert.deepEqual(thread.apply(event(14, "custom", { name: "mood", data: {} })), [], "known already");
  thread.apply(event(15, "turn_moved", { turn: "int_1", state: "completed" }));
  assert.equal(custom(16, "mood"), "int_2");
  assert.equal(thread.customs.length, 2);
});
