// One connection to a session's desktop: noVNC on the address of a one-use ticket.

import RFB from "@novnc/novnc";
import { api, socketUrl } from "./api.js";

/** A connection that shows nothing for so long is given up. */
const PATIENCE = 15_000;

/** The desktop takes the keyboard only where nothing else has it: somebody may be writing a prompt. */
function nobodyTypes(place) {
  const { activeElement } = document;
  return !activeElement || activeElement === document.body || place.contains(activeElement);
}

/**
 * Shows the desktop until the connection ends.
 * @param {HTMLElement} place @param {string} session
 * @param {() => void} onConnected the first picture can come now
 * @returns {Promise<{ended: Promise<{connected: boolean}>, focus: () => void, close: () => void}>}
 */
export async function openDesktop(place, session, onConnected) {
  const ticket = await api(`/api/v1/sessions/${encodeURIComponent(session)}/tickets`, {
    method: "POST",
    body: { stream: "vnc" },
  });
  const rfb = new RFB(place, socketUrl(ticket.url), { shared: true });
  rfb.qualityLevel = 8; // a desktop of text: at the default of 6, letters have visible shadows until they are repaired
  rfb.scaleViewport = true;
  rfb.background = "transparent";

  let connected = false;
  const ended = new Promise((resolve) => {
    const patience = setTimeout(() => rfb.disconnect(), PATIENCE);
    rfb.addEventListener("connect", () => {
      clearTimeout(patience);
      connected = true;
      if (nobodyTypes(place)) rfb.focus();
      onConnected();
    });
    rfb.addEventListener("disconnect", () => {
      clearTimeout(patience);
      resolve({ connected });
    });
  });
  return { ended, focus: () => rfb.focus(), close: () => rfb.disconnect() };
}
