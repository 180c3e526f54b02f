// What noVNC takes for a WebSocket, and is fed by hand: a server that only talks.

export class Channel {
  constructor() {
    this.binaryType = "arraybuffer";
    this.protocol = "";
    this.readyState = WebSocket.OPEN;
    this.onopen = () => {};
    this.onmessage = () => {};
    this.onclose = () => {};
    this.onerror = () => {};
  }

  /** What a client says has nobody to hear it. */
  send() {}

  close() {
    if (this.readyState === WebSocket.CLOSED) return;
    this.readyState = WebSocket.CLOSED;
    // As a socket does: after the call.
    queueMicrotask(() => this.onclose({ code: 1000, reason: "" }));
  }

  /** @param {Uint8Array} data */
  feed(data) {
    this.onmessage({ data });
  }
}
