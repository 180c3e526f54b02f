// The server's HTTP API as seen from a page, and the token that opens it.
//
// The token arrives in the fragment of a printed link (browsers never send a fragment), moves to this tab's
// sessionStorage and leaves the address bar at once, so that it is in no history and no screenshot.

const KEY = "helix.token";

/** Takes the token out of the address, if one is there. @returns {string | null} the token of this tab */
export function takeToken() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const token = fragment.get("token");
  if (token) {
    setToken(token);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem(KEY);
}

/** @param {string} token */
export function setToken(token) {
  sessionStorage.setItem(KEY, token);
}

/** The token did not open anything: forget it. */
export function dropToken() {
  sessionStorage.removeItem(KEY);
}

/** An answer that is not 2xx, or none at all (status 0). */
export class ApiError extends Error {
  /** @param {number} status @param {string} code @param {string} detail */
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }

  /** True when another token is needed. */
  get unauthorised() {
    return this.status === 401 || this.status === 403;
  }
}

/** What a request carries besides its path, for who sends one by other means. */
export function authorisation() {
  return { authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ""}` };
}

/** The problem that an answer tells. @param {number} status @param {{code?: string, detail?: string} | null} problem */
export function problemOf(status, problem) {
  return new ApiError(status, problem?.code ?? "unknown", problem?.detail ?? `The server answered ${status}.`);
}

/**
 * One request. The path is relative to this page's origin; what is not 2xx is an ApiError.
 * @param {string} path @param {RequestInit} [options] @returns {Promise<Response>}
 */
export async function request(path, { headers, ...options } = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...authorisation(), ...headers }, cache: "no-store", credentials: "omit" });
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    throw new ApiError(0, "unreachable", "The server cannot be reached.");
  }
  if (!answer.ok) throw problemOf(answer.status, await answer.json().catch(() => null));
  return answer;
}

/**
 * One request that is asked and answered in JSON.
 * @param {string} path
 * @param {{method?: string, body?: unknown, headers?: Record<string, string>, keepalive?: boolean}} [options] `keepalive`: it
 *   may outlive the page
 */
export async function api(path, { body, headers = {}, ...options } = {}) {
  const json = body === undefined ? {} : { body: JSON.stringify(body), headers: { ...headers, "content-type": "application/json" } };
  const answer = await request(path, { headers, ...options, ...json });
  return answer.json().catch(() => null);
}

/** A WebSocket on this page's origin, whatever address the server believes to have. @param {string} target path or URL */
export function socketUrl(target) {
  const { pathname, search } = new URL(target, location.href);
  return `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}${pathname}${search}`;
}

/** Subprotocols that carry the token: a browser's WebSocket can send no header. */
export function socketProtocols() {
  return ["helix", `bearer.${sessionStorage.getItem(KEY) ?? ""}`];
}
