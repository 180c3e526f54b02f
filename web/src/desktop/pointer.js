// Where calls of the API (an agent, a script) have left the pointer: a ring with a name over the picture. The server
// tells each move; nothing is asked for again and again.

import { follow } from "../feed.js";

/** A pointer that nobody has moved for so long is not worth a mark: the picture has it anyway. */
const REST = 10_000;

export class Pointer {
  /** @param {HTMLElement} mark @param {HTMLElement} place has the picture's canvas in it @param {string} session */
  constructor(mark, place, session) {
    this.mark = mark;
    this.place = place;
    this.path = `/api/v1/sessions/${encodeURIComponent(session)}/pointer`;
    this.at = null;
    this.observer = new ResizeObserver(() => this.draw());
  }

  /** The desktop is there. */
  start() {
    this.feed ??= follow({ path: this.path, onItem: (pointed) => this.moved(pointed) });
    this.observer.observe(this.place);
  }

  stop() {
    this.feed?.stop();
    this.feed = null;
    this.observer.disconnect();
    this.rest();
  }

  moved({ x, y, by, is_agent: isAgent }) {
    this.at = { x, y };
    this.mark.firstElementChild.textContent = isAgent ? "Agent" : by;
    this.draw();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.rest(), REST);
  }

  rest() {
    clearTimeout(this.timer);
    this.at = null;
    this.draw();
  }

  draw() {
    const canvas = this.place.querySelector("canvas");
    // Out of nowhere it does not fly in.
    this.mark.classList.toggle("moves", !this.mark.hidden);
    this.mark.hidden = !this.at || !canvas;
    if (this.mark.hidden) return;
    const picture = canvas.getBoundingClientRect();
    const frame = this.place.getBoundingClientRect();
    const scale = picture.width / canvas.width;
    const x = picture.left - frame.left + this.at.x * scale;
    const y = picture.top - frame.top + this.at.y * scale;
    this.mark.style.transform = `translate(${x}px, ${y}px)`;
    this.mark.classList.toggle("left", x > frame.width / 2);
    this.mark.classList.toggle("above", y > frame.height - 60);
  }
}
