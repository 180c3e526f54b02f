// Routes of conversations.

import { api } from "../api.js";

/** Bytes of a long entry that are asked for at once. */
const PIECE = 256 * 1024;
/** Entries of a page. */
export const PAGE = 500;

/** A key under which a request that is sent twice is done once. */
export function newKey() {
  // randomUUID is only there where pages are served by TLS.
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The routes of one session. @param {string} session */
export function routesOf(session) {
  const base = `/api/v1/sessions/${encodeURIComponent(session)}`;
  const of = (thread, ...more) => [`${base}/threads`, thread, ...more].map((part, at) => (at ? encodeURIComponent(part) : part)).join("/");
  const post = (path, body) => api(path, { method: "POST", body });
  return {
    feed: `${base}/events`,
    /** Of the session as a whole. */
    sessionFeed: `${base}/events?thread=_`,
    whoami: () => api("/api/v1/whoami"),
    list: () => api(`${base}/threads`),
    newest: (thread) => api(`${of(thread)}?last=${PAGE}`),
    page: (thread, cursor, limit) => api(`${of(thread)}?${new URLSearchParams({ cursor, limit })}`),
    command: (body) => post(`/api/v1/external-agents/${encodeURIComponent(session)}/command`, body),
    piece: (thread, entry, offset) => api(`${of(thread, "entries", entry)}?offset=${offset}&limit=${PIECE}`),
    create: (body) => post(`${base}/threads`, body),
    prompt: (thread, body) => post(of(thread, "prompts"), body),
    cancel: (thread, turn) => post(of(thread, "cancel"), { turn }),
    resend: (thread, turn) => post(of(thread, "turns", turn, "resend")),
    answer: (thread, question, body) => post(of(thread, "questions", question), body),
    rename: (thread, title) => api(of(thread), { method: "PATCH", body: { title } }),
  };
}
