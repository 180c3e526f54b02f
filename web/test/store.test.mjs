// Snapshot and feed together, and what people read: against routes and a feed that the test plays.
import assert from "node:assert/strict";
import test from "node:test";
import { contentOf, controlsOf } from "../src/threads/schema.js";
import { Store } from "../src/threads/store.js";
import { eventLine, lineOf, sentenceEnd, size, titleOf, tokens } from "../src/threads/words.js";

const at = "2026-01-01T00:00:00Z";

function view(id, sequence, more = {}) {
  return { id, session: "s", title: null, agent: null, origin: "api", state: null, active_turn: null, queued: 0, turns: 0, open_questions: 0, usage: {}, created_at: at, last_activity_at: at, sequence, ...more };
}

const page = (id, sequence, entries = [], more = {}) => ({ ...view(id, sequence), recent_turns: [], questions: [], entries, ...more });
const said = (id, text) => ({ id, turn: null, role: "assistant", tool: null, text, length: text.length, truncated: false });
const grew = (thread, sequence, offset, text) => ({ thread, sequence, at, type: "entry", entry: "1", role: "assistant", offset, text });

/** A store whose server is the test. */
function played(routes) {
  const told = [];
  const timers = [];
  const feeds = [];
  const store = new Store({
    routes: { feed: "/feed", ...routes },
    follow: (options) => {
      feeds.push({ ...options, restarts: 0 });
      return { stop: () => {}, restart: () => (feeds.at(-1).restarts += 1) };
    },
    onNews: (news) => told.push(news),
    clock: { set: (call, wait) => timers.push({ call, wait }) && timers.length, clear: () => {} },
  });
  const ring = async (wait) => {
    const at = timers.findIndex((timer) => timer.wait === wait);
    assert.ok(at >= 0, `no timer of ${wait} ms: ${timers.map((timer) => timer.wait)}`);
    await timers.splice(at, 1)[0].call();
    await settled();
  };
  return { store, told, feeds, ring, timers };
}

const settled = () => new Promise((resolve) => setImmediate(resolve));
const text = (store) => store.open.thread.entries.get("1").text;

test("the feed begins where the list ends, and pages and events join without a seam", async () => {
  let answer;
  const { store, told, feeds } = played({
    list: async () => ({ threads: [view("a", 4), view("b", 9)] }),
    newest: () => new Promise((resolve) => (answer = resolve)),
  });
  await store.start();
  assert.equal(feeds[0].after, 9);
  const reading = store.show("a");
  // One that the page knows, one that it does not.
  store.take(grew("a", 10, 2, "c"));
  store.take(grew("a", 11, 3, "d"));
  answer(page("a", 10, [said("1", "abc")]));
  await reading;
  assert.equal(text(store), "abcd");
  store.take(grew("a", 12, 4, "e"));
  assert.equal(text(store), "abcde");
  assert.deepEqual(told.filter((news) => news.what === "entry").map((news) => news.text), ["e"]);
  // Another thread's text changes nothing here, its turns change the list.
  store.take(grew("b", 13, 0, "x"));
  store.take({ thread: "b", sequence: 14, at, type: "turn_moved", turn: "int_9", state: "completed" });
  assert.equal(text(store), "abcde");
});

test("a long thread is read from its end, and what was said before when it is wanted", async () => {
  const asked = [];
  const before = Array.from({ length: 250 }, (_, at) => said(`old${at}`, `text ${at}`));
  const { store, told } = played({
    list: async () => ({ threads: [view("a", 5)] }),
    newest: async () => page("a", 5, [said("1", "ab")], { entries_before: 250, custom_events: [{ sequence: 4, at, name: "mood", data: 1, turn: null }] }),
    page: async (id, cursor, limit) => {
      asked.push([cursor, limit]);
      // Pages end early where texts are long.
      return page("a", 9, before.slice(cursor, cursor + Math.min(limit, 150)));
    },
  });
  await store.start();
  await store.show("a");
  const ids = () => [...store.open.thread.entries.keys()];
  assert.deepEqual(ids(), ["1"]);
  assert.deepEqual(store.open.thread.customs.map((custom) => custom.name), ["mood"]);
  store.take(grew("a", 10, 2, "c"));
  await store.earlier();
  assert.deepEqual(asked, [[50, 200], [200, 50]]);
  assert.deepEqual([ids().length, ids()[0], ids().at(-1)], [201, "old50", "1"]);
  await store.earlier();
  assert.deepEqual([ids().length, ids()[0], store.open.thread.before], [251, "old0", 0]);
  await store.earlier();
  assert.deepEqual(asked.slice(2), [[0, 50]]);
  assert.equal(told.filter((news) => news.what === "earlier").length, 2);
  assert.equal(text(store), "abc");
  // What was told later than its page counts, and what its page knows does not count twice.
  store.take({ ...grew("a", 9, 0, "no"), entry: "old3" });
  assert.equal(store.open.thread.entries.get("old3").text, "text 3");
});

