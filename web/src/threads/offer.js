// Mode and model of the open thread, where its agent offers some.

import { element } from "../dom.js";
import { OFFERS, REFUSED, choiceOf, offersOf } from "./offers.js";

const LABELS = { mode: "Mode", model: "Model" };

export class OfferView {
  /** @param {(command: object) => Promise<unknown>} choose */
  constructor(choose) {
    this.choose = choose;
    this.told = null; // the event that is shown
    this.fault = element("p", { className: "fault", hidden: true });
    this.fault.setAttribute("role", "alert");
    this.row = element("div", { className: "row" });
    this.root = element("div", { className: "offers", hidden: true }, this.row, this.fault);
  }

  /** @param {import("./model.js").Thread | null} thread */
  show(thread) {
    const told = thread?.customs.findLast((custom) => custom.name === OFFERS || custom.name === REFUSED) ?? null;
    if (told === this.told && thread === this.thread) return;
    Object.assign(this, { told, thread });
    // One that was there when the page came is no news.
    this.complain(told?.name === REFUSED && told.live ? `The agent keeps it as it is: ${told.data?.error ?? "no reason given"}` : "");
    const offers = offersOf(thread?.customs.findLast((custom) => custom.name === OFFERS)?.data);
    this.row.replaceChildren(...offers.map((offer) => this.select(offer)));
    this.root.hidden = offers.length === 0;
  }

  select({ setting, current, options }) {
    const made = element("select", {}, ...options.map(({ id, name, about }) => element("option", { value: id, textContent: name, title: about })));
    made.value = current;
    made.dataset.setting = setting;
    made.addEventListener("change", async () => {
      // The agent's next event says what it is then.
      made.disabled = true;
      this.complain("");
      try {
        await this.choose(choiceOf(setting, this.thread.bound, made.value));
      } catch (fault) {
        this.complain(fault.message);
        made.value = current;
        made.disabled = false;
      }
    });
    return element("label", { className: "quiet" }, `${LABELS[setting]} `, made);
  }

  complain(text) {
    this.fault.textContent = text;
    this.fault.hidden = !text;
  }
}
