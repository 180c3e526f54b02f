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

/**
 * One request. The path is relative to this page's origin.
 * @param {string} path @param {{method?: string, body?: unknown}} [options]
 */
export async function api(path, { method = "GET", body } = {}) {
  const headers = { authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ""}` };
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
    });
  } catch {
    throw new ApiError(0, "unreachable", "The server cannot be reached.");
  }
  const content = await answer.json().catch(() => null);
  if (!answer.ok) {
    throw new ApiError(answer.status, content?.code ?? "unknown", content?.detail ?? `The server answered ${answer.status}.`);
  }
  return content;
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
