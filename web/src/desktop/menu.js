// What can be set of the desktop: one button in the bar, and what opens below it.

import { element } from "../dom.js";
import { remembered } from "../remembered.js";

const SIZE = "helix.desktop.size";
const KEYS = "helix.desktop.keys";
const SIZES = [
  ["scale", "Scaled to this window"],
  ["actual", "Its own size"],
  ["resize", "Made to fit this window"],
];

export class DesktopMenu {
  /**
   * @param {HTMLButtonElement} button @param {HTMLElement} place
   * @param {object} parts
   * @param {HTMLElement} parts.clipboard @param {HTMLElement} parts.keyBar @param {HTMLElement} parts.stage
   * @param {(size: import("./connection.js").Size) => void} parts.onSize
   * @param {boolean} parts.touch
   */
  constructor(button, place, { clipboard, keyBar, stage, onSize, touch }) {
    this.button = button;
    this.place = place;
    const known = remembered.get(SIZE);
    this.size = element("select", { id: "desktop-size" });
    for (const [value, textContent] of SIZES) this.size.append(element("option", { value, textContent }));
    this.size.value = known === "actual" ? known : "scale";
    this.size.addEventListener("change", () => {
      // To change the desktop for everybody is asked for each time.
      if (this.size.value !== "resize") remembered.set(SIZE, this.size.value);
      onSize(this.size.value);
    });
    const keys = element("input", { type: "checkbox", id: "show-keys" });
    keys.checked = (remembered.get(KEYS) ?? (touch ? "yes" : "")) === "yes";
    const showKeys = () => {
      keyBar.classList.toggle("wanted", keys.checked);
    };
    keys.addEventListener("change", () => {
      remembered.set(KEYS, keys.checked ? "yes" : "no");
      showKeys();
    });
    showKeys();
    const full = element("button", { id: "fullscreen", type: "button", className: "secondary small", textContent: "Full screen", hidden: !document.fullscreenEnabled });
    full.addEventListener("click", () => {
      this.show(false);
      stage.requestFullscreen();
    });
    place.append(
      element("div", { className: "setting" }, element("label", { htmlFor: "desktop-size", textContent: "Size" }), this.size),
      element("div", { className: "setting" }, keys, element("label", { htmlFor: "show-keys", textContent: "Show keys (Ctrl, Alt, Esc …)" })),
      clipboard,
      full,
    );
    button.addEventListener("click", () => this.show(place.hidden));
    addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || place.hidden || !(place.contains(event.target) || event.target === button)) return;
      this.show(false);
      button.focus();
    });
    addEventListener("pointerdown", (event) => {
      if (!place.hidden && !place.contains(event.target) && event.target !== button) this.show(false);
    });
  }

  show(shown) {
    this.place.hidden = !shown;
    this.button.setAttribute("aria-expanded", String(shown));
    if (shown) this.place.querySelector("select").focus();
  }

  /** Who only looks changes nothing. @param {boolean} may */
  mayType(may) {
    const resize = this.size.querySelector("[value=resize]");
    resize.disabled = !may;
  }

  /** Something in it waits for somebody. @param {boolean} waits */
  mark(waits) {
    this.button.classList.toggle("asks", waits);
    this.button.title = waits ? "The desktop has copied something" : "";
  }
}
