// Small DOM tools. Text from the server goes in as text, never as markup.

/** @param {string} id */
export const byId = (id) => document.getElementById(id);

/**
 * An element with properties and children.
 * @param {string} tag @param {Record<string, unknown>} [properties] @param {...(Node | string)} children
 */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A coloured word. The colour only repeats what the word says. @param {string} word */
export function badge(word) {
  const made = element("span", { className: "badge", textContent: word });
  made.dataset.word = word.toLowerCase();
  return made;
}

/**
 * Brings the rows of a table body in line with `items`, keeping rows (and so focus) that stay.
 * @template T
 * @param {HTMLElement} body @param {T[]} items @param {(item: T) => string} key
 * @param {(item: T) => (Node | string)[]} cells
 */
export function syncRows(body, items, key, cells) {
  const heads = [...body.parentElement.querySelectorAll("thead th")].map((head) => head.textContent);
  const old = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  const rows = items.map((item) => {
    const row = old.get(key(item)) ?? element("tr");
    row.dataset.key = key(item);
    cells(item).forEach((content, at) => {
      const fresh = element("td", {}, content);
      fresh.dataset.label = heads[at];
      const cell = row.cells[at];
      if (!cell) row.append(fresh);
      else if (!cell.isEqualNode(fresh)) cell.replaceWith(fresh);
    });
    return row;
  });
  // Rows move only where the order changed: moving a row takes the focus from a link in it.
  rows.forEach((row, at) => {
    if (body.rows[at] !== row) body.insertBefore(row, body.rows[at] ?? null);
  });
  while (body.rows.length > rows.length) body.lastElementChild.remove();
}
