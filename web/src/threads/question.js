// A question of the agent's, answered in line: buttons, a small form, or JSON where its schema is more than that.

import { element } from "../dom.js";
import { contentOf, controlsOf } from "./schema.js";

const ENDS = {
  accepted: "answered",
  declined: "declined",
  cancelled: "taken back",
  completed: "answered",
  expired: "no longer asked",
};
let forms = 0;

export class QuestionView {
  /**
   * @param {object} question
   * @param {(body: {action: string, content?: unknown}) => Promise<unknown>} answer
   */
  constructor(question, answer) {
    this.question = question;
    this.answer = answer;
    this.name = `question-${(forms += 1)}`;
    this.text = element("p", { id: this.name, className: "asked", textContent: question.message || "The agent asks." });
    this.controls = element("div", { className: "controls" });
    this.fault = element("p", { className: "fault", hidden: true });
    this.fault.setAttribute("role", "alert");
    this.root = element("section", { className: "question" }, this.text, this.controls, this.fault);
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-labelledby", this.name);
    this.root.dataset.question = question.id;
    this.build();
    this.update();
  }

  build() {
    const controls = controlsOf(this.question);
    const build = { confirm: this.confirm, url: this.url, choice: this.choice, form: this.form, json: this.json };
    this.controls.append(...build[controls.kind].call(this, controls));
  }

  button(text, body, className = "") {
    const made = element("button", { type: "button", textContent: text, className });
    made.addEventListener("click", () => this.send(body));
    return made;
  }

  decline() {
    return this.button("Decline", { action: "decline" }, "secondary");
  }

  confirm() {
    return [this.button("Accept", { action: "accept" }), this.decline()];
  }

  url({ url }) {
    const link = element("a", { href: url, target: "_blank", rel: "noopener noreferrer", textContent: url });
    return [element("p", {}, link), this.button("Done", { action: "accept" }), this.decline()];
  }

  choice({ field, options }) {
    const buttons = options.map(({ title, description, value, refuses }) => {
      const content = field === null ? value : { [field]: value };
      const made = this.button(title, { action: "accept", content }, refuses ? "secondary" : "");
      if (description) made.title = description;
      return made;
    });
    return options.some((option) => option.refuses) ? buttons : [...buttons, this.decline()];
  }

  form({ fields }) {
    const places = new Map();
    const rows = fields.map((field) => {
      const id = `${this.name}-${places.size}`;
      const control = controlOf(field, id);
      places.set(field.name, control);
      const label = element("label", { htmlFor: id, textContent: field.title });
      const hint = element("span", { id: `${id}-hint`, className: "hint", textContent: field.description });
      control.setAttribute("aria-describedby", hint.id);
      return element("div", { className: `field ${field.control}` }, label, control, hint);
    });
    const read = (name) => {
      const control = places.get(name);
      if (control.type === "checkbox") return control.checked;
      return control.multiple ? [...control.selectedOptions].map((option) => Number(option.value)) : control.value;
    };
    const form = element("form", { noValidate: true }, ...rows, this.buttons());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const { content, faults } = contentOf(fields, read);
      for (const [name, control] of places) control.setAttribute("aria-invalid", String(name in faults));
      const [first] = Object.keys(faults);
      if (first === undefined) this.send({ action: "accept", content });
      else {
        this.complain(`${fields.find((field) => field.name === first).title}: ${faults[first]}`);
        places.get(first).focus();
      }
    });
    return [form];
  }

  json() {
    const text = element("textarea", { rows: 4, spellcheck: false, value: "{}" });
    text.setAttribute("aria-label", "Answer as JSON");
    const schema = element("pre", { textContent: JSON.stringify(this.question.schema, null, 2) });
    const form = element("form", {}, text, element("details", {}, element("summary", { textContent: "What is asked for (JSON Schema)" }), schema), this.buttons());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      try {
        this.send({ action: "accept", content: JSON.parse(text.value) });
      } catch (fault) {
        this.complain(`not JSON: ${fault.message}`);
      }
    });
    return [form];
  }

  buttons() {
    return element("div", { className: "controls" }, element("button", { type: "submit", textContent: "Answer" }), this.decline());
  }

  complain(text) {
    this.fault.textContent = text;
    this.fault.hidden = !text;
  }

  async send(body) {
    this.complain("");
    this.enable(false);
    try {
      await this.answer(body);
    } catch (fault) {
      this.complain(fault.message);
      if (this.question.status === "open") this.enable(true);
    }
  }

  enable(on) {
    for (const control of this.controls.querySelectorAll("button, input, select, textarea")) control.disabled = !on;
  }

  /** The question changed. */
  update() {
    const { status, answered_by: by, action } = this.question;
    this.root.dataset.status = status;
    if (status === "open") return;
    const how = action ? { accept: "answered", decline: "declined", cancel: "taken back" }[action] : (ENDS[status] ?? status);
    this.controls.replaceChildren(element("p", { className: "outcome", textContent: by ? `${how} by ${by}` : how }));
    this.complain("");
  }
}

/** The control of one field. */
function controlOf(field, id) {
  const { control, value } = field;
  if (control === "select" || control === "several") {
    const chosen = new Set(control === "several" ? value : [value]);
    const made = element("select", { id, multiple: control === "several" });
    if (control === "select") made.append(element("option", { value: "", textContent: "" }));
    field.options.forEach((option, at) => {
      made.append(element("option", { value: String(at), textContent: option.title, selected: chosen.has(option.value) }));
    });
    return made;
  }
  if (control === "check") return element("input", { id, type: "checkbox", checked: value === true });
  const made = element("input", { id, type: "text", autocomplete: "off", value: value === undefined ? "" : String(value) });
  if (control === "number") made.inputMode = field.whole ? "numeric" : "decimal";
  else if (field.most) made.maxLength = field.most;
  return made;
}
