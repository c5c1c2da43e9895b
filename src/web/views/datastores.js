// The list of datastores, and the files of one.

import { bytes } from "../format.js";
import { facts, nothing, section } from "../parts.js";
import { link } from "../route.js";
import { sorted, store } from "../store.js";
import { h } from "../vdom.js";
import { filesView } from "./files.js";

export const title = (route) => (route.path[1] ? store.datastores.get(route.path[1])?.name ?? "Datastore" : "Datastores");

export function view(route) {
  if (!route.path[1]) return listView();
  const datastore = store.datastores.get(route.path[1]);
  if (!datastore) return nothing(store.datastores.size === 0 ? "Loading…" : "This datastore does not exist, or you may not see it.");
  return [
    section("space", "Space", space(datastore)),
    filesView(datastore, route),
  ];
}

function listView() {
  const all = sorted("datastores");
  if (all.length === 0) return nothing("None.");
  return h("ul", { class: "cards", role: "list", "aria-label": "Datastores" }, all.map((datastore) => h("li", { class: "card", key: datastore.id },
    h("h2", {}, h("a", { href: link(["datastores", datastore.id]) }, datastore.name)), space(datastore))));
}

function space(datastore) {
  const { capacity_bytes: capacity, free_bytes: free } = datastore;
  const used = capacity ? Math.round(((capacity - free) / capacity) * 100) : null;
  return [
    used !== null && h("meter", { min: 0, max: 100, high: 90, value: String(used), "aria-label": `Used space of ${datastore.name}` }),
    facts([
      ["Free", free === null ? null : `${bytes(free)} of ${bytes(capacity)}`],
      ["Promised to machines", datastore.uncommitted_bytes === null ? null : bytes(datastore.uncommitted_bytes)],
      ["Machines", datastore.machine_count],
      ["Type", datastore.type],
      ["Accessible", datastore.accessible ? null : "no"],
    ]),
  ];
}
