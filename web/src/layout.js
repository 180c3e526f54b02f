// Desktop and conversation: side by side with a divider that moves, or, on a phone, one at a time behind tabs.

import { byId } from "./dom.js";

/** As in the styles: narrower than this there are tabs. */
const NARROW = matchMedia("(max-width: 700px)");
const LEAST = 280;
/** Of the window's width, as in the styles. */
const MOST = 0.7;
const USUAL = 416;
const STEP = 24;
const WIDTH = "helix.chat.width";
const CLOSED = "helix.chat.closed";
/** With less than this, what is said and the box get all of it. */
const SHORT = 520;
const LABELS = { stage: "Desktop", chat: "Conversation" };

/** Storage may be forbidden: then nothing is remembered. */
const remembered = {
  get(key) {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  },
  set(key, value) {
    try {
      localStorage.setItem(key, value);
    } catch {
      // Only a preference.
    }
  },
};

const split = byId("split");
const divider = byId("divider");
const toggle = byId("chat-toggle");
const tabs = [byId("tab-desktop"), byId("tab-chat")];

function setWidth(wanted) {
  const most = Math.max(LEAST, Math.round(split.clientWidth * MOST));
  showWidth(Math.min(most, Math.max(LEAST, Math.round(wanted))));
  divider.setAttribute("aria-valuemax", String(most));
  remembered.set(WIDTH, split.style.getPropertyValue("--chat").replace("px", ""));
}

function showWidth(pixels) {
  split.style.setProperty("--chat", `${pixels}px`);
  divider.setAttribute("aria-valuenow", String(pixels));
}

const width = () => byId("chat").getBoundingClientRect().width;

function setClosed(closed) {
  split.classList.toggle("closed", closed);
  toggle.setAttribute("aria-expanded", String(!closed));
  remembered.set(CLOSED, closed ? "yes" : "");
}

function choose(name) {
  split.dataset.tab = name;
  for (const tab of tabs) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
  }
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
    if (event.key === "Enter") setClosed(true);
    if (steps) setWidth(width() + steps);
    if (steps || event.key === "Enter") event.preventDefault();
  });
  divider.addEventListener("dblclick", () => setClosed(true));
}

/** What is behind tabs says so; side by side these are regions. */
function roles() {
  for (const [place, tab] of [["stage", "tab-desktop"], ["chat", "tab-chat"]]) {
    if (NARROW.matches) byId(place).setAttribute("role", "tabpanel");
    else byId(place).removeAttribute("role");
    byId(place).setAttribute(NARROW.matches ? "aria-labelledby" : "aria-label", NARROW.matches ? tab : LABELS[place]);
    byId(place).removeAttribute(NARROW.matches ? "aria-label" : "aria-labelledby");
  }
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

/** The conversation is shown from now on, or, without a token, not at all. @param {boolean} shown */
export function showChat(shown) {
  split.classList.toggle("alone", !shown);
  byId("tabs").hidden = !shown;
  toggle.hidden = !shown;
}

/** How many questions wait: told where the conversation may be out of sight. @param {number} questions */
export function showCount(questions) {
  const text = questions > 0 ? `Chat (${questions})` : "Chat";
  for (const place of [toggle, byId("tab-chat")]) {
    if (place.textContent !== text) place.textContent = text;
    place.classList.toggle("asks", questions > 0);
  }
}

/** Sets everything up, once. */
export function layOut() {
  divider.setAttribute("aria-valuemin", String(LEAST));
  showWidth(Number(remembered.get(WIDTH)) || USUAL);
  setClosed(remembered.get(CLOSED) === "yes");
  choose("desktop");
  toggle.addEventListener("click", () => setClosed(!split.classList.contains("closed")));
  for (const tab of tabs) {
    tab.addEventListener("click", () => choose(tab.id.slice(4)));
    tab.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const other = tabs.find((one) => one !== tab);
      choose(other.id.slice(4));
      other.focus();
    });
  }
  roles();
  NARROW.addEventListener("change", roles);
  dragging();
  keyboard();
}
