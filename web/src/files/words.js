// Files in words for people, and what can be shown of them. Pure.

/** Bytes of a text that are shown. */
export const TEXT_BYTES = 256 << 10;
/** Bytes of a picture that is shown. */
export const IMAGE_BYTES = 16 << 20;

const IMAGES = { png: "image/png", jpg: "image/jpeg", jpeg: "image/jpeg", gif: "image/gif", webp: "image/webp", avif: "image/avif", svg: "image/svg+xml", ico: "image/x-icon" };

/** @param {number} bytes */
export function size(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let number = bytes / 1024;
  let unit = 0;
  // What would be written as 1024 of one is 1.0 of the next.
  while (number >= 1023.95 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${number.toFixed(1)} ${units[unit]}`;
}

/** A path below a directory. @param {string} directory "" is the workspace @param {string} name */
export const join = (directory, name) => (directory ? `${directory}/${name}` : name);

/** The directory above. @param {string} path */
export const parent = (path) => path.split("/").slice(0, -1).join("/");

/** The type of a picture that browsers show; null for anything else. @param {string} name */
export const imageType = (name) => IMAGES[/\.([^.]+)$/.exec(name)?.[1].toLowerCase()] ?? null;

/**
 * The text in the first bytes of a file; null where it is none.
 * @param {Uint8Array} bytes @param {boolean} whole false: there are more, and the last character may be cut
 */
export function textOf(bytes, whole) {
  if (bytes.includes(0)) return null;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream: !whole });
  } catch {
    return null;
  }
}

/** A name for the upload of one file to one place: the same when the same file is chosen again. @param {string} text */
export function uploadName(text) {
  // A page without TLS has no digest; a plain sum does: it only tells uploads of one place apart.
  let [one, two] = [0x811c9dc5, 0x1000193];
  for (const byte of new TextEncoder().encode(text)) {
    one = Math.imul(one ^ byte, 0x01000193) >>> 0;
    two = Math.imul(two ^ byte, 0x85ebca6b) >>> 0;
  }
  return `page-${one.toString(16).padStart(8, "0")}${two.toString(16).padStart(8, "0")}`;
}
