// The manifest of a recording as a time line: which chunk has what. Pure. Times are microseconds.

/** The last of a sorted row that does not come after `time`; -1 where all do. @param {{at: number}[]} row */
export function lastBefore(row, time) {
  let [from, to] = [0, row.length];
  while (from < to) {
    const middle = (from + to) >> 1;
    if (row[middle].at <= time) from = middle + 1;
    else to = middle;
  }
  return from - 1;
}

export class Timeline {
  constructor() {
    this.segments = [];
    this.chunks = 0;
    this.duration = 0;
    this.isComplete = false;
  }

  /** What the manifest says, or what is new in it. @param {{duration_us: number, state: string, chunk_list: object[]}} detail */
  take(detail) {
    for (const chunk of detail.chunk_list) {
      if (chunk.number !== this.chunks) continue;
      this.chunks += 1;
      for (const { at_us: at, offset } of chunk.segments ?? []) this.segments.push({ at, chunk: chunk.number, offset });
    }
    this.duration = Math.max(this.duration, detail.duration_us);
    this.isComplete = detail.state === "complete";
  }

  /** Where to begin to show the desktop at a time; null before there is any picture. @param {number} time */
  segmentAt(time) {
    return this.segments[Math.max(0, lastBefore(this.segments, time))] ?? null;
  }
}

/** Without anything that happens for so long, time may be passed over. */
export const IDLE = 2_000_000;
/** What is left of such a time before the next thing happens. */
export const LEAD = 300_000;

/** The time to go on from, where nothing happens between now and `next`. */
export function afterIdle(now, next, skips) {
  return skips && next - now > IDLE ? next - LEAD : now;
}

/** @param {number} microseconds */
export function clock(microseconds) {
  const seconds = Math.floor(microseconds / 1_000_000);
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60].map((part) => String(part).padStart(2, "0"));
  return (seconds < 3600 ? parts.slice(1) : parts).join(":");
}
