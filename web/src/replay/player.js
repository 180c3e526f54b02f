// Plays a recording: gives the screen what the display said, each thing at its time.
//
// One loop reads record after record. A seek begins another loop at the segment before the moment; the former one finds
// that it is not the newest any more and ends. Where a loop has nothing more to read it waits: for more of a recording
// that still goes on, or for a seek.

import { DISPLAY, END, SEGMENT, records } from "./chunk.js";
import { afterIdle } from "./timeline.js";

/** How often a recording that goes on is asked for more, in milliseconds, once all that is there was played. */
const MORE = 3_000;
/** A display that has said so much has begun to draw, and after so many microseconds it has drawn what there is. */
const HANDSHAKE_BYTES = 512;
const FIRST_PICTURE = 1_000_000;
/** How often the time is told while nothing else happens. */
const TICK = 100;

export class Player {
  /**
   * @param {object} parts
   * @param {{chunk: (number: number) => Promise<Uint8Array>, detail: (from: number) => Promise<object>}} parts.source
   * @param {import("./timeline.js").Timeline} parts.timeline
   * @param {{begin: () => void, feed: (bytes: Uint8Array) => void, show: () => void}} parts.screen
   * @param {{now: () => number, wait: (milliseconds: number) => Promise<void>}} parts.clock
   * @param {() => void} parts.onChange time or state have changed
   * @param {(fault: Error) => void} parts.onFault
   */
  constructor({ source, timeline, screen, clock, onChange, onFault }) {
    Object.assign(this, { source, timeline, screen, clock, onChange, onFault });
    this.time = 0;
    this.playing = false;
    this.speed = 1;
    this.skips = false;
    this.run = 0;
    this.begun = Infinity;
    this.said = 0;
    this.wake = () => {};
  }

  /** Shows that moment, and goes on from there if it plays. @param {number} time @returns {Promise<void>} it is shown */
  async seek(time) {
    this.run += 1;
    const mine = this.run;
    this.time = Math.max(0, Math.min(time, this.timeline.duration));
    this.begun = Infinity;
    this.said = 0;
    this.wake();
    this.onChange();
    const reader = this.reader(this.timeline.segmentAt(this.time));
    try {
      const held = await this.catchUp(reader, mine);
      if (mine !== this.run) return;
      this.go(reader, held, mine).catch((fault) => mine === this.run && this.failed(fault));
    } catch (fault) {
      if (mine === this.run) this.failed(fault);
    }
  }

  failed(fault) {
    this.playing = false;
    this.onChange();
    this.onFault(fault);
  }

  /** Records from a segment on, over all chunks; null where there is no more now. */
  async *reader(segment) {
    if (!segment) return;
    let { chunk, offset } = segment;
    for (;;) {
      while (chunk >= this.timeline.chunks) yield null;
      const bytes = await this.source.chunk(chunk);
      // The next one is on its way while this one is played.
      if (chunk + 1 < this.timeline.chunks) this.source.chunk(chunk + 1).catch(() => {});
      yield* records(bytes, offset);
      chunk += 1;
      offset = undefined;
    }
  }

  /** All up to this moment, at once, and as much more as it takes to see anything. @returns what comes behind it */
  async catchUp(reader, mine) {
    for (;;) {
      const { value: record, done } = await reader.next();
      if (mine !== this.run) return null;
      if (done || !record || (record.at > this.time && this.hasPicture(record.at))) {
        this.screen.show();
        return done ? undefined : record;
      }
      this.give(record);
    }
  }

  give({ kind, at, payload }) {
    if (kind === SEGMENT) {
      this.begun = at;
      this.said = 0;
      this.screen.begin();
    } else if (kind === DISPLAY) {
      this.said += payload.length;
      this.screen.feed(payload);
    }
  }

  /** The segment has something to show, as far as it was given. @param {number} now */
  hasPicture(now) {
    return this.said > HANDSHAKE_BYTES || now - this.begun > FIRST_PICTURE;
  }

  /** The rest, each at its time. */
  async go(reader, held, mine) {
    let record = held;
    let played = this.clock.now();
    while (mine === this.run && record !== undefined) {
      if (!this.playing) {
        await new Promise((resolve) => {
          this.wake = resolve;
        });
        played = this.clock.now();
        continue;
      }
      if (record === null) {
        record = await this.more(reader, mine);
        played = this.clock.now();
        continue;
      }
      const now = this.clock.now();
      this.time = Math.min(this.time + (now - played) * 1000 * this.speed, Math.max(record.at, this.time));
      played = now;
      this.time = afterIdle(this.time, record.at, this.skips);
      this.onChange();
      const left = (record.at - this.time) / 1000 / this.speed;
      if (left > 0.5) {
        await this.clock.wait(Math.min(left, TICK));
        continue;
      }
      this.give(record);
      // The next segment is shown with its first picture.
      if (record.kind === DISPLAY && this.hasPicture(record.at)) this.screen.show();
      if (record.kind === END) break;
      record = (await reader.next()).value;
    }
    if (mine !== this.run || record === null) return;
    this.time = this.timeline.duration;
    this.playing = false;
    this.onChange();
  }

  /** All that is there was played: the end, or more that has come meanwhile. */
  async more(reader, mine) {
    if (this.timeline.isComplete) return undefined;
    this.timeline.take(await this.source.detail(this.timeline.chunks));
    if (mine !== this.run) return undefined;
    const { value } = await reader.next();
    if (!value) await this.clock.wait(MORE);
    return value ?? null;
  }

  play() {
    if (this.playing) return;
    this.playing = true;
    this.onChange();
    // At the end: once more, from the beginning.
    if (this.time >= this.timeline.duration && this.timeline.isComplete) this.seek(0);
    else this.wake();
  }

  pause() {
    this.playing = false;
    this.onChange();
  }
}
