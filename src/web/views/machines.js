// The list of machines, with search and filters.

import { notFree, relative } from "../format.js";
import { badge, machineLink, stateBadge } from "../parts.js";
import { sorted, store } from "../store.js";
import { h } from "../vdom.js";
import { windowed } from "../windowed.js";
import { filters, finds } from "./filters.js";
import { isBroken, why } from "./overview.js";

const STATES = {
  held: (machine) => Boolean(machine.lease),
  broken: isBroken,
  busy: (machine) =>
    machine.not_free_because.some((reason) => ["job", "host_task", "releasing"].includes(reason)),
};

export const title = () => "Machines";

export function view(route) {
  const wanted = (name) => route.query.get(name) ?? "";
  const all = sorted("machines");
  const shown = all.filter(
    (machine) =>
      finds(wanted("name"), machine.name, machine.id, machine.annotation, machine.lease?.holder) &&
      (wanted("power") === "" || machine.power_state === wanted("power")) &&
      (wanted("free") === "" || String(machine.free) === wanted("free")) &&
      (wanted("pool") === "" || machine.pools.includes(wanted("pool"))) &&
      (STATES[wanted("state")]?.(machine) ?? true),
  );
  const pools = [
    ...new Set(
      store.pools.map(({ name }) => name).concat(all.flatMap(({ pools: names }) => names)),
    ),
  ].sort();
  return [
    filters(
      route,
      [
        { name: "name", label: "Search" },
        {
          name: "power",
          label: "Power",
          options: [
            ["on", "on"],
            ["off", "off"],
            ["suspended", "suspended"],
          ],
        },
        {
          name: "free",
          label: "Free",
          options: [
            ["true", "free"],
            ["false", "not free"],
          ],
        },
        {
          name: "state",
          label: "State",
          options: [
            ["held", "held"],
            ["broken", "broken"],
            ["busy", "busy"],
          ],
        },
        { name: "pool", label: "Pool", options: pools.map((name) => [name, name]) },
      ],
      `${shown.length} of ${all.length} machines`,
    ),
    windowed({ id: "machines", label: "Machines", items: shown, row, className: "machine-rows" }),
  ];
}

function row(machine) {
  return [
    h("span", { class: "name" }, machineLink(machine.id, machine.name)),
    h("span", { class: "power" }, stateBadge(machine.power_state)),
    h(
      "span",
      { class: "state" },
      machine.free
        ? badge("free", "good")
        : badge(notFree(machine).join(", ") || "not free", isBroken(machine) ? "bad" : ""),
    ),
    h(
      "span",
      { class: "more" },
      machine.lease
        ? [
            `held by ${machine.lease.holder ?? "another"}`,
            machine.lease.expires_at ? `, ends ${relative(machine.lease.expires_at)}` : "",
          ]
        : isBroken(machine)
          ? why(machine)
          : (machine.ip_address ?? ""),
    ),
  ];
}
