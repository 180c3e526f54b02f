// An ACP agent for the tests of the bridge: it does what the prompt says, one step per line, and writes every prompt that
// it gets to prompts.log in its directory, so that one that came twice is seen. AGENT_LOADS (load, resume, none) says
// how it takes up old sessions, AGENT_FAULT what is wrong with it.
import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const loads = process.env.AGENT_LOADS ?? "load";
const fault = process.env.AGENT_FAULT ?? "";
if (fault === "dies") {
  process.stderr.write("first complaint\nthe key is missing\n");
  process.exit(3);
}

let next = 1;
const waiting = new Map();
const cancelled = new Map();
const send = (message) => process.stdout.write(`${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`);
const ask = (method, params) =>
  new Promise((resolve) => {
    waiting.set(next, resolve);
    send({ id: next++, method, params });
  });
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function prompt(sessionId, text) {
  const update = (update) => send({ method: "session/update", params: { sessionId, update } });
  const say = (text) => update({ sessionUpdate: "agent_message_chunk", content: { type: "text", text } });
  cancelled.delete(sessionId);
  for (const line of text.split("\n")) {
    if (cancelled.get(sessionId)) return { stopReason: "cancelled" };
    const [word, ...rest] = line.split(" ");
    const argument = rest.join(" ");
    if (word === "say") say(argument);
    else if (word === "mode") update({ sessionUpdate: "current_mode_update", currentModeId: argument });
    else if (word === "think") update({ sessionUpdate: "agent_thought_chunk", content: { type: "text", text: argument } });
    else if (word === "big") {
      const piece = "0123456789abcde\n".repeat(256);
      for (let sent = 0; sent < Number(argument); sent += piece.length) {
        say(piece);
        await sleep(4);
      }
    } else if (word === "huge") say("x".repeat(Number(argument)));
    else if (word === "title") update({ sessionUpdate: "tool_call", toolCallId: "h1", title: "t".repeat(Number(argument)), status: "completed" });
    else if (word === "wait") await sleep(Number(argument));
    else if (word === "plan") {
      for (const status of ["pending", "completed"])
        update({ sessionUpdate: "plan", entries: [{ content: argument, priority: "high", status }] });
    } else if (word === "write") {
      const [path, ...words] = rest;
      update({ sessionUpdate: "tool_call", toolCallId: "w1", title: `Write ${path}`, kind: "edit", status: "pending" });
      const options = [
        { optionId: "yes", name: "Allow", kind: "allow_once" },
        { optionId: "no", name: "Reject", kind: "reject_once" },
        { optionId: "new", name: "Of a newer protocol", kind: "allow_in_future" },
      ];
      const answer = await ask("session/request_permission", { sessionId, toolCall: { toolCallId: "w1" }, options });
      const outcome = answer.result.outcome;
      if (outcome.outcome === "cancelled") return { stopReason: "cancelled" };
      if (outcome.optionId !== "yes") {
        say("not allowed");
        continue;
      }
      update({ sessionUpdate: "tool_call_update", toolCallId: "w1", status: "in_progress" });
      const done = await ask("fs/write_text_file", { sessionId, path, content: words.join(" ") });
      const content = [{ type: "diff", path, oldText: null, newText: words.join(" ") }];
      update({ sessionUpdate: "tool_call_update", toolCallId: "w1", status: done.error ? "failed" : "completed", content });
      say(done.error ? done.error.message : "written");
    } else if (word === "read") {
      const done = await ask("fs/read_text_file", { sessionId, path: argument });
      say(done.error ? done.error.message : done.result.content);
    } else if (word === "run") {
      const { result, error } = await ask("terminal/create", { sessionId, command: "/bin/sh", args: ["-c", argument] });
      if (error) {
        say(error.message);
        continue;
      }
      const content = [{ type: "terminal", terminalId: result.terminalId }];
      update({ sessionUpdate: "tool_call", toolCallId: "t1", title: "Run", kind: "execute", status: "in_progress", content });
      const exit = await ask("terminal/wait_for_exit", { sessionId, terminalId: result.terminalId });
      await ask("terminal/release", { sessionId, terminalId: result.terminalId });
      update({ sessionUpdate: "tool_call_update", toolCallId: "t1", status: "completed" });
      say(`exit ${exit.result.exitCode}`);
    } else if (word === "form") {
      const requestedSchema = { type: "object", properties: { db: { type: "string" } } };
      const answer = await ask("elicitation/create", { sessionId, mode: "form", message: argument, requestedSchema });
      say(JSON.stringify(answer.result));
    } else if (word === "die") {
      process.stderr.write("about to die\n");
      process.exit(7);
    } else if (word === "hang") await new Promise(() => {});
    else if (word === "until-cancelled") while (!cancelled.get(sessionId)) await sleep(20);
    else if (word === "noise") {
      // What an agent that is broken or hostile writes between its messages.
      for (const line of ["debug: here", "", "17", "[1, {}]", '{"jsonrpc":"2.0","id":4711,"result":7}', '{"id":null}', "{".repeat(5000)])
        process.stdout.write(`${line}\n`);
      process.stdout.write(Buffer.from([0xff, 0xfe, 0x0a]));
      process.stdout.write(`${"x".repeat(10 << 20)}\n`);
      update({ sessionUpdate: "from_the_future", content: 7 });
      update({ sessionUpdate: "tool_call_update", title: "without an id" });
      send({ method: "session/update", params: { sessionId: 7, update: null } });
      send({ method: "other/thing", params: {} });
      const unknown = await ask("other/wish", { sessionId });
      const unreadable = await ask("fs/read_text_file", { sessionId, path: 7, secret: "s" });
      say(`${unknown.error.code} ${unreadable.error.code} ${JSON.stringify(unreadable.error).includes("secret")}`);
    } else if (word === "terminals") {
      const outcomes = [];
      for (let number = 0; number < 70; number++) {
        const { error } = await ask("terminal/create", { sessionId, command: "/bin/true" });
        outcomes.push(error ? error.message : "made");
      }
      say(`${outcomes.filter((outcome) => outcome === "made").length} made, then ${outcomes.at(-1)}`);
    } else if (word === "stop") return { stopReason: argument };
  }
  if (cancelled.get(sessionId)) return { stopReason: "cancelled" };
  return { stopReason: "end_turn", usage: { totalTokens: 30, inputTokens: 20, outputTokens: 10 } };
}

