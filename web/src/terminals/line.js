// The WebSocket of one terminal: bytes both ways, and notices. Connects again by itself until the terminal has ended.
//
// What comes faster than it can be drawn would pile up in this page: then the line is dropped, and taken up again when
// all is drawn, with what the session still keeps.

import { socketProtocols, socketUrl } from "../api.js";
import { Backoff } from "../backoff.js";
import { onWake } from "../wake.js";

/** Bytes that wait to be drawn. */
const MOST_WAITING = 4 << 20;
/** Bytes that are typed before the line stands, and kept until it does. */
const MOST_EARLY = 4 << 10;
/** Bytes of one message; the server takes 1 MiB. */
const PIECE = 64 << 10;

export class Line {
  /**
   * @param {string} path of the terminal
   * @param {object} hooks
   * @param {() => Promise<boolean>} hooks.before asked before each connection: whether to make it
   * @param {() => {cols: number, rows: number}} hooks.size
   * @param {() => void} hooks.onAttached what was shown comes again, from the beginning
   * @param {(bytes: Uint8Array, done: () => void) => void} hooks.onBytes
   * @param {(exit: {exit_status: number, signal?: string}) => void} hooks.onExit
   * @param {(text: string) => void} hooks.onBroken why there is no line now; it is tried again
   */
  constructor(path, hooks) {
    this.path = path;
    this.hooks = hooks;
    this.backoff = new Backoff();
    this.socket = null;
    this.waiting = 0;
    this.early = [];
    this.over = false;
    this.awake = onWake(() => this.restart());
    this.connect();
  }

  get open() {
    return this.socket?.readyState === WebSocket.OPEN && this.attached;
  }

  async connect() {
    clearTimeout(this.timer);
    const mine = (this.run = (this.run ?? 0) + 1);
    let go = false;
    try {
      go = await this.hooks.before();
    } catch (fault) {
      return mine === this.run ? this.again(fault.message) : undefined;
    }
    // Begun once more meanwhile: that one connects.
    if (mine !== this.run) return;
    if (!go || this.over) return this.stop();
    const { cols, rows } = this.hooks.size();
    const socket = new WebSocket(socketUrl(`${this.path}?cols=${cols}&rows=${rows}`), socketProtocols());
    socket.binaryType = "arraybuffer";
    this.attached = false;
    this.socket = socket;
    let why = "The connection was lost.";
    socket.onmessage = ({ data }) => {
      if (typeof data !== "string") return this.take(new Uint8Array(data));
      const notice = JSON.parse(data);
      if (notice.type === "attached") {
        this.attached = true;
        this.backoff.reset();
        this.hooks.onAttached();
        for (const bytes of this.early.splice(0)) this.send(bytes);
      } else if (notice.type === "exit") {
        this.stop();
        this.hooks.onExit(notice);
      } else if (notice.type === "failed") why = notice.detail;
    };
    socket.onclose = () => this.socket === socket && this.again(why);
  }

  again(why) {
    this.socket = null;
    if (this.over) return;
    // What is drawn first comes again afterwards.
    if (this.waiting > 0) return;
    this.early = []; // for a shell that is not there: not what somebody meant
    this.hooks.onBroken(why);
    this.timer = setTimeout(() => this.connect(), this.backoff.next());
  }

  take(bytes) {
    this.waiting += bytes.length;
    this.hooks.onBytes(bytes, () => this.drawn(bytes.length));
    if (this.waiting > MOST_WAITING) this.leave();
  }

  drawn(bytes) {
    this.waiting -= bytes;
    if (this.waiting === 0 && !this.socket && !this.over) this.connect();
  }

  leave() {
    const { socket } = this;
    this.socket = null;
    if (!socket) return;
    socket.onmessage = null;
    // Closed while it connects, a socket complains on the console.
    if (socket.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close();
    else socket.close();
  }

  restart() {
    if (this.over || this.waiting > 0) return;
    this.leave();
    this.backoff.reset();
    this.connect();
  }

  /** @param {Uint8Array} bytes */
  send(bytes) {
    if (!this.open) {
      const kept = this.early.reduce((sum, one) => sum + one.length, bytes.length);
      if (kept <= MOST_EARLY) this.early.push(bytes);
      return;
    }
    for (let at = 0; at < bytes.length; at += PIECE) this.socket.send(bytes.subarray(at, at + PIECE));
  }

  resize({ cols, rows }) {
    if (this.open) this.socket.send(JSON.stringify({ type: "resize", cols, rows }));
  }

  stop() {
    this.over = true;
    clearTimeout(this.timer);
    this.awake();
    this.leave();
  }
}
