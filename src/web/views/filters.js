// Search and filters of a list, kept in the address.

import { invalidate } from "../frame.js";
import { link } from "../route.js";
import { h } from "../vdom.js";

/** Writes a filter into the address, without a new entry in the history. */
function setFilter(route, name, value) {
  const query = { ...Object.fromEntries(route.query), [name]: value };
  history.replaceState(null, "", link(route.path, query));
  invalidate();
}

/**
 * @param route the parsed address
 * @param fields of `{name, label, options}`; without options it is a search box
 * @param count what is shown of how much, such as "3 of 40 machines"
 */
export function filters(route, fields, count, ...more) {
  return h(
    "form",
    {
      class: "filters",
      role: "search",
      "aria-label": "Filters",
      onsubmit: (event) => event.preventDefault(),
    },
    fields.map(({ name, label, options }) =>
      h(
        "div",
        { class: "filter", key: name },
        h("label", { for: `filter-${name}` }, label),
        options
          ? h(
              "select",
              {
                id: `filter-${name}`,
                onchange: (event) => setFilter(route, name, event.target.value),
              },
              [["", "all"], ...options].map(([value, text]) =>
                h(
                  "option",
                  { key: value, value, selected: (route.query.get(name) ?? "") === value },
                  text,
                ),
              ),
            )
          : h("input", {
              id: `filter-${name}`,
              type: "search",
              value: route.query.get(name) ?? "",
              autocomplete: "off",
              spellcheck: "false",
              oninput: (event) => setFilter(route, name, event.target.value),
            }),
      ),
    ),
    h("p", { id: "count", role: "status" }, count),
    more,
  );
}

/** Whether one of the texts contains the search, whatever its case is. */
export function finds(search, ...texts) {
  const wanted = (search ?? "").trim().toLowerCase();
  return wanted === "" || texts.some((text) => text && text.toLowerCase().includes(wanted));
}
