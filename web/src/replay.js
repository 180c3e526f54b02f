// A recording of a desktop, played back: picture, time line, and what happened beside the picture.

import { dropToken, takeToken } from "./api.js";
import { byId, element } from "./dom.js";
import { KINDS, Marks } from "./replay/marks.js";
import { Player } from "./replay/player.js";
import { Screen } from "./replay/screen.js";
import { Source } from "./replay/source.js";
import { Timeline, clock, lastBefore } from "./replay/timeline.js";
import { askForToken } from "./sign-in.js";

/** Lines of the list; more would only slow the page down. */
const MOST_LINES = 2_000;
/** Marks that are read of a recording. */
const MOST_MARKS = 50_000;
/** What an arrow key goes on or back, in microseconds. */
const STEP = 5_000_000;
const SHADES = { input: "--accent", control: "--busy", thread: "--good", gap: "--bad", viewer: "--quiet", end: "--quiet" };

const id = decodeURIComponent(location.pathname.split("/")[2] ?? "");
const timeline = new Timeline();
const marks = new Marks();
const shown = new Set(Object.keys(KINDS));
const source = new Source(id);
let listed = [];
let scrubbing = false;

const player = new Player({
  source,
  timeline,
  screen: new Screen(byId("screen"), () => {
    player.pause();
    say("over", "What was recorded here cannot be read.");
  }),
  clock: { now: () => performance.now(), wait: (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds)) },
  onChange: draw,
  onFault: (fault) => say("over", fault.message),
});

function say(state, text) {
  byId("status").dataset.state = state;
  byId("status").textContent = text;
}

/** Where it is now, everywhere where that is shown. */
function draw() {
  const { time, playing } = player;
  const bar = byId("time");
  bar.max = String(Math.ceil(timeline.duration / 1000));
  if (!scrubbing) bar.value = String(Math.round(time / 1000));
  bar.setAttribute("aria-valuetext", clock(time));
  byId("clock").textContent = `${clock(time)} / ${clock(timeline.duration)}`;
  byId("play").textContent = playing ? "Pause" : "Play";
  const now = lastBefore(listed, time);
  const former = byId("events").querySelector("[aria-current]");
  const current = byId("events").children[now]?.firstElementChild ?? null;
  if (former === current) return;
  former?.removeAttribute("aria-current");
  current?.setAttribute("aria-current", "true");
  if (!byId("events").matches(":hover, :focus-within")) current?.scrollIntoView({ block: "nearest" });
}

/** The list and the marks on the bar. */
function drawMarks() {
  const all = marks.all.filter(({ kind }) => shown.has(kind)).sort((one, other) => one.at - other.at);
  listed = all.slice(0, MOST_LINES);
  byId("events").replaceChildren(...listed.map(line));
  byId("no-events").hidden = listed.length > 0;
  const canvas = byId("marks");
  const scale = devicePixelRatio;
  canvas.width = canvas.clientWidth * scale;
  canvas.height = canvas.clientHeight * scale;
  const pen = canvas.getContext("2d");
  const colours = getComputedStyle(document.documentElement);
  // The knob of the bar begins and ends half of itself inside.
  const knob = 8 * scale;
  const place = (time) => knob + (time / Math.max(1, timeline.duration)) * (canvas.width - 2 * knob);
  for (const { at, until, kind } of all) {
    pen.fillStyle = colours.getPropertyValue(SHADES[kind]);
    pen.globalAlpha = kind === "input" ? 0.55 : 0.9;
    const height = canvas.height * (kind === "input" || kind === "viewer" ? 0.5 : 1);
    pen.fillRect(place(at), canvas.height - height, Math.max(2 * scale, place(until) - place(at)), height);
  }
  draw();
}

function line(mark) {
  const button = element(
    "button",
    { type: "button" },
    element("time", { textContent: clock(mark.at) }),
    element("span", { className: "words", textContent: mark.words }),
  );
  button.dataset.kind = mark.kind;
  button.addEventListener("click", () => player.seek(mark.at));
  return element("li", {}, button);
}

function kinds() {
  for (const [kind, words] of Object.entries(KINDS)) {
    const box = element("input", { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      if (box.checked) shown.add(kind);
      else shown.delete(kind);
      drawMarks();
    });
    byId("kinds").append(element("label", {}, box, ` ${words}`));
  }
}

function controls() {
  byId("play").addEventListener("click", () => (player.playing ? player.pause() : player.play()));
  byId("speed").addEventListener("change", ({ target }) => {
    player.speed = Number(target.value);
  });
  byId("skips").addEventListener("change", ({ target }) => {
    player.skips = target.checked;
  });
  const bar = byId("time");
  bar.addEventListener("pointerdown", () => {
    scrubbing = true;
  });
  bar.addEventListener("pointerup", () => {
    scrubbing = false;
  });
  bar.addEventListener("input", () => player.seek(Number(bar.value) * 1000));
  bar.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -STEP, ArrowRight: STEP }[event.key];
    if (!steps) return;
    event.preventDefault();
    player.seek(player.time + steps);
  });
  addEventListener("keydown", (event) => {
    if (event.key !== " " || event.target.closest("button, input:not([type=range]), select")) return;
    event.preventDefault();
    byId("play").click();
  });
  new ResizeObserver(drawMarks).observe(byId("marks"));
}

/** Reads the recording and shows its beginning. @returns {Promise<string | null>} why this token does not do */
async function show() {
  try {
    let detail;
    let known;
    do {
      known = timeline.chunks;
      detail = await source.detail(known);
      timeline.take(detail);
    } while (timeline.chunks > known && timeline.chunks < detail.chunks);
    byId("session").textContent = detail.session;
    document.title = `${detail.session} · recording · Helix`;
    const started = new Date(detail.started_at).toLocaleString();
    say("connected", detail.state === "complete" ? started : `${started}, goes on`);
    await player.seek(0);
    const reader = { stopped: false };
    await source.events((events) => {
      marks.take(events);
      reader.stopped = marks.all.length > MOST_MARKS;
    }, reader);
    drawMarks();
    return null;
  } catch (fault) {
    if (fault.unauthorised) return fault.message;
    say("over", fault.message);
    return null;
  }
}

kinds();
controls();
let fault = "";
for (let token = takeToken(); ; token = null) {
  if (!token) await askForToken(byId("sign-in"), fault);
  fault = await show();
  if (fault === null) break;
  dropToken();
}
