// Places in a text as the log counts them: bytes of UTF-8. Pure; nothing is encoded, and nothing before the end that
// changes is looked at.

/** Bytes of the UTF-16 unit at `at`, where a pair counts at its first half. @param {string} text @param {number} at */
function size(text, at) {
  const unit = text.charCodeAt(at);
  if (unit < 0x80) return 1;
  if (unit < 0x800) return 2;
  return isHigh(unit) && isLow(text.charCodeAt(at + 1)) ? 4 : 3;
}

const isHigh = (unit) => unit >= 0xd800 && unit < 0xdc00;
const isLow = (unit) => unit >= 0xdc00 && unit < 0xe000;

/** @param {string} text @returns {number} its bytes */
export function byteLength(text) {
  let bytes = 0;
  for (let at = 0; at < text.length; at += 1) {
    const more = size(text, at);
    bytes += more;
    if (more === 4) at += 1;
  }
  return bytes;
}

/**
 * Index in `text` of byte `offset`; of the character's beginning where the byte is inside of one.
 * @param {string} text @param {number} bytes of the whole text @param {number} offset at most `bytes`
 */
export function indexOfByte(text, bytes, offset) {
  if (bytes === text.length) return offset;
  // Changes are mostly near the end: walk from there.
  let at = text.length;
  let left = bytes;
  while (left > offset && at > 0) {
    at -= 1;
    if (at > 0 && isLow(text.charCodeAt(at)) && isHigh(text.charCodeAt(at - 1))) at -= 1;
    left -= size(text, at);
  }
  return at;
}
