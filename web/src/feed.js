// An event feed of the server's. Reconnects by itself and resumes after the last sequence it saw, so that nothing
// between two connections is missed; what the server no longer has arrives as an item of type "gap".

import { socketProtocols, socketUrl } from "./api.js";
import { Backoff } from "./backoff.js";
import { onWake } from "./wake.js";

/**
 * Follows a feed until it is stopped.
 * @param {object} options
 * @param {string} [options.path] the fleet's feed where none is given
 * @param {number | null} [options.after] last sequence already known; only what happens from now on where it is null
 * @param {(item: object) => void} options.onItem each event and each gap
 * @param {(state: "live" | "connecting") => void} [options.onState]
 * @returns {{stop: () => void, restart: () => void}}
 */
export function follow({ path = "/api/v1/events", after = null, onItem, onState = () => {} }) {
  const backoff = new Backoff();
  let stopped = false;
  let socket = null;
  let timer = 0;

  function connect() {
    onState("connecting");
    const mine = new WebSocket(socketUrl(after === null ? path : `${path}${path.includes("?") ? "&" : "?"}after=${after}`), socketProtocols());
    socket = mine;
    mine.onopen = () => {
      backoff.reset();
      onState("live");
    };
    mine.onmessage = ({ data }) => {
      const item = JSON.parse(data);
      // A gap names the first sequence that follows it; a lower one where the store was emptied and counts anew.
      // What is only told as it happens has none.
      after = item.type === "gap" ? item.to - 1 : (item.sequence ?? after);
      onItem(item);
    };
    mine.onclose = () => {
      if (socket !== mine) return;
      onState("connecting");
      timer = setTimeout(connect, backoff.next());
    };
  }

  /** What comes from the socket after this counts for nothing. */
  function leave() {
    clearTimeout(timer);
    const old = socket;
    socket = null;
    if (!old) return;
    old.onmessage = null;
    // Closed while it connects, a socket complains on the console.
    if (old.readyState === WebSocket.CONNECTING) old.onopen = () => old.close();
    else old.close();
  }

  /** The connection may be dead without saying so: another one, at once. */
  function restart() {
    if (stopped) return;
    leave();
    backoff.reset();
    connect();
  }

  const awake = onWake(restart);
  connect();
  return {
    restart,
    stop: () => {
      stopped = true;
      awake();
      leave();
    },
  };
}
