// The list of leases, newest first, and one lease with its history.

import { get, path } from "../api.js";
import { resource } from "../data.js";
import { ahead, relative, words } from "../format.js";
import { giveBack, renew, take, useSecret } from "../lease_actions.js";
import {
  actions,
  at,
  facts,
  jobLink,
  leaseLink,
  loaded,
  machineLink,
  reference,
  section,
  stateBadge,
} from "../parts.js";
import { mayEnd, mayRenew, mayTake } from "../rights.js";
import { link } from "../route.js";
import { holds } from "../session.js";
import { isEndedLease, sorted, store } from "../store.js";
import { h } from "../vdom.js";
import { windowed } from "../windowed.js";
import { filters, finds } from "./filters.js";
import { loadOlder } from "./paged.js";

const STATES = [
  "queued",
  "preparing",
  "active",
  "releasing",
  "released",
  "expired",
  "revoked",
  "failed",
];

const nameOf = (lease) => lease.machine_name ?? lease.machine;

export const title = (route) => {
  if (!route.path[1]) return "Leases";
  const lease = store.leases.get(route.path[1]);
  if (!lease) return "Lease";
  return nameOf(lease) ? `Lease of ${nameOf(lease)}` : "Queued lease";
};

export function view(route) {
  return route.path[1] ? leaseView(route.path[1]) : listView(route);
}

function listView(route) {
  const wanted = (name) => route.query.get(name) ?? "";
  const all = sorted("leases");
  const shown = all.filter(
    (lease) =>
      (wanted("state") === "" || lease.state === wanted("state")) &&
      (wanted("pool") === "" ||
        lease.pool === wanted("pool") ||
        lease.select.pool === wanted("pool")) &&
      finds(
        wanted("text"),
        lease.holder,
        lease.id,
        lease.machine_name,
        lease.requested_by,
        lease.reference,
      ),
  );
  const query = wanted("state") ? { state: wanted("state") } : {};
  return [
    filters(
      route,
      [
        { name: "text", label: "Search" },
        { name: "state", label: "State", options: STATES.map((state) => [state, state]) },
        { name: "pool", label: "Pool", options: store.pools.map(({ name }) => [name, name]) },
      ],
      `${shown.length} of ${all.length} leases that were read`,
      loadOlder("leases", query),
    ),
    actions("take", [
      { label: "Take a machine", reason: mayTake(store.about, null), run: () => take(null) },
    ]),
    windowed({ id: "leases", label: "Leases", items: shown, row, className: "lease-rows" }),
  ];
}

const row = (lease) => [
  h("span", { class: "name" }, leaseLink(lease.id, lease.holder)),
  h("span", { class: "state" }, stateBadge(lease.state)),
  h(
    "span",
    { class: "more" },
    lease.machine
      ? machineLink(lease.machine, nameOf(lease))
      : lease.state === "queued"
        ? (ahead(lease.position) ?? "")
        : "",
  ),
  h(
    "span",
    { class: "when" },
    lease.end
      ? words(lease.end.reason)
      : lease.expires_at
        ? `ends ${relative(lease.expires_at)}`
        : at(lease.created_at),
  ),
];

function leaseView(id) {
  const known = store.leases.get(id);
  if (known) return show(known);
  return loaded(
    resource(`lease:${id}`, async (signal) => {
      const lease = await get(path("leases", id), { signal });
      store.leases.set(id, lease);
      return lease;
    }),
    show,
  );
}

function show(lease) {
  const own = holds(lease.id);
  const name = nameOf(lease) ?? "the queued lease";
  const { end } = lease;
  return h(
    "div",
    { class: "columns" },
    section(
      "state",
      "State",
      facts([
        ["State", stateBadge(lease.state)],
        ["Machine", lease.machine && machineLink(lease.machine, nameOf(lease))],
        ["Holder", lease.holder],
        ["This tab", own ? "has its secret" : null],
        ["Requested by", lease.requested_by],
        ["Reference", reference(lease.reference)],
        ["Pool", lease.pool],
        ["Asks for", selectText(lease.select)],
        ["In the queue", ahead(lease.position)],
        ["Waits for", lease.blocked_by?.detail],
        ["Created", at(lease.created_at)],
        ["Active since", lease.active_at && at(lease.active_at)],
        [
          "Ends",
          !isEndedLease(lease) &&
            lease.expires_at && [at(lease.expires_at), ` (${relative(lease.expires_at)})`],
        ],
        ["Kept", lease.kept_at && ["for a look since ", at(lease.kept_at)]],
        ["Prepared with", lease.prepare && fields(lease.prepare)],
        ["Afterwards", fields(lease.release)],
        ["Records", lease.record && fields(lease.record)],
        ["Job", lease.job && jobLink(lease.job)],
        [
          "Ended",
          end && [
            words(end.reason),
            ` by ${end.by}, `,
            at(end.at),
            end.detail && `: ${end.detail}`,
          ],
        ],
      ]),
      lease.warnings.map((warning) => h("p", { class: "warning" }, warning)),
      actions("lease", [
        { label: "Renew", reason: mayRenew(lease, own), run: () => renew(lease, name) },
        {
          label: "Give back",
          reason: mayEnd(store.about, lease, own),
          danger: true,
          run: () => giveBack(lease, name),
        },
        !own && {
          label: "Use its secret",
          reason: isEndedLease(lease) ? "The lease has ended." : null,
          run: () => useSecret(lease),
        },
      ]),
      h("p", {}, h("a", { href: link(["artifacts"], { lease: lease.id }) }, "Artifacts")),
    ),
    section(
      "history",
      "History",
      h(
        "ol",
        { class: "steps", "aria-label": "History" },
        lease.history.map((entry, index) =>
          h("li", { key: index }, at(entry.at), " ", h("span", { class: "host-text" }, entry.what)),
        ),
      ),
    ),
  );
}

function selectText(select) {
  return Object.entries(select ?? {})
    .filter(([, value]) => value !== null && !(Array.isArray(value) && value.length === 0))
    .map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`)
    .join(", ");
}

const fields = (object) =>
  Object.entries(object)
    .filter(
      ([, value]) =>
        value !== null && value !== false && !(Array.isArray(value) && value.length === 0),
    )
    .map(([name, value]) => (value === true ? name : `${name.replaceAll("_", " ")}: ${value}`))
    .join(", ");
