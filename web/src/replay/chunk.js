// The chunks of a recording, byte by byte (docs/recording.md). Pure.

export const START = 1;
export const SEGMENT = 2;
export const DISPLAY = 3;
export const EVENT = 4;
export const END = 5;

/** Bytes of a chunk before its first record, and of a record before its payload. */
export const HEADER_BYTES = 48;
const HEAD_BYTES = 13;
const MAGIC = [..."helixrec"].map((letter) => letter.charCodeAt(0));

/** @typedef {{kind: number, at: number, payload: Uint8Array}} Record `at` in microseconds since the recording began */

/**
 * The records of a chunk, from the one that begins at `offset` on.
 * @param {Uint8Array} bytes the whole chunk @param {number} [offset] @returns {Generator<Record>}
 */
export function* records(bytes, offset = HEADER_BYTES) {
  if (MAGIC.some((letter, at) => bytes[at] !== letter) || bytes[8] !== 1) throw new Error("This is no chunk of a recording, or one of another version.");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = offset;
  while (at < bytes.length) {
    const end = at + HEAD_BYTES <= bytes.length ? at + HEAD_BYTES + view.getUint32(at + 1) : Infinity;
    if (end > bytes.length) throw new Error("A chunk of the recording is cut off.");
    yield { kind: bytes[at], at: Number(view.getBigUint64(at + 5)), payload: bytes.subarray(at + HEAD_BYTES, end) };
    at = end;
  }
}
