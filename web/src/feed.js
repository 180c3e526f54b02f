// The server's event feed. Reconnects by itself and resumes after the last sequence it saw, so that nothing between
// two connections is missed; what the server no longer has arrives as an item of type "gap".

import { socketProtocols, socketUrl } from "./api.js";
import { Backoff } from "./backoff.js";

/**
 * Follows the feed until `stop` is called.
 * @param {(item: object) => void} onItem each event and each gap
 * @param {(state: "live" | "connecting") => void} onState
 * @returns {() => void} stop
 */
export function follow(onItem, onState = () => {}) {
  const backoff = new Backoff();
  let after = null;
  let stopped = false;
  let socket = null;
  let timer = 0;

  function connect() {
    onState("connecting");
    const path = after === null ? "/api/v1/events" : `/api/v1/events?after=${after}`;
    socket = new WebSocket(socketUrl(path), socketProtocols());
    socket.onopen = () => {
      backoff.reset();
      onState("live");
    };
    socket.onmessage = ({ data }) => {
      const item = JSON.parse(data);
      // A gap names the first sequence that follows it.
      after = item.type === "gap" ? item.to - 1 : item.sequence;
      onItem(item);
    };
    socket.onclose = () => {
      if (stopped) return;
      onState("connecting");
      timer = setTimeout(connect, backoff.next());
    };
  }

  connect();
  return () => {
    stopped = true;
    clearTimeout(timer);
    // Closed while it connects, a socket complains on the console.
    if (socket.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close();
    else socket.close();
  };
}
