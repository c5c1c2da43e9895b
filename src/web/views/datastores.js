// The list of datastores, and the files of one.

import { call, path } from "../api.js";
import { bytes } from "../format.js";
import { attempt, say } from "../messages.js";
import { actions, at, facts, nothing, section } from "../parts.js";
import { needs } from "../rights.js";
import { link } from "../route.js";
import { put, sorted, store } from "../store.js";
import { h } from "../vdom.js";
import { filesView } from "./files.js";

export const title = (route) =>
  route.path[1] ? (store.datastores.get(route.path[1])?.name ?? "Datastore") : "Datastores";

export function view(route) {
  if (!route.path[1]) return listView();
  const datastore = store.datastores.get(route.path[1]);
  if (!datastore)
    return nothing(
      store.datastores.size === 0
        ? "Loading…"
        : "This datastore does not exist, or you may not see it.",
    );
  return [
    section(
      "space",
      "Space",
      space(datastore),
      actions("space", [
        {
          label: "Measure again",
          reason: needs(store.about, "runner"),
          run: () => attempt(() => measure(datastore)),
        },
      ]),
    ),
    filesView(datastore, route),
  ];
}

/** Asks the host to measure the free space, which it does on its own only now and then. */
async function measure(datastore) {
  const answer = await call("POST", path("datastores", datastore.id, "refresh"), { body: {} });
  if (answer?.capacity_bytes !== undefined) put("datastores", answer);
  say(`The free space of ${datastore.name} was measured`);
}

function listView() {
  const all = sorted("datastores");
  if (all.length === 0) return nothing("None.");
  return h(
    "ul",
    { class: "cards", role: "list", "aria-label": "Datastores" },
    all.map((datastore) =>
      h(
        "li",
        { class: "card", key: datastore.id },
        h("h2", {}, h("a", { href: link(["datastores", datastore.id]) }, datastore.name)),
        space(datastore),
      ),
    ),
  );
}

function space(datastore) {
  const { capacity_bytes: capacity, free_bytes: free } = datastore;
  const used = capacity ? Math.round(((capacity - free) / capacity) * 100) : null;
  return [
    used !== null &&
      h("meter", {
        min: 0,
        max: 100,
        high: 90,
        value: String(used),
        "aria-label": `Used space of ${datastore.name}`,
      }),
    facts([
      ["Free", free === null ? null : `${bytes(free)} of ${bytes(capacity)}`],
      ["Measured", datastore.free_bytes_at && at(datastore.free_bytes_at)],
      [
        "Promised to machines",
        datastore.uncommitted_bytes === null ? null : bytes(datastore.uncommitted_bytes),
      ],
      ["Machines", datastore.machine_count],
      ["Type", datastore.type],
      ["Accessible", datastore.accessible ? null : "no"],
    ]),
  ];
}
