// The fleet at a glance: runners, pools and sessions, live.
//
// Level-triggered: whatever the feed says, and every few seconds without it, the lists are read again; events only
// say when. So a lost event can delay the picture, never falsify it.

import { api, dropToken, takeToken } from "./api.js";
import { Bell } from "./backoff.js";
import { badge, byId, element, syncRows } from "./dom.js";
import { follow } from "./feed.js";
import { askForToken } from "./sign-in.js";
import { age, state, task } from "./words.js";

/** Heartbeats change slot counts without an event. */
const REFRESH = 5_000;
/** A burst of events is one reading. */
const CALM = 200;
const PAGE = 100;

const changed = new Bell();
let wanted = PAGE;

function slots(runner) {
  const meter = element("meter", { min: 0, max: Math.max(1, runner.slots), value: runner.active_tasks });
  meter.setAttribute("aria-hidden", "true");
  return element("span", { className: "slots" }, `${runner.active_tasks} / ${runner.slots}`, meter);
}

function runnerCells(runner) {
  const status = element("span", {}, badge(runner.status));
  if (runner.liveness !== "online") status.append(" ", badge(runner.liveness));
  if (runner.cordoned) status.append(" ", badge("cordoned"));
  if (runner.draining) status.append(" ", badge("draining"));
  const facts = runner.facts;
  return [
    element("code", { textContent: runner.id }),
    status,
    slots(runner),
    facts ? facts.kinds.join(", ") : "",
    facts ? `${facts.hostname} · ${facts.cpus} CPUs · ${(facts.memory_bytes / 2 ** 30).toFixed(0)} GiB` : "not registered yet",
    runner.last_seen_at ? `${age(runner.last_seen_at)} ago` : "never",
  ];
}

function poolCells(pool) {
  return [
    element("code", { textContent: pool.name }),
    pool.spec.kind ?? "default",
    `${pool.ready} / ${pool.spec.min_ready}`,
    String(pool.starting + pool.pending),
    pool.spec.max === undefined ? String(pool.claimed) : `${pool.claimed} of at most ${pool.spec.max}`,
    String(pool.queued),
    element("span", { className: "state", textContent: pool.cause?.message ?? "" }),
  ];
}

function sessionCells(session) {
  const page = `/sessions/${encodeURIComponent(session.id)}/view`;
  return [
    element("a", { href: page }, element("code", { textContent: session.id })),
    badge(session.phase),
    session.kind ?? "",
    element("span", { className: "task", textContent: task(session) }),
    session.runner ?? "",
    element("span", { className: "age", textContent: age(session.created_at) }),
    element("span", { className: "state", textContent: state(session) }),
  ];
}

async function readSessions() {
  const sessions = [];
  let cursor = null;
  do {
    const query = new URLSearchParams({ limit: String(PAGE), ...(cursor ? { cursor } : {}) });
    const page = await api(`/api/v1/sessions?${query}`);
    sessions.push(...page.sessions);
    cursor = page.next_cursor ?? null;
  } while (cursor && sessions.length < wanted);
  return { sessions, more: cursor !== null };
}

async function refresh() {
  const [{ runners }, { pools }, { sessions, more }] =
    await Promise.all([api("/api/v1/runners"), api("/api/v1/pools"), readSessions()]);
  syncRows(byId("runners"), runners, (runner) => runner.id, runnerCells);
  syncRows(byId("pools"), pools, (pool) => pool.name, poolCells);
  syncRows(byId("sessions"), sessions, (session) => session.id, sessionCells);
  byId("no-runners").hidden = runners.length > 0;
  byId("no-sessions").hidden = sessions.length > 0;
  byId("pools-section").hidden = pools.length === 0;
  byId("pool-count").textContent = String(pools.length);
  byId("runner-count").textContent = String(runners.length);
  byId("session-count").textContent = more ? `${sessions.length}+` : String(sessions.length);
  byId("more").hidden = !more;
}

function showTrouble(text) {
  const trouble = byId("trouble");
  trouble.textContent = text;
  trouble.hidden = !text;
}

/** Shows the fleet until the token stops opening it. @returns {Promise<string>} why it ended */
async function showFleet() {
  try {
    // A token that opens nothing shall not try the feed again and again.
    await api("/api/v1/whoami");
  } catch (fault) {
    if (fault.unauthorised) return fault.message;
  }
  byId("fleet").hidden = false;
  const feed = follow({
    onItem: () => changed.ring(),
    onState: (state) => {
      byId("feed").dataset.state = state;
      byId("feed").textContent = state;
      // What happened between reading the lists and following the feed is in no event: read again.
      if (state === "live") changed.ring();
    },
  });
  try {
    for (;;) {
      try {
        await refresh();
        showTrouble("");
      } catch (fault) {
        if (fault.unauthorised) return fault.message;
        showTrouble(fault.message);
      }
      await changed.wait(REFRESH);
      await new Promise((resolve) => setTimeout(resolve, CALM));
    }
  } finally {
    feed.stop();
    byId("fleet").hidden = true;
  }
}

byId("more").addEventListener("click", () => {
  wanted += PAGE;
  changed.ring();
});

let fault = "";
for (let token = takeToken(); ; token = null) {
  if (!token) await askForToken(byId("sign-in"), fault);
  fault = await showFleet();
  dropToken();
}
