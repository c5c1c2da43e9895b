// Lists that are kept in pages: the newest are in the store, older ones are read on demand.

import { get } from "../api.js";
import { invalidate } from "../frame.js";
import { attempt } from "../messages.js";
import { changed, store } from "../store.js";
import { h } from "../vdom.js";

/** By list and filter: the cursor of the next page; null after the last one. */
let cursors = new Map();

export const forgetPages = () => {
  cursors = new Map();
};

/**
 * A button that reads the next page of a list into the store.
 *
 * @param kind "jobs" or "leases"
 * @param query the filters that the API knows
 */
export function loadOlder(kind, query = {}) {
  const key = `${kind}?${new URLSearchParams(query)}`;
  if (cursors.get(key) === null) return null;
  const more = async () => {
    const page = await get(`/v1/${kind}`, { query: { ...query, cursor: cursors.get(key) } });
    for (const item of page.items) if (!store[kind].has(item.id)) store[kind].set(item.id, item);
    cursors.set(key, page.next);
    changed(kind);
    invalidate();
  };
  return h(
    "p",
    { key: "older" },
    h("button", { type: "button", onclick: () => attempt(more) }, "Load older"),
  );
}
