// Pure parts of the pages, and what the built pages must not contain.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import test from "node:test";
import { Backoff, Bell } from "../src/backoff.js";
import { age, over, short, state } from "../src/words.js";

test("the pause grows to 30 s and never falls below half of its step", () => {
  const longest = new Backoff(() => 1);
  assert.deepEqual([0, 1, 2, 3, 4, 5, 6].map(() => longest.next()), [1000, 2000, 4000, 8000, 16000, 30000, 30000]);
  const shortest = new Backoff(() => 0);
  assert.equal(shortest.next(), 500);
  longest.reset();
  assert.equal(longest.next(), 1000);
});

test("a ring while nobody waits is not lost", async () => {
  const bell = new Bell();
  bell.ring();
  await bell.wait(60_000);
  const waiting = bell.wait(60_000);
  bell.ring();
  await waiting;
});

test("a session is told in words", () => {
  assert.equal(state({ phase: "Pending", queue_position: 2, cause: { message: "no free slot" } }), "place 2 in the queue: no free slot");
  assert.equal(state({ phase: "Starting", timeline: [{ step: "window_manager" }] }), "starting: window manager");
  assert.equal(state({ phase: "Ready", result: { exit_status: 3 } }), "exit status 3");
  assert.equal(state({ phase: "Failed", cause: { message: "git said no" } }), "git said no");
  assert.equal(state({ phase: "Ready", unclaimed: true }), "unclaimed: adopt or stop it");
  assert.ok(over({ phase: "Stopped" }) && !over({ phase: "Lost" }));
  assert.equal(age("2026-01-01T00:00:00Z", Date.parse("2026-01-01T00:02:30Z")), "2 min");
  assert.equal(short("a\n b", 9), "a b");
});

test("pages carry nothing inline and load nothing from elsewhere", async () => {
  for (const page of ["index.html", "view.html", "replay.html"]) {
    const html = await readFile(new URL(`../src/${page}`, import.meta.url), "utf8");
    assert.doesNotMatch(html, /\sstyle=|\son\w+=|<style|<script(?![^>]*\ssrc=)|https?:\/\//);
  }
});