test("a gap is read again from the snapshot; what is shown stays until then", async () => {
  const pages = [page("a", 5, [said("1", "ab")]), page("a", 30, [said("1", "abcdef")])];
  const { store, told, ring } = played({ list: async () => ({ threads: [view("a", 5)] }), newest: async () => pages.shift() });
  await store.start();
  await store.show("a");
  store.take({ type: "gap", from: 6, to: 29 });
  assert.equal(text(store), "ab");
  store.take(grew("a", 29, 4, "ef")); // known to the page that comes
  store.take(grew("a", 31, 6, "!"));
  await settled();
  assert.equal(text(store), "abcdef!");
  assert.equal(told.filter((news) => news.what === "opened").length, 2);
  await ring(250);
  assert.equal(told.filter((news) => news.what === "list").length, 2);
});

test("a page that is behind the feed is asked for again", async () => {
  const pages = [page("a", 5, [said("1", "old")]), page("a", 20, [said("1", "newer")])];
  const { store } = played({ list: async () => ({ threads: [view("a", 5)] }), newest: async () => pages.shift() });
  await store.start();
  store.take(grew("a", 20, 0, "newer"));
  await store.show("a");
  assert.equal(text(store), "newer");
});

test("a feed that says nothing while the list goes on is opened anew", async () => {
  let sequence = 5;
  const { store, feeds, ring } = played({ list: async () => ({ threads: [view("a", sequence)] }) });
  await store.start();
  feeds[0].onState("live");
  sequence = 8;
  await ring(30_000);
  await ring(5_000);
  assert.equal(feeds[0].restarts, 1);
  // In time: nothing is done.
  store.take(grew("a", 8, 0, "x"));
  await ring(30_000);
  assert.equal(feeds[0].restarts, 1);
});

test("what fails is tried again, and another thread is not mixed in", async () => {
  let fail = true;
  let late;
  const { store, told, timers } = played({
    list: async () => ({ threads: [view("a", 5), view("b", 6)] }),
    newest: async (id) => {
      if (id === "b") return new Promise((resolve) => (late = resolve));
      if (fail) throw Object.assign(new Error("no"), { status: 503 });
      return page("a", 5, [said("1", "ab")]);
    },
  });
  await store.start();
  const first = store.show("b");
  await store.show("a");
  assert.equal(told.filter((news) => news.what === "fault").length, 1);
  fail = false;
  await timers.find((timer) => timer.wait < 2_000 && timer.wait !== 250).call();
  await settled();
  assert.equal(text(store), "ab");
  late(page("b", 6));
  await first;
  assert.equal(store.open.thread.id, "a");
  assert.deepEqual(store.summaries().map((one) => one.id).sort(), ["a", "b"]);
});

test("a session that was removed is asked nothing more, and what was read stays", async () => {
  let there = true;
  const gone = Object.assign(new Error("no session"), { status: 404, code: "session_not_found" });
  const { store, told, ring, timers } = played({
    list: async () => (there ? { threads: [view("a", 5)] } : Promise.reject(gone)),
    newest: async () => page("a", 5, [said("1", "ab")]),
  });
  await store.start();
  await store.show("a");
  there = false;
  await ring(30_000);
  assert.equal(told.at(-1).fault, gone);
  assert.ok(store.stopped && timers.length === 0);
  assert.equal(text(store), "ab");
});

test("a text that is being written is read to its end at once", async () => {
  const whole = "x".repeat(100);
  const asked = [];
  const turn = { id: "int_1", state: "running" };
  const { store } = played({
    list: async () => ({ threads: [view("a", 5)] }),
    newest: async () => page("a", 5, [{ ...said("1", whole.slice(0, 40)), turn: "int_1", length: 100, truncated: true }], { recent_turns: [turn] }),
    piece: async (thread, id, offset) => asked.push(offset) && { id, offset, text: whole.slice(offset, offset + 40), length: 100 },
  });
  await store.start();
  await store.show("a");
  assert.equal(text(store), whole);
  assert.deepEqual(asked, [40, 80]);
});

