// One session's live desktop.
//
// A loop: read the session; Ready → a fresh ticket and a connection until it breaks, then again after a growing
// pause; not yet Ready → say what it waits for; over → say how it ended. The event feed and a slow timer ring the
// bell that ends a pause early, so the page follows the session without being told what changed. The conversation
// beside it lives by itself (`threads/panel.js`), also where there is no desktop yet or any more.

import { api, dropToken, takeToken } from "./api.js";
import { Backoff, Bell } from "./backoff.js";
import { openDesktop } from "./desktop.js";
import { byId, element } from "./dom.js";
import { follow } from "./feed.js";
import { layOut, showChat, showCount } from "./layout.js";
import { askForToken } from "./sign-in.js";
import { Panel } from "./threads/panel.js";
import { over, state } from "./words.js";

/** The feed may be closed to this token: look by ourselves, too. */
const LOOK = 5_000;

const id = decodeURIComponent(location.pathname.split("/")[2] ?? "");
const changed = new Bell();
let desktop = null;
let feed = null;
let chat = null;

function showStatus(kind, text) {
  byId("status").dataset.state = kind;
  byId("status").textContent = text;
}

function showPhase(session) {
  const phase = byId("phase");
  phase.textContent = session.phase;
  phase.dataset.word = session.phase.toLowerCase();
  phase.hidden = false;
}

/** Fills the panel in the middle; no arguments: takes it away. */
function showPanel(title, text, lines = []) {
  const panel = byId("panel");
  panel.hidden = !title;
  panel.replaceChildren();
  if (!title) return;
  panel.append(element("h2", { textContent: title }));
  if (text) panel.append(element("p", { textContent: text }));
  if (lines.length > 0) panel.append(element("pre", { tabIndex: 0, textContent: lines.join("\n") }));
}

function showEnd(session) {
  const { cause, result } = session;
  const where = [...new Set([cause?.step, cause?.unit])].filter(Boolean).join(", ");
  const lines = cause?.log_tail?.length ? cause.log_tail : (result?.output_tail ?? "").split("\n").filter(Boolean);
  showPanel(
    session.phase === "Failed" ? "The session failed" : "The session has ended",
    [state(session), where ? `(${where})` : ""].filter(Boolean).join(" "),
    lines,
  );
  showStatus("over", session.phase === "Failed" ? `failed: ${cause?.message ?? "no cause given"}` : state(session) || "ended");
}

/** One connection, until it breaks or the session is over. @returns {Promise<boolean>} whether it ever stood */
async function showDesktop() {
  showStatus("connecting", "connecting");
  desktop = await openDesktop(byId("screen"), id, () => {
    showPanel();
    showStatus("connected", "connected");
    byId("fullscreen").hidden = !document.fullscreenEnabled;
  });
  let broken = false;
  const ended = desktop.ended.then((end) => {
    broken = true;
    changed.ring();
    return end;
  });
  while (!broken) {
    await changed.wait(LOOK);
    if (broken) break;
    const session = await readSession().catch(() => null);
    if (session && over(session)) desktop.close();
  }
  const { connected } = await ended;
  desktop = null;
  byId("fullscreen").hidden = true;
  return connected;
}

/** Waits before the next try and says so. */
async function pause(backoff, why) {
  const wait = backoff.next();
  const seconds = Math.max(1, Math.round(wait / 1000));
  showStatus("waiting", `${why} Trying again in ${seconds} s.`);
  await changed.wait(wait);
}

/** One session as it is now; the feed is followed as soon as the token has opened something. */
async function readSession() {
  const session = await api(`/api/v1/sessions/${encodeURIComponent(id)}`);
  showPhase(session);
  if (!over(session)) {
    feed ??= follow({
      onItem: (item) => {
        if (item.type === "gap" || item.session === id) changed.ring();
      },
    });
  }
  if (!chat) {
    chat = new Panel(byId("chat"), id, { onSession: () => changed.ring(), onCount: showCount });
    chat.start();
    showChat(true);
  }
  chat.takeSession(session);
  return session;
}

/** Another token may be for other eyes: nothing of the former one goes on. */
function forget() {
  chat?.stop();
  chat = null;
  showChat(false);
}

/** Follows the session until it is over or the token stops opening it. @returns {Promise<string | null>} why not */
async function showSession() {
  const backoff = new Backoff();
  let onlyReads = "";
  for (;;) {
    let session = null;
    try {
      session = await readSession();
      if (over(session)) {
        showEnd(session);
        return null;
      }
      if (session.phase === "Ready" && !onlyReads) {
        const stood = await showDesktop();
        if (stood) backoff.reset();
        await pause(backoff, stood ? "The connection was lost." : "The runner cannot be reached.");
      } else if (session.phase === "Ready") {
        showPanel("No desktop for this token", onlyReads);
        showStatus("over", "not for this token");
        await changed.wait(LOOK);
      } else {
        showPanel(session.phase, state(session));
        showStatus("waiting", state(session));
        await changed.wait(LOOK);
      }
    } catch (fault) {
      if (session && fault.status === 403) {
        onlyReads = fault.message;
        continue;
      }
      if (fault.unauthorised) return fault.message;
      if (fault.code === "session_not_found") {
        showPanel("No such session", fault.message);
        showStatus("over", "no such session");
        return null;
      }
      await pause(backoff, fault.message);
    }
  }
}

byId("session").textContent = id;
document.title = `${id} · Helix`;
byId("fullscreen").addEventListener("click", async () => {
  await byId("screen").requestFullscreen();
  desktop?.focus();
});
addEventListener("online", () => changed.ring());

layOut();
let fault = "";
for (let token = takeToken(); ; token = null) {
  if (!token) await askForToken(byId("sign-in"), fault);
  fault = await showSession();
  feed?.stop();
  feed = null;
  if (fault === null) break;
  forget();
  dropToken();
  showPanel();
  showStatus("waiting", "a token is needed");
}
