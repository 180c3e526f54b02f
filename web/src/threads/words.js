// What a conversation is, in words for people. Pure.

import { over } from "../words.js";

/**
 * The line between the session's agent and the server.
 * @param {object | null} session @param {"live" | "connecting"} feed
 * @returns {{state: "ready" | "waiting" | "over" | "trouble", text: string}}
 */
export function lineOf(session, feed) {
  if (session && over(session)) return { state: "over", text: "The session has ended: it takes no prompts." };
  if (feed !== "live") return { state: "waiting", text: "Connecting. What is shown here may be old." };
  if (!session) return { state: "waiting", text: "Reading the session." };
  const { connected, ready, agent, refused } = session.sync ?? {};
  const name = agent && agent !== "zed-connection" ? agent : "The agent";
  if (connected && ready) return { state: "ready", text: `${name} takes prompts.` };
  if (connected) return { state: "waiting", text: `${name} is getting ready. Prompts wait for it.` };
  if (refused) return { state: "trouble", text: `An agent was refused: ${refused}` };
  switch (session.phase) {
    case "Ready":
      return { state: "waiting", text: "No agent is connected. Prompts wait for one." };
    case "Lost":
      return { state: "trouble", text: "The runner is not heard. Prompts wait." };
    default:
      return { state: "waiting", text: `The session is ${session.phase.toLowerCase()}. Prompts wait until its agent is ready.` };
  }
}

/** An event of the session as a whole, in one line. @param {object} item */
export function eventLine(item) {
  if (item.type === "sync") {
    const what = { connected: "agent connected", ready: "agent ready", disconnected: "agent disconnected", refused: "agent refused" };
    return [what[item.state] ?? `agent ${item.state}`, item.detail].filter(Boolean).join(": ");
  }
  if (item.type === "custom") return `${item.name} ${short(JSON.stringify(item.data ?? null), 200)}`;
  return item.type.replaceAll("_", " ");
}

const short = (text, most) => (text.length <= most ? text : `${text.slice(0, most - 1)}…`);

/** @param {number} count */
const number = (count) => count.toLocaleString("en");

/** Tokens in words; empty where none are counted. @param {Record<string, number> | null | undefined} usage */
export function tokens(usage) {
  const { total_tokens: total = 0, input_tokens: read = 0, output_tokens: written = 0 } = usage ?? {};
  const all = total || read + written;
  if (!all) return "";
  return read || written ? `${number(all)} tokens (${number(read)} in, ${number(written)} out)` : `${number(all)} tokens`;
}

/** The same in short. @param {Record<string, number> | null | undefined} usage */
export const allTokens = (usage) => tokens(usage).split(" (")[0];

/** @param {number} bytes */
export function size(bytes) {
  if (bytes < 1024) return `${bytes} bytes`;
  if (bytes < 2 ** 20) return `${Math.round(bytes / 1024)} KiB`;
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}

/** A name for a thread that has none. @param {{title: string | null, origin: string}} thread */
export function titleOf(thread) {
  if (thread.title) return thread.title;
  if (thread.origin === "input") return "The session's task";
  return thread.origin === "editor" ? "Thread of the editor" : "Untitled thread";
}

/** The state in the list: what runs goes before what waits behind it. @param {object} thread */
export function stateOf({ state, active_turn: active }) {
  return active && state === "queued" ? "running" : state;
}

/** The end of the last sentence or line in a text; 0 where there is none. @param {string} text */
export function sentenceEnd(text) {
  const at = Math.max(text.lastIndexOf("\n"), ...[". ", "! ", "? ", ": "].map((end) => text.lastIndexOf(end)));
  return at + 1;
}