test("questions become buttons, small forms, or JSON", () => {
  const of = (schema, mode = "form", message = "?") => controlsOf({ schema, mode, message });
  assert.deepEqual(of(null), { kind: "confirm" });
  assert.deepEqual(of({ type: "object", properties: {} }), { kind: "confirm" });
  const single = of({ type: "object", properties: { db: { type: "string", enum: ["pg", "sqlite"] } } });
  assert.deepEqual([single.kind, single.field, single.options.map((one) => one.value)], ["choice", "db", ["pg", "sqlite"]]);
  const permission = of({ type: "object", properties: { option_id: { oneOf: [{ const: "allow", title: "Allow once" }, { const: "no", title: "Reject" }] } } }, "permission");
  assert.deepEqual(permission.options.map((one) => [one.title, one.refuses]), [["Allow once", false], ["Reject", true]]);
  assert.deepEqual(of({ enum: [1, 2] }).field, null);
  assert.equal(of({ type: "object", properties: { ok: { type: "boolean" } } }).kind, "choice");
  assert.equal(of({ type: "object", properties: { deep: { type: "object", properties: {} } } }).kind, "json");
  assert.equal(of({ type: "string" }).kind, "json");
  assert.deepEqual(of(null, "url", "Open https://example.org/x now"), { kind: "url", url: "https://example.org/x" });
  assert.deepEqual(of({ url: "javascript:alert(1)" }, "url", "no link"), { kind: "confirm" });

  const { kind, fields } = of({
    type: "object",
    properties: { name: { type: "string" }, port: { type: "integer", maximum: 9 }, tags: { type: "array", items: { enum: ["x", "y"] } }, on: { type: "boolean" } },
    required: ["name"],
  });
  assert.equal(kind, "form");
  const fill = (held) => contentOf(fields, (name) => held[name]);
  assert.deepEqual(fill({ name: "a", port: "4", tags: [1], on: true }), { content: { name: "a", port: 4, tags: ["y"], on: true }, faults: {} });
  assert.deepEqual(fill({ name: "", port: "", tags: [], on: false }), { content: { on: false }, faults: { name: "needed" } });
  assert.deepEqual(Object.keys(fill({ name: "a", port: "1.5", tags: [], on: false }).faults), ["port"]);
  assert.deepEqual(Object.keys(fill({ name: "a", port: "10", tags: [], on: false }).faults), ["port"]);
});

test("a conversation is told in words", () => {
  const line = (session, feed = "live") => lineOf(session, feed).text;
  assert.equal(line({ phase: "Pending", sync: {} }), "The session is pending. Prompts wait until its agent is ready.");
  assert.equal(line({ phase: "Ready", sync: {} }), "No agent is connected. Prompts wait for one.");
  assert.equal(line({ phase: "Ready", sync: { connected: true, agent: "claude" } }), "claude is getting ready. Prompts wait for it.");
  // A session without a desktop may have an agent all the same.
  assert.equal(line({ phase: "Pending", sync: { connected: true, ready: true, agent: "zed-connection" } }), "The agent takes prompts.");
  assert.equal(line({ phase: "Ready", sync: { refused: "wrong token" } }), "An agent was refused: wrong token");
  assert.equal(lineOf({ phase: "Stopped", sync: {} }, "connecting").state, "over");
  assert.equal(lineOf({ phase: "Ready", sync: {} }, "connecting").state, "waiting");
  assert.equal(eventLine({ type: "sync", state: "refused", detail: "wrong token" }), "agent refused: wrong token");
  assert.equal(eventLine({ type: "custom", name: "mood", data: { a: 1 } }), 'mood {"a":1}');
  assert.equal(tokens({ total_tokens: 1200, input_tokens: 1000, output_tokens: 200 }), "1,200 tokens (1,000 in, 200 out)");
  assert.equal(tokens({ total_tokens: 0 }), "");
  assert.equal(size(65_536), "64 KiB");
  assert.equal(titleOf({ title: null, origin: "editor" }), "Thread of the editor");
  assert.equal(sentenceEnd("Done. And th"), 5);
  assert.equal(sentenceEnd("no end"), 0);
});
