// The overview: what is free, held and broken and why, who waits, what runs, and whether the host
// is there.

import { ahead, bytes, jobTitle, notFree, relative } from "../format.js";
import { take } from "../lease_actions.js";
import {
  actions,
  at,
  facts,
  jobLink,
  leaseLink,
  machineLink,
  nothing,
  progress,
  section,
  stateBadge,
} from "../parts.js";
import { mayTake } from "../rights.js";
import { link } from "../route.js";
import { sorted, store } from "../store.js";
import { h } from "../vdom.js";

/** The number of entries of a list here; the views have all of them. */
const FEW = 8;

const BROKEN = new Set(["quarantined", "not_connected", "power_unknown", "question"]);

/** Whether somebody has to look at a machine. */
export const isBroken = (machine) => machine.not_free_because.some((reason) => BROKEN.has(reason));

export function title() {
  return "Overview";
}

export function view() {
  const machines = sorted("machines");
  const broken = machines.filter(isBroken);
  const leases = sorted("leases");
  const jobs = sorted("jobs");
  const running = jobs.filter((job) => job.state === "running" || job.state === "queued");
  const failed = jobs.filter((job) => job.state === "failed" || job.state === "unknown");
  const waiting = leases.filter((lease) => lease.state === "queued");
  return h(
    "div",
    { class: "columns" },
    machinesSection(machines, broken),
    section(
      "broken",
      "Broken machines",
      broken.length === 0
        ? nothing("None.")
        : few(
            broken,
            (machine) => [
              machineLink(machine.id, machine.name),
              " ",
              h("span", { class: "reason" }, why(machine)),
            ],
            "machines",
          ),
    ),
    section(
      "waiting",
      "Waiting",
      waiting.length === 0 ? nothing("No one waits.") : few(waiting, waitingLease, "leases"),
    ),
    section(
      "running",
      "Running",
      running.length === 0 ? nothing("Nothing runs.") : few(running, runningJob, "jobs"),
    ),
    section(
      "failed",
      "Failed lately",
      failed.length === 0
        ? nothing("Nothing failed lately.")
        : few(
            failed,
            (job) => [
              jobLink(job.id, jobTitle(job)),
              " ",
              at(job.finished_at),
              " ",
              h("span", { class: "reason" }, job.error?.detail ?? job.state),
            ],
            "jobs",
          ),
    ),
    hostSection(),
  );
}

function machinesSection(machines, broken) {
  const count = (test) => machines.filter(test).length;
  const tile = (number, text, query) =>
    h("li", {}, h("a", { href: link(["machines"], query) }, h("strong", {}, number), ` ${text}`));
  const held = count((machine) => machine.lease);
  const busy = count((machine) =>
    machine.not_free_because.some((reason) => ["job", "host_task", "releasing"].includes(reason)),
  );
  return section(
    "machines",
    "Machines",
    h(
      "ul",
      { class: "tiles", role: "list" },
      tile(
        count((machine) => machine.free),
        "free",
        { free: "true" },
      ),
      tile(held, "held", { state: "held" }),
      tile(broken.length, "broken", { state: "broken" }),
      tile(busy, "busy", { state: "busy" }),
      tile(machines.length, machines.length === 1 ? "machine" : "machines", {}),
    ),
    actions("take", [
      { label: "Take a machine", reason: mayTake(store.about, null), run: () => take(null) },
    ]),
  );
}

/** Why a machine is broken. */
export function why(machine) {
  if (machine.quarantine) return `quarantined: ${machine.quarantine.reason}`;
  if (machine.question) return `asks: ${machine.question.text}`;
  return notFree(machine).join(", ");
}

function few(items, show, kind) {
  return [
    h(
      "ul",
      { class: "plain", role: "list" },
      items.slice(0, FEW).map((item) => h("li", { key: item.id }, show(item))),
    ),
    items.length > FEW &&
      h("p", {}, h("a", { href: link([kind]) }, `and ${items.length - FEW} more`)),
  ];
}

const waitingLease = (lease) => [
  leaseLink(lease.id, lease.holder),
  " ",
  h(
    "span",
    { class: "reason" },
    `${ahead(lease.position) ?? "waits"}, since ${relative(lease.created_at)}`,
    lease.blocked_by ? `: ${lease.blocked_by.detail}` : "",
  ),
];

const runningJob = (job) => [
  jobLink(job.id, jobTitle(job)),
  " ",
  stateBadge(job.state),
  " ",
  job.state === "running" && progress(`Progress of ${jobTitle(job)}`, job.progress),
  " ",
  h("span", { class: "reason" }, job.blocked_by?.detail ?? job.phase),
];

function hostSection() {
  const about = store.about;
  if (!about) return section("host", "Host", nothing("otter did not answer yet."));
  const { session, host } = about;
  const memory = host?.running_memory_bytes;
  return section(
    "host",
    "Host",
    facts([
      [
        "Connection",
        [
          session.state === "connected" ? "connected" : session.state.replace("_", " "),
          ", ",
          "since ",
          at(session.since),
        ],
      ],
      ["Reason", session.reason],
      ["Product", host?.product],
      [
        "Running",
        host?.running_count !== null &&
          host?.running_count !== undefined &&
          `${host.running_count}${host.max_running ? ` of ${host.max_running}` : ""} machines`,
      ],
      [
        "Memory",
        memory !== null &&
          memory !== undefined &&
          `${bytes(memory)}${host.max_memory_bytes ? ` of ${bytes(host.max_memory_bytes)}` : ""}`,
      ],
      ["otter", about.version],
    ]),
    about.warnings.map((warning) => h("p", { class: "warning" }, warning)),
    sorted("datastores").map((datastore) =>
      h(
        "p",
        { key: datastore.id },
        h("a", { href: link(["datastores", datastore.id]) }, datastore.name),
        ` ${bytes(datastore.free_bytes)} free`,
      ),
    ),
  );
}
