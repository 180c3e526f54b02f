// One session's live desktop.
//
// A loop: read the session; Ready → a fresh ticket and a connection until it breaks, then again after a growing
// pause; not yet Ready → say what it waits for; over → say how it ended. The event feed and a slow timer ring the
// bell that ends a pause early, so the page follows the session without being told what changed. What is beside it
// lives by itself: the conversation (`threads/panel.js`) also where there is no desktop yet or any more, terminals and
// files (`terminals/`, `files/`, loaded when somebody looks) while the session is Ready.

import { api, dropToken, takeToken } from "./api.js";
import { Backoff, Bell } from "./backoff.js";
import { Control } from "./desktop/control.js";
import { Stage } from "./desktop/stage.js";
import { byId, element } from "./dom.js";
import { follow } from "./feed.js";
import { layOut, offer, showCount } from "./layout.js";
import { askForToken } from "./sign-in.js";
import { Panel } from "./threads/panel.js";
import { over, state } from "./words.js";

/** The feed may be closed to this token: look by ourselves, too. */
const LOOK = 5_000;

/** Who may reach into a session; whoever has but a link to its desktop may not. */
const OWNERS = ["admin", "operator", "user"];
/** Who may see recordings. */
const READERS = [...OWNERS, "viewer"];
const TOOLS = {
  terminal: async () => {
    const { Terminals } = await import("./terminals/panel.js");
    return () => new Terminals(byId("terminals"), id);
  },
  files: async () => {
    const { Files } = await import("./files/panel.js");
    return () => new Files(byId("files"), id);
  },
};

const id = decodeURIComponent(location.pathname.split("/")[2] ?? "");
const changed = new Bell();
let known = null;
let scope = "";
let feed = null;
/** What changes is told. */
let told = false;
let chat = null;
/** Terminals and files, by the name of their button, once they were looked at. */
const tools = new Map();
const control = new Control(id, byId("control"), byId("control-button"), (may) => stage.mayType(may));
const stage = new Stage(id, control.seat, (fault) => showStatus("connected", fault));

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

/** Whoever looks at a desktop that is recorded is told; who may see recordings gets there. */
function showRecording(session) {
  const mark = byId("recording");
  mark.hidden = !session.recording;
  if (!session.recording) return;
  const goesOn = !over(session);
  mark.textContent = goesOn ? "REC" : "Recording";
  mark.title = goesOn ? "This desktop is recorded, and what is typed, too" : "Play back what was recorded of this desktop";
  if (READERS.includes(scope)) mark.href = `/recordings/${encodeURIComponent(session.recording)}/view`;
  else mark.removeAttribute("href");
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
  const desktop = await stage.open((role) => {
    showPanel();
    control.show(role);
    showStatus("connected", "connected");
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
    // Its events name the session whose desktop it is, which may have another name here: those of spec tasks have. And an
    // event can be lost: then it is seen here, later.
    else if (!told || session?.spec_task || control.isOld) await control.read();
  }
  const { connected } = await ended;
  control.hide();
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
  known = session;
  showPhase(session);
  if (!over(session)) {
    feed ??= follow({
      onItem: (item) => {
        if (item.type === "control" && item.session === id) control.heard(item);
        else if (item.type === "gap" || item.session === id) changed.ring();
        if (item.type === "gap") control.read();
      },
      onState: (state) => {
        told = state === "live";
        // What was told while nobody heard it.
        if (told && control.shown) control.read();
      },
    });
  }
  if (!chat) {
    chat = new Panel(byId("chat"), id, { onSession: () => changed.ring(), onCount: showCount });
    chat.start();
    ({ scope } = await api("/api/v1/whoami").catch(() => ({})));
    offer(OWNERS.includes(scope) ? ["chat", ...Object.keys(TOOLS)] : ["chat"]);
  }
  showRecording(session);
  chat.takeSession(session);
  for (const tool of tools.values()) tool.takeSession(session);
  return session;
}

/** Something is shown beside the desktop: what has not been there before is loaded. @param {string} name */
async function showTool(name) {
  if (!(name in TOOLS)) return;
  if (!tools.has(name)) {
    const open = await TOOLS[name]();
    if (!tools.has(name)) tools.set(name, open());
    tools.get(name).takeSession(known);
  }
  tools.get(name).shown();
}

/** Another token may be for other eyes: nothing of the former one goes on. */
function forget() {
  chat?.stop();
  chat = null;
  for (const tool of tools.values()) tool.stop();
  tools.clear();
  offer([]);
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
addEventListener("online", () => changed.ring());

layOut((name) => showTool(name).catch(() => showStatus("waiting", "A part of this page cannot be loaded: reload it.")));
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
