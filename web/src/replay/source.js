// A recording on the server: its manifest, its chunks, its events. Chunks never change, so those that were looked at
// last are kept; memory is bounded.

import { api, request } from "../api.js";

/** Chunks that are kept: some 600 KiB each. */
const KEPT = 24;

export class Source {
  /** @param {string} recording */
  constructor(recording) {
    this.base = `/api/v1/recordings/${encodeURIComponent(recording)}`;
    this.chunks = new Map();
  }

  /** The manifest from a chunk on. @param {number} from */
  detail(from) {
    return api(`${this.base}?from_chunk=${from}`);
  }

  /** One chunk's bytes. @param {number} number @returns {Promise<Uint8Array>} */
  chunk(number) {
    const known = this.chunks.get(number);
    this.chunks.delete(number);
    const bytes = known ?? this.fetch(number);
    this.chunks.set(number, bytes);
    for (const old of this.chunks.keys()) {
      if (this.chunks.size <= KEPT) break;
      this.chunks.delete(old);
    }
    return bytes;
  }

  async fetch(number) {
    try {
      const answer = await request(`${this.base}/chunks/${number}`);
      return new Uint8Array(await answer.arrayBuffer());
    } catch (fault) {
      this.chunks.delete(number);
      throw fault;
    }
  }

  /** All events, page by page. @param {(events: object[]) => void} take @param {{stopped: boolean}} reader */
  async events(take, reader) {
    let after = "";
    do {
      const page = await api(`${this.base}/events${after ? `?after=${encodeURIComponent(after)}` : ""}`);
      take(page.events);
      after = page.next ?? "";
    } while (after && !reader.stopped);
  }
}
