// Routes of a session's files. Bytes go both ways in pieces, and go on where they broke off.

import { ApiError, api, authorisation, problemOf, request } from "../api.js";

/** Bytes of a download that are kept as one piece: the browser keeps pieces on the disk, and only one is in memory. */
const PIECE = 8 << 20;

/** The routes of one session. @param {string} session */
export function routesOf(session) {
  const base = `/api/v1/sessions/${encodeURIComponent(session)}/files`;
  const at = (path, more = {}) => `${base}?${new URLSearchParams({ path, ...more })}`;
  return {
    list: (path, after) => api(`${base}/list?${new URLSearchParams({ path: path || ".", ...(after ? { after } : {}) })}`),
    remove: (path, recursive) => api(at(path, recursive ? { recursive: "true" } : {}), { method: "DELETE" }),
    /** The first bytes of a file. */
    head: async (path, bytes) => new Uint8Array(await (await request(at(path), { headers: { range: `bytes=0-${bytes - 1}` } })).arrayBuffer()),
    /** Bytes of an upload that the session has. */
    received: async (path, upload) => (await api(`${base}/upload?${new URLSearchParams({ path, upload })}`)).received,
    upload: (path, upload, offset, body, progress, signal) => put(at(path, { upload, ...(offset ? { offset: String(offset) } : {}) }), body, progress, signal),
    download: (path, bytes, etag, progress, signal) => get(at(path), bytes, etag, progress, signal),
  };
}

/** A request whose body's way out is told; `fetch` tells none. */
function put(url, body, progress, signal) {
  return new Promise((resolve, reject) => {
    const sent = new XMLHttpRequest();
    sent.open("PUT", url);
    for (const [name, value] of Object.entries(authorisation())) sent.setRequestHeader(name, value);
    sent.setRequestHeader("content-type", "application/octet-stream");
    sent.upload.addEventListener("progress", ({ loaded }) => progress(loaded));
    sent.addEventListener("load", () => {
      if (sent.status === 200) return resolve(JSON.parse(sent.responseText));
      let problem = null;
      try {
        problem = JSON.parse(sent.responseText);
      } catch {
        // Something on the way answered.
      }
      reject(problemOf(sent.status, problem));
    });
    sent.addEventListener("error", () => reject(new ApiError(0, "unreachable", "The server cannot be reached.")));
    sent.addEventListener("abort", () => reject(new DOMException("cancelled", "AbortError")));
    signal.addEventListener("abort", () => sent.abort(), { once: true });
    sent.send(body);
  });
}

/** A whole file, also where the line breaks in the middle, as long as the file stays the same. */
async function get(url, bytes, etag, progress, signal) {
  const pieces = [];
  let have = 0;
  let failures = 0;
  for (;;) {
    const before = have;
    const headers = have > 0 ? { range: `bytes=${have}-`, "if-range": etag } : {};
    try {
      const answer = await request(url, { headers, signal });
      if (have > 0 && answer.status !== 206) throw new ApiError(0, "changed", "The file has changed meanwhile; download it again.");
      let piece = [];
      let length = 0;
      for (const reader = answer.body.getReader(); ; ) {
        const { done, value } = await reader.read();
        if (value) {
          piece.push(value);
          length += value.length;
          progress(have + length);
        }
        if (length >= PIECE || done) {
          pieces.push(new Blob(piece));
          have += length;
          [piece, length, failures] = [[], 0, 0];
        }
        if (done) break;
      }
      if (have >= bytes) return new Blob(pieces);
      if (have === before) throw new ApiError(0, "changed", "The file is shorter now; download it again.");
    } catch (fault) {
      if (fault.name === "AbortError" || (fault instanceof ApiError && fault.status !== 0) || fault.code === "changed") throw fault;
      failures += 1;
      if (failures > 3 || have === 0) throw new ApiError(0, "unreachable", "The download broke off.");
    }
  }
}
