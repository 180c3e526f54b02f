// Recordings: their bytes, their time line, what happened, and the player's loop with a clock of its own.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import test from "node:test";
import { DISPLAY, END, EVENT, HEADER_BYTES, SEGMENT, START, records } from "../src/replay/chunk.js";
import { Marks } from "../src/replay/marks.js";
import { Player } from "../src/replay/player.js";
import { Timeline, afterIdle, clock, lastBefore } from "../src/replay/timeline.js";

/** A chunk as recorders write it. @param {number} number @param {[number, number, string][]} list kind, time, payload */
function chunk(number, list) {
  const header = Buffer.alloc(HEADER_BYTES);
  header.write("helixrec");
  header[8] = 1;
  header.writeUInt32BE(number, 12);
  const parts = [header];
  for (const [kind, at, text] of list) {
    const payload = Buffer.from(text);
    const head = Buffer.alloc(13);
    head[0] = kind;
    head.writeUInt32BE(payload.length, 1);
    head.writeBigUInt64BE(BigInt(at), 5);
    parts.push(head, payload);
  }
  return new Uint8Array(Buffer.concat(parts));
}

const text = (bytes) => Buffer.from(bytes).toString();

test("a chunk's records are read as they were written", () => {
  const bytes = chunk(0, [[START, 0, "{}"], [SEGMENT, 5, "{}"], [DISPLAY, 2 ** 45, "größe"], [END, 2 ** 45, ""]]);
  const read = [...records(bytes)];
  assert.deepEqual(read.map(({ kind, at }) => [kind, at]), [[START, 0], [SEGMENT, 5], [DISPLAY, 2 ** 45], [END, 2 ** 45]]);
  assert.equal(text(read[2].payload), "größe");
  const from = HEADER_BYTES + 13 + 2;
  assert.equal([...records(bytes, from)][0].kind, SEGMENT);
  for (let cut = HEADER_BYTES + 1; cut < bytes.length - 13; cut += 1) {
    const whole = [HEADER_BYTES + 15, HEADER_BYTES + 30, HEADER_BYTES + 43 + 7].includes(cut);
    if (!whole) assert.throws(() => [...records(bytes.subarray(0, cut))], /cut off/, `${cut}`);
  }
  assert.throws(() => [...records(new Uint8Array(100))], /no chunk/);
});

test("the segment before a moment is found among very many", () => {
  const timeline = new Timeline();
  const chunks = Array.from({ length: 5000 }, (_, number) => ({ number, segments: number % 2 ? [] : [{ at_us: number * 6e6, offset: 48 }] }));
  timeline.take({ duration_us: 5000 * 6e6, state: "recording", chunk_list: chunks });
  assert.equal(timeline.chunks, 5000);
  for (const time of [0, 1, 6e6, 12e6 - 1, 12e6, 8 * 3600e6, 5000 * 6e6]) {
    const expected = [...chunks].reverse().find(({ segments: [one] }) => one && one.at_us <= time);
    assert.deepEqual(timeline.segmentAt(time), { at: expected.segments[0].at_us, chunk: expected.number, offset: 48 });
  }
  // What is told twice, or out of turn, changes nothing.
  timeline.take({ duration_us: 1, state: "complete", chunk_list: [chunks[0], { number: 7000 }] });
  assert.equal(timeline.chunks, 5000);
  assert.ok(timeline.isComplete && timeline.duration === 5000 * 6e6);
  assert.equal(new Timeline().segmentAt(5), null);
  assert.equal(lastBefore([], 5), -1);
});

test("time in which nothing happens is passed over on wish", () => {
  assert.equal(afterIdle(0, 60e6, true), 60e6 - 300_000);
  assert.equal(afterIdle(0, 60e6, false), 0);
  assert.equal(afterIdle(0, 1e6, true), 0);
  assert.deepEqual([0, 61e6, 3600e6, 8 * 3600e6 + 61e6].map(clock), ["00:00", "01:01", "01:00:00", "08:01:01"]);
});

