// Waiting before another try: 1, 2, 4 … at most 30 s, with jitter so that many pages do not come back at once.

const MOST = 30_000;

export class Backoff {
  /** @param {() => number} [random] from 0 up to 1 */
  constructor(random = Math.random) {
    this.random = random;
    this.tries = 0;
  }

  /** It worked: the next wait is the shortest again. */
  reset() {
    this.tries = 0;
  }

  /** @returns {number} milliseconds to wait now: between half of the step and all of it */
  next() {
    const step = Math.min(MOST, 1000 * 2 ** this.tries);
    this.tries += 1;
    return Math.round(step / 2 + (step / 2) * this.random());
  }
}

/** A bell: whoever waits is woken by a ring or by the clock, whichever comes first. */
export class Bell {
  constructor() {
    this.rung = false;
    this.wake = null;
  }

  /** Wakes the one who waits; a ring while nobody waits is kept. */
  ring() {
    this.rung = true;
    this.wake?.();
  }

  /** @param {number} milliseconds at most */
  async wait(milliseconds) {
    if (!this.rung) {
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, milliseconds);
        this.wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    this.wake = null;
    this.rung = false;
  }
}
