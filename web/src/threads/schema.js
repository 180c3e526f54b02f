// What a question of the agent's needs: buttons, a small form, or, where its schema is more than that, JSON. Pure.

const REFUSES = /\b(reject|deny|decline|refuse|never|no|cancel|disallow)/i;

const isPlain = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** Values to choose from, with words for people; `null` where the schema names none. */
function optionsOf(schema) {
  const named = schema.oneOf ?? schema.anyOf;
  if (Array.isArray(named) && named.length > 0 && named.every((one) => isPlain(one) && "const" in one)) {
    return named.map((one) => ({
      value: one.const,
      title: String(one.title ?? one.const),
      description: one.description ?? "",
    }));
  }
  if (Array.isArray(schema.enum) && schema.enum.length > 0) {
    const names = schema.enumNames ?? [];
    return schema.enum.map((value, at) => ({ value, title: String(names[at] ?? value), description: "" }));
  }
  if ("const" in schema) return [{ value: schema.const, title: String(schema.title ?? schema.const), description: "" }];
  return null;
}

/** One field of a form, or `null` where no simple control can hold it. */
function fieldOf(name, schema, required) {
  if (!isPlain(schema)) return null;
  const field = {
    name,
    title: schema.title ?? name,
    description: schema.description ?? "",
    required,
    value: schema.default,
  };
  const options = optionsOf(schema);
  if (options) return { ...field, control: "select", options };
  switch (schema.type) {
    case "string":
      return { ...field, control: "text", format: schema.format ?? "", least: schema.minLength, most: schema.maxLength, pattern: schema.pattern };
    case "integer":
    case "number":
      return { ...field, control: "number", whole: schema.type === "integer", least: schema.minimum, most: schema.maximum };
    case "boolean":
      return { ...field, control: "check" };
    case "array": {
      const choices = isPlain(schema.items) ? optionsOf(schema.items) : null;
      return choices && { ...field, control: "several", options: choices };
    }
    default:
      return null;
  }
}

/** A button that says no looks like it. */
const button = (option) => ({ ...option, refuses: REFUSES.test(`${option.title} ${option.value}`) });

/**
 * @param {{mode: string, message: string, schema: object | null}} question
 * @returns {{kind: "confirm"} | {kind: "url", url: string} | {kind: "choice", field: string | null, options: object[]}
 *   | {kind: "form", fields: object[]} | {kind: "json"}}
 */
export function controlsOf({ mode, message, schema }) {
  if (mode === "url") {
    const url = [schema?.url, schema?.const, /https?:\/\/\S+/.exec(message)?.[0]].find((one) => /^https?:\/\//.test(one ?? ""));
    return url ? { kind: "url", url } : { kind: "confirm" };
  }
  if (!isPlain(schema)) return { kind: "confirm" };
  const own = optionsOf(schema);
  if (own) return { kind: "choice", field: null, options: own.map(button) };
  const properties = Object.entries(schema.properties ?? {});
  if (properties.length === 0) return schema.type && schema.type !== "object" ? { kind: "json" } : { kind: "confirm" };
  const required = new Set(schema.required ?? []);
  const fields = properties.map(([name, property]) => fieldOf(name, property, required.has(name)));
  if (fields.includes(null)) return { kind: "json" };
  if (fields.length === 1) {
    const [{ name, control, options }] = fields;
    if (control === "select") return { kind: "choice", field: name, options: options.map(button) };
    if (control === "check") {
      const answers = [{ value: true, title: "Yes", description: "" }, { value: false, title: "No", description: "" }];
      return { kind: "choice", field: name, options: answers.map(button) };
    }
  }
  return { kind: "form", fields };
}

/**
 * The answer that a filled form gives.
 * @param {object[]} fields @param {(name: string) => string | boolean | number[]} read what a control holds: text, a
 *   check, or the numbers of the chosen options
 * @returns {{content: object, faults: Record<string, string>}}
 */
export function contentOf(fields, read) {
  const content = {};
  const faults = {};
  for (const field of fields) {
    const { name, control, required } = field;
    const held = read(name);
    if (control === "check") content[name] = held === true;
    else if (control === "several") {
      if (held.length > 0 || required) content[name] = held.map((at) => field.options[at].value);
    } else if (held === "") {
      if (required) faults[name] = "needed";
    } else if (control === "select") content[name] = field.options[Number(held)].value;
    else if (control === "number") {
      const value = Number(held);
      if (Number.isNaN(value) || (field.whole && !Number.isInteger(value))) faults[name] = field.whole ? "a whole number is needed" : "a number is needed";
      else if (value < field.least || value > field.most) faults[name] = "out of range";
      else content[name] = value;
    } else content[name] = held;
  }
  return { content, faults };
}
