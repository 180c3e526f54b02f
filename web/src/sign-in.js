// The form for a token, shown where a page has none or has one that opens nothing.

import { setToken } from "./api.js";
import { element } from "./dom.js";

/**
 * Fills `place` with the form and resolves once a token was given.
 * @param {HTMLElement} place @param {string} [fault] why the former token did not do
 */
export function askForToken(place, fault = "") {
  return new Promise((resolve) => {
    const field = element("input", {
      id: "token",
      type: "password",
      required: true,
      autocomplete: "off",
      spellcheck: false,
    });
    const form = element(
      "form",
      { className: "card" },
      element("h1", { textContent: "Access token" }),
      element("p", { textContent: "Open the link that helixctl prints, or paste a token. It stays in this tab." }),
      element("p", { className: "fault", role: "alert", textContent: fault, hidden: !fault }),
      element("label", { htmlFor: "token", textContent: "Token" }),
      field,
      element("button", { type: "submit", textContent: "Continue" }),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      setToken(field.value.trim());
      place.hidden = true;
      place.replaceChildren();
      resolve();
    });
    place.replaceChildren(form);
    place.hidden = false;
    field.focus();
  });
}