test("what belongs together is one mark", () => {
  const marks = new Marks();
  marks.take([
    { at_us: 0, type: "viewer_joined", by: "ann", role: "view" },
    ...Array.from({ length: 20 }, (_, at) => ({ at_us: 1e6 + at * 1e5, type: "key", by: "ann", keysym: 97, down: at % 2 === 0 })),
    { at_us: 2e6, type: "key", by: "bob", keysym: 97, down: true },
    { at_us: 9e6, type: "key", by: "ann", keysym: 97, down: true },
    { at_us: 20e6, type: "gap", from_us: 15e6, reason: "the recorder was started again" },
    { at_us: 21e6, type: "control", epoch: 2 },
    { at_us: 22e6, type: "something_new" },
    { at_us: 23e6, type: "thread", thread: "t", what: "prompt", text: "Fix it" },
    { at_us: 24e6, type: "ended" },
  ]);
  assert.deepEqual(
    marks.all.map(({ at, kind, words }) => [at, kind, words]),
    [
      [0, "viewer", "ann opened the desktop to look"],
      [1e6, "input", "ann typed 10 keys"],
      [2e6, "input", "bob typed 1 key"],
      [9e6, "input", "ann typed 1 key"],
      [15e6, "gap", "Nothing was recorded from 00:15 on: the recorder was started again"],
      [21e6, "control", "The control was free again"],
      [23e6, "thread", "prompt: Fix it"],
      [24e6, "end", "The session ended"],
    ],
  );
});

/** A player of these chunks, with a clock that goes on only when somebody waits for it. */
function playing(chunks, { more = [] } = {}) {
  const shown = [];
  let now = 0;
  const timeline = new Timeline();
  const entries = chunks.map((bytes, number) => {
    const segments = [];
    let offset = HEADER_BYTES;
    for (const record of records(bytes)) {
      if (record.kind === SEGMENT) segments.push({ at_us: record.at, offset });
      offset += 13 + record.payload.length;
    }
    return { number, segments, last: [...records(bytes)].at(-1) };
  });
  const detail = (list) => ({ duration_us: list.at(-1).last.at, state: list.at(-1).last.kind === END ? "complete" : "recording", chunk_list: list });
  const here = entries.slice(0, entries.length - more.length || entries.length);
  timeline.take(detail(here));
  const fetched = [];
  const player = new Player({
    source: {
      chunk: async (number) => {
        fetched.push(number);
        return chunks[number];
      },
      detail: async () => detail(entries),
    },
    timeline,
    screen: {
      begin: () => shown.push([player.time, "begin"]),
      feed: (bytes) => shown.push([player.time, text(bytes)]),
      show: () => shown.push([player.time, "show"]),
    },
    clock: {
      now: () => now,
      wait: async (milliseconds) => {
        now += milliseconds;
      },
    },
    onChange: () => {},
    onFault: (fault) => assert.fail(fault),
  });
  const end = async () => {
    while (player.playing) await new Promise((resolve) => setImmediate(resolve));
  };
  return { player, shown, timeline, fetched, end, now: () => now };
}

/** First pictures: longer than a handshake. */
const [A, E] = ["a".repeat(600), "e".repeat(600)];
const CHUNKS = [
  chunk(0, [[START, 0, "{}"], [SEGMENT, 0, "{}"], [DISPLAY, 0, A], [DISPLAY, 1e6, "b"], [EVENT, 1.5e6, "{}"], [DISPLAY, 2e6, "c"]]),
  chunk(1, [[DISPLAY, 3e6, "d"], [SEGMENT, 10e6, "{}"], [DISPLAY, 10e6, E], [DISPLAY, 11e6, "f"]]),
  chunk(2, [[DISPLAY, 12e6, "g"], [END, 12e6, ""]]),
];

test("a seek gives all from the segment on up to the moment, at once", async () => {
  const { player, shown, fetched } = playing(CHUNKS);
  await player.seek(2.5e6);
  assert.deepEqual(shown, [[2.5e6, "begin"], [2.5e6, A], [2.5e6, "b"], [2.5e6, "c"], [2.5e6, "show"]]);
  shown.length = 0;
  fetched.length = 0;
  await player.seek(11e6);
  assert.deepEqual(shown.map(([, what]) => what), ["begin", E, "f", "show"]);
  assert.deepEqual([...new Set(fetched)].sort(), [1, 2], "the segment's chunk and the next one alone");
});

