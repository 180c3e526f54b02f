// A model for the tests of ACP agents: an OpenAI-compatible endpoint on loopback that says what its script says. The last
// message of a user decides: "write PATH TEXT" is a call of the agent's tool for writing, "say TEXT" is said, "slowly" is
// said for ever. After a tool's result it says "written". Arguments: none. The first line of its output is its address;
// each further line is a request: its key and its last message.
import { createServer } from "node:http";

const text = (content) => (Array.isArray(content) ? content.map((part) => part.text ?? "").join("") : (content ?? ""));
const script = (messages) => {
  const last = messages.at(-1);
  if (last.role === "tool") return { say: `tool said: ${text(last.content)}\nwritten` };
  const asked = text(last.content).match(/(write (\S+) (.*))|(say (.*))|(slowly)/);
  if (asked?.[1]) return { write: { path: asked[2], content: asked[3] } };
  if (asked?.[4]) return { say: asked[5] };
  if (asked?.[6]) return { slowly: true };
  return { say: "hm" };
};

const server = createServer(async (request, response) => {
  let body = "";
  for await (const chunk of request) body += chunk;
  if (request.method === "GET") {
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ object: "list", data: [{ id: "scripted", object: "model" }] }));
    return;
  }
  const { messages, stream, tools } = JSON.parse(body);
  const asked = tools?.length ? text(messages.at(-1).content) : "a title";
  process.stdout.write(`${JSON.stringify({ key: request.headers.authorization, asked })}\n`);
  const step = tools?.length ? script(messages) : { say: "A title" };
  const base = { id: "c1", object: "chat.completion.chunk", created: 1, model: "scripted" };
  const usage = { prompt_tokens: 11, completion_tokens: 7, total_tokens: 18 };
  const call = (step) => {
    const tool = tools.find(({ function: { name } }) => name.startsWith("write")).function;
    const names = Object.keys(tool.parameters.properties);
    const path = names.find((name) => /path/i.test(name));
    const content = names.find((name) => /content/i.test(name));
    const args = JSON.stringify({ [path]: step.write.path, [content]: step.write.content });
    return { index: 0, id: "call_1", type: "function", function: { name: tool.name, arguments: args } };
  };
  if (!stream) {
    const message = step.write ? { role: "assistant", tool_calls: [call(step)] } : { role: "assistant", content: step.say };
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ ...base, object: "chat.completion", choices: [{ index: 0, message, finish_reason: "stop" }], usage }));
    return;
  }
  response.setHeader("content-type", "text/event-stream");
  const send = (delta, finish = null) =>
    response.write(`data: ${JSON.stringify({ ...base, choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`);
  send({ role: "assistant", content: "" });
  if (step.slowly) {
    const timer = setInterval(() => send({ content: "and " }), 50);
    response.on("close", () => clearInterval(timer));
    return;
  }
  if (step.write) send({ tool_calls: [call(step)] });
  else for (const word of step.say.split(/(?<= )/)) send({ content: word });
  send({}, step.write ? "tool_calls" : "stop");
  response.write(`data: ${JSON.stringify({ ...base, choices: [], usage })}\n\n`);
  response.end("data: [DONE]\n\n");
});
server.listen(0, "127.0.0.1", () => process.stdout.write(`http://127.0.0.1:${server.address().port}/v1\n`));
