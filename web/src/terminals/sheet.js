// Style sheets of xterm.js as the content policy allows them: adopted by the document, not written into it.
//
// The build lets xterm.js make elements of this name where it would make `<style>` (build.mjs).

class Sheet extends HTMLElement {
  #sheet = new CSSStyleSheet();

  set textContent(css) {
    this.#sheet.replaceSync(css);
  }

  connectedCallback() {
    this.hidden = true;
    document.adoptedStyleSheets = [...document.adoptedStyleSheets, this.#sheet];
  }

  disconnectedCallback() {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((one) => one !== this.#sheet);
  }
}

customElements.define("helix-sheet", Sheet);
