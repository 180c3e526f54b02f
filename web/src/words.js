// What a session or runner is, in words for people. Pure.

/** @param {string} time RFC 3339 @param {number} now milliseconds */
export function age(time, now = Date.now()) {
  const seconds = Math.max(0, Math.round((now - Date.parse(time)) / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

/** One line of text, shortened. @param {string} text @param {number} most */
export function short(text, most = 80) {
  const line = text.trim().replace(/\s+/g, " ");
  return line.length <= most ? line : `${line.slice(0, most - 1)}…`;
}

/** What the session works on. @param {object} session */
export function task(session) {
  const parts = [session.spec?.project?.git, session.spec?.input].filter(Boolean);
  return short(parts.join(" · "));
}

/** True once nothing of the session runs any more and nothing will. @param {object} session */
export function over(session) {
  return session.phase === "Stopped" || session.phase === "Failed";
}

/** The step that goes on now. @param {object} session */
function runningStep(session) {
  return session.timeline?.at(-1)?.step?.replaceAll("_", " ");
}

/** How the session is, beside its phase. @param {object} session */
export function state(session) {
  const why = session.cause?.message ?? "";
  const outcome = session.result ? `exit status ${session.result.exit_status}` : "";
  switch (session.phase) {
    case "Pending": {
      const place = session.queue_position ? `place ${session.queue_position} in the queue` : "waiting for a runner";
      return why ? `${place}: ${why}` : place;
    }
    case "Assigned":
      return `given to ${session.runner ?? "a runner"}`;
    case "Starting":
      return runningStep(session) ? `starting: ${runningStep(session)}` : "starting";
    case "Ready":
      return [session.unclaimed ? "unclaimed: adopt or stop it" : "", outcome || why].filter(Boolean).join(" · ") || "running";
    case "Stopping":
      return why || "ending";
    case "Lost":
      return why || "its runner is not heard; the session may still run";
    default:
      return [outcome, why].filter(Boolean).join(" · ");
  }
}