test("it plays at its time, over chunks and segments, to the end", async () => {
  const { player, shown, end, now } = playing(CHUNKS);
  await player.seek(0);
  shown.length = 0;
  player.play();
  await end();
  assert.deepEqual(shown.filter(([, what]) => what !== "show").map(([at, what]) => [Math.round(at / 1e4) / 100, what]), [
    [1, "b"],
    [2, "c"],
    [3, "d"],
    [10, "begin"],
    [10, E],
    [11, "f"],
    [12, "g"],
  ]);
  assert.ok(Math.abs(now() - 12_000) < 50, `${now()} ms`);
  assert.equal(player.time, 12e6);
});

test("faster, and over idle time", async () => {
  const { player, end, now } = playing(CHUNKS);
  player.speed = 4;
  player.skips = true;
  await player.seek(0);
  player.play();
  await end();
  // 12 s without the 6.7 s of the pause between 3 and 10 s, four times as fast.
  assert.ok(Math.abs(now() - (12_000 - 6_700) / 4) < 50, `${now()} ms`);
});

test("what comes while it plays is played, too", async () => {
  const { player, shown, end } = playing(CHUNKS, { more: [2] });
  await player.seek(10.5e6);
  shown.length = 0;
  player.play();
  await end();
  assert.deepEqual(shown.filter(([, what]) => what !== "show").map(([, what]) => what), ["f", "g"]);
});

test("of many seeks the last one counts", async () => {
  const { player, shown } = playing(CHUNKS);
  await Promise.all([player.seek(1e6), player.seek(11e6), player.seek(2e6)]);
  assert.equal(player.time, 2e6);
  assert.deepEqual(shown.map(([, what]) => what).slice(-5), ["begin", A, "b", "c", "show"]);
});

/** Two connections to an Xtigervnc of 320x200 with a terminal, as recorders make them. */
const REAL = new Uint8Array(await readFile(new URL("recorded.chunk", import.meta.url)));

/** The bytes of each segment, with their times. */
function segmentsOf(bytes) {
  const found = [];
  for (const { kind, at, payload } of records(bytes)) {
    if (kind === SEGMENT) found.push({ at, pieces: [] });
    if (kind === DISPLAY) found.at(-1).pieces.push({ at, payload });
  }
  return found;
}

test("what a real display said comes as it was said, from any moment", async () => {
  const segments = segmentsOf(REAL);
  assert.equal(segments.length, 2);
  for (const { pieces } of segments) {
    const said = Buffer.concat(pieces.map(({ payload }) => payload));
    assert.equal(said.subarray(0, 12).toString(), "RFB 003.008\n");
    assert.deepEqual([...said.subarray(12, 18)], [1, 1, 0, 0, 0, 0], "security type None, and in");
    assert.deepEqual([said.readUInt16BE(18), said.readUInt16BE(20)], [320, 200]);
  }
  const { player, shown, timeline, end } = playing([REAL]);
  player.screen.feed = (bytes) => shown.push([player.time, Buffer.from(bytes)]);
  const fed = () => Buffer.concat(shown.slice(shown.findLastIndex(([, what]) => what === "begin")).filter(([, what]) => Buffer.isBuffer(what)).map(([, what]) => what));
  const last = segments[1].at;
  for (const time of [0, segments[0].at + 5_000, 0.5e6, last - 1, last, last + 5_000, timeline.duration]) {
    shown.length = 0;
    await player.seek(time);
    const { pieces } = segments[time < last ? 0 : 1];
    // What is before the first picture comes with it, as there would be nothing to see.
    let said = 0;
    const wanted = pieces.filter(({ at, payload }) => {
      const comes = at <= time || said <= 512;
      if (comes) said += payload.length;
      return comes;
    });
    const expected = Buffer.concat(wanted.map(({ payload }) => payload));
    assert.ok(fed().equals(expected), `${fed().length} bytes at ${time}, ${expected.length} were said`);
  }
  shown.length = 0;
  await player.seek(0);
  player.play();
  await end();
  const all = Buffer.concat(shown.filter(([, what]) => Buffer.isBuffer(what)).map(([, what]) => what));
  assert.ok(all.equals(Buffer.concat(segments.flatMap(({ pieces }) => pieces.map(({ payload }) => payload)))));
});
