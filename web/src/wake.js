// Noticing that this machine slept or changed networks: sockets may be dead then without anybody saying so.

/** Timers of a page that is shown come at least so often; a longer pause was sleep. */
const TICK = 5_000;
const SLEPT = 30_000;

/** @param {() => void} awake called each time @returns {() => void} stop */
export function onWake(awake) {
  let last = Date.now();

  function tick() {
    const pause = Date.now() - last;
    last += pause;
    // Timers of a hidden page are slow by themselves; what was missed is seen when it is shown.
    if (pause > SLEPT && document.visibilityState === "visible") awake();
  }

  const timer = setInterval(tick, TICK);
  const shown = () => document.visibilityState === "visible" && tick();
  document.addEventListener("visibilitychange", shown);
  addEventListener("online", awake);
  return () => {
    clearInterval(timer);
    document.removeEventListener("visibilitychange", shown);
    removeEventListener("online", awake);
  };
}
