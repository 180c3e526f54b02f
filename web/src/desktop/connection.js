// One connection to a session's desktop: noVNC on the address of a one-use ticket.

import RFB from "@novnc/novnc";
import { api, socketUrl } from "../api.js";

/** A connection that shows nothing for so long is given up. */
const PATIENCE = 15_000;

/** @typedef {"scale" | "actual" | "resize"} Size scaled to the window; pixel by pixel; the desktop gets the window's size */

/**
 * @typedef {object} Desktop
 * @property {Promise<{connected: boolean}>} ended
 * @property {(may: boolean) => void} mayType
 * @property {(size: Size) => void} setSize
 * @property {(keysym: number, down: boolean) => void} key
 * @property {() => void} close
 */

/**
 * Shows the desktop until the connection ends.
 * @param {HTMLElement} place @param {string} session @param {string} seat
 * @param {object} hooks
 * @param {(role: "view" | "control") => void} hooks.onConnected the first picture can come now
 * @param {(text: string) => void} hooks.onCopied somebody has copied something there
 * @returns {Promise<Desktop>}
 */
export async function openDesktop(place, session, seat, { onConnected, onCopied }) {
  const ticket = await api(`/api/v1/sessions/${encodeURIComponent(session)}/tickets`, {
    method: "POST",
    body: { stream: "vnc", seat },
  });
  const rfb = new RFB(place, socketUrl(ticket.url), { shared: true });
  rfb.qualityLevel = 8; // a desktop of text: at the default of 6, letters have visible shadows until they are repaired
  rfb.scaleViewport = true;
  rfb.background = "transparent";
  rfb.focusOnClick = false; // the keyboard is a field of ours

  let connected = false;
  const ended = new Promise((resolve) => {
    const patience = setTimeout(() => rfb.disconnect(), PATIENCE);
    rfb.addEventListener("connect", () => {
      clearTimeout(patience);
      connected = true;
      onConnected(ticket.role);
    });
    rfb.addEventListener("disconnect", () => {
      clearTimeout(patience);
      resolve({ connected });
    });
  });
  rfb.addEventListener("clipboard", ({ detail }) => onCopied(detail.text));
  return {
    ended,
    // What is typed is dropped at the gate all the same: this only keeps the pointer's shape true, and asks for no size.
    mayType: (may) => {
      rfb.viewOnly = !may;
    },
    setSize: (size) => {
      rfb.resizeSession = size === "resize";
      rfb.scaleViewport = size !== "actual";
      // A finger that moves moves the picture; a mouse has scroll bars.
      const fingers = size === "actual" && matchMedia("(pointer: coarse)").matches;
      rfb.clipViewport = fingers;
      rfb.dragViewport = fingers;
    },
    key: (keysym, down) => rfb.sendKey(keysym, null, down),
    close: () => rfb.disconnect(),
  };
}
