// The desktop and what is beside it (conversation, terminals, files): one of those at a time, behind a divider that
// moves, or, on a phone, in the desktop's place. The buttons in the bar choose.

import { byId } from "./dom.js";
import { remembered } from "./remembered.js";

/** As in the styles: narrower than this, one thing is seen at a time. */
const NARROW = matchMedia("(max-width: 700px)");
const LEAST = 280;
/** Of the window's width, as in the styles. */
const MOST = 0.7;
const STEP = 24;
/** With less than this, what is said and the box get all of it. */
const SHORT = 520;
const OPEN = "helix.side";
/** What can be beside the desktop: where, and how wide where nobody has moved the divider. */
const SIDES = {
  chat: { place: "chat", usual: 416 },
  terminal: { place: "terminals", usual: 620 },
  files: { place: "files", usual: 480 },
};

const split = byId("split");
const divider = byId("divider");
const tab = (name) => byId(`tab-${name}`);
const widthKey = (name) => `helix.${name}.width`;

/** What is beside the desktop; "" where nothing is. */
let beside = "";
/** What is seen on a phone. */
let alone = "desktop";
let onShow = () => {};

function setWidth(wanted) {
  const most = Math.max(LEAST, Math.round(split.clientWidth * MOST));
  const width = Math.min(most, Math.max(LEAST, Math.round(wanted)));
  showWidth(width);
  divider.setAttribute("aria-valuemax", String(most));
  remembered.set(widthKey(beside), String(width));
}

function showWidth(pixels) {
  split.style.setProperty("--side", `${pixels}px`);
  divider.setAttribute("aria-valuenow", String(pixels));
}

const width = () => byId(SIDES[beside].place).getBoundingClientRect().width;

/** Shows what was chosen, and says so on the buttons. */
function draw() {
  split.dataset.side = beside;
  split.dataset.alone = alone;
  split.classList.toggle("closed", beside === "");
  const shown = NARROW.matches ? alone : beside;
  for (const name of ["desktop", ...Object.keys(SIDES)]) tab(name).setAttribute("aria-pressed", String(name === shown));
  if (beside) showWidth(Number(remembered.get(widthKey(beside))) || SIDES[beside].usual);
  if (shown in SIDES && !tab(shown).hidden) onShow(shown);
}

/** A button was pressed: that, or where it was shown already, nothing beside the desktop. */
function choose(name) {
  if (NARROW.matches) alone = name;
  else beside = name === beside ? "" : name;
  // A window that becomes wider or narrower shows the same.
  if (NARROW.matches && name in SIDES) beside = name;
  if (!NARROW.matches) alone = "desktop";
  remembered.set(OPEN, beside || "none");
  draw();
}

function dragging() {
  divider.addEventListener("pointerdown", (down) => {
    if (down.button !== 0) return;
    down.preventDefault();
    divider.setPointerCapture(down.pointerId);
    split.classList.add("dragging"); // the desktop shall not take the pointer
    const right = split.getBoundingClientRect().right;
    const move = (event) => setWidth(right - event.clientX);
    const end = () => {
      divider.removeEventListener("pointermove", move);
      split.classList.remove("dragging");
    };
    divider.addEventListener("pointermove", move);
    divider.addEventListener("lostpointercapture", end, { once: true });
  });
  divider.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: STEP, ArrowRight: -STEP }[event.key];
    if (event.key === "Enter") choose(beside);
    if (steps) setWidth(width() + steps);
    if (steps || event.key === "Enter") event.preventDefault();
  });
  divider.addEventListener("dblclick", () => choose(beside));
}

/** A phone's keyboard covers the page without telling its layout: only the visual viewport knows. */
function keyboard() {
  const view = window.visualViewport;
  if (!view) return;
  const fit = () => {
    const covered = NARROW.matches && view.scale === 1 && innerHeight - view.height > 80;
    document.body.style.height = covered ? `${view.height}px` : "";
    document.body.classList.toggle("short", NARROW.matches && view.height < SHORT);
    if (covered) scrollTo(0, 0);
  };
  view.addEventListener("resize", fit);
  fit();
}

/** What this token can have beside the desktop. @param {string[]} names */
export function offer(names) {
  for (const name of Object.keys(SIDES)) tab(name).hidden = !names.includes(name);
  byId("tabs").hidden = names.length === 0;
  if (beside && names.length > 0 && !names.includes(beside)) beside = names[0];
  if (alone !== "desktop" && !names.includes(alone)) alone = "desktop";
  split.classList.toggle("alone", names.length === 0);
  draw();
}

/** How many questions wait: told where the conversation may be out of sight. @param {number} questions */
export function showCount(questions) {
  const text = questions > 0 ? `Chat (${questions})` : "Chat";
  if (tab("chat").textContent !== text) tab("chat").textContent = text;
  tab("chat").classList.toggle("asks", questions > 0);
}

/** Sets everything up, once. @param {(name: string) => void} shown each time that something is shown beside the desktop */
export function layOut(shown) {
  onShow = shown;
  divider.setAttribute("aria-valuemin", String(LEAST));
  const known = remembered.get(OPEN);
  beside = known === "none" ? "" : known in SIDES ? known : "chat";
  for (const name of ["desktop", ...Object.keys(SIDES)]) tab(name).addEventListener("click", () => choose(name));
  NARROW.addEventListener("change", draw);
  offer([]);
  dragging();
  keyboard();
}