const answers = {
  initialize: () => ({
    protocolVersion: 1,
    agentCapabilities: {
      loadSession: loads === "load",
      sessionCapabilities: loads === "resume" ? { resume: {} } : {},
    },
    authMethods: [{ id: "openai-api-key", name: "Key" }],
  }),
  authenticate: () => {
    answers.authenticated = true;
    return {};
  },
  "session/new": () => {
    if (fault === "wants-key" && !answers.authenticated) throw { code: -32000, message: "Authentication required" };
    const sessionId = `ses-${process.pid}-${next++}`;
    appendFileSync("sessions.log", `${sessionId}\n`);
    const availableModes = [{ id: "plan", name: "Plan" }];
    const models = { currentModelId: "small", availableModels: [{ modelId: "small", name: "Small" }, { modelId: "large", name: "Large" }] };
    return { sessionId, modes: { currentModeId: "code", availableModes }, models };
  },
  "session/load": ({ sessionId }) => {
    const known = existsSync("sessions.log") ? readFileSync("sessions.log", "utf8").split("\n") : [];
    if (!known.includes(sessionId)) throw { code: -32002, message: `Resource not found: ${sessionId}` };
    const content = { type: "text", text: "history that is known" };
    if (loads === "load") send({ method: "session/update", params: { sessionId, update: { sessionUpdate: "agent_message_chunk", content } } });
    return {};
  },
  "session/resume": (params) => answers["session/load"](params),
  "session/set_model": ({ modelId }) => {
    appendFileSync("models.log", `${modelId}\n`);
    return null;
  },
  "session/set_mode": ({ modeId }) => {
    if (modeId !== "plan") throw { code: -32602, message: "Invalid params", data: { details: `no mode ${modeId}` } };
    appendFileSync("modes.log", `${modeId}\n`);
    return {};
  },
  "session/prompt": ({ sessionId, prompt: [{ text }] }) => {
    appendFileSync("prompts.log", `${text.split("\n")[0]}\n`);
    return prompt(sessionId, text);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { id, method, params, result, error } = JSON.parse(line);
  if (method === "session/cancel") cancelled.set(params.sessionId, true);
  else if (method === undefined) {
    waiting.get(id)?.({ result, error });
    waiting.delete(id);
  } else
    (async () => {
      try {
        send({ id, result: await answers[method](params) });
      } catch (error) {
        send({ id, error: error.code ? error : { code: -32603, message: String(error) } });
      }
    })();
}
process.exit(0);
