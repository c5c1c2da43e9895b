// One machine: its state, what can be done, its snapshots, ports, drives and jobs.

import {
  answer,
  bootOrder,
  clearQuarantine,
  consolidate,
  createSnapshot,
  eject,
  insertIso,
  kill,
  power,
  quarantine,
} from "../actions.js";
import { get } from "../api.js";
import { resource } from "../data.js";
import { jobTitle, notFree, relative } from "../format.js";
import { giveBack, renew, take } from "../lease_actions.js";
import {
  actions,
  at,
  badge,
  facts,
  jobLink,
  leaseLink,
  nothing,
  section,
  size,
  stateBadge,
} from "../parts.js";
import { mayChange, mayEnd, mayPower, mayRenew, mayTake, needs } from "../rights.js";
import { link } from "../route.js";
import { holds } from "../session.js";
import { sorted, store } from "../store.js";
import { h } from "../vdom.js";
import { pictureSection } from "../screen/picture.js";
import { knownSnapshots, snapshotsSection } from "./snapshots.js";

export function title(route) {
  return store.machines.get(route.path[1])?.name ?? "Machine";
}

/** What this tab may do with a machine, with the lease that holds it. */
export function rightsOf(machine) {
  const lease = machine.lease ? (store.leases.get(machine.lease.id) ?? null) : null;
  const own = machine.lease ? holds(machine.lease.id) : false;
  return { lease, own, right: mayChange(store.about, machine, lease, own) };
}

export function view(route) {
  const machine = store.machines.get(route.path[1]);
  if (!machine)
    return nothing(
      store.machines.size === 0
        ? "Loading…"
        : "This machine does not exist, or you may not see it.",
    );
  const rights = rightsOf(machine);
  return h(
    "div",
    { class: "columns" },
    stateSection(machine),
    actionsSection(machine, rights),
    questionSection(machine, rights),
    pictureSection(machine),
    snapshotsSection(machine, rights.right),
    serialSection(machine),
    drivesSection(machine, rights),
    jobsSection(machine),
    leasesSection(machine),
    hardwareSection(machine),
  );
}

function stateSection(machine) {
  const { lease, quarantine: mark } = machine;
  return section(
    "state",
    "State",
    facts([
      ["Power", stateBadge(machine.power_state)],
      ["Free", machine.free ? badge("free", "good") : ["no: ", notFree(machine).join(", ")]],
      [
        "Held by",
        lease && [
          leaseLink(lease.id, lease.holder ?? lease.id),
          lease.expires_at && [
            ", ends ",
            h("time", { datetime: lease.expires_at }, relative(lease.expires_at)),
          ],
        ],
      ],
      [
        "Quarantine",
        mark && [
          mark.reason,
          h("span", { class: "small" }, ` by ${mark.by}, `, at(mark.since)),
          mark.job && [" ", jobLink(mark.job, "the job")],
        ],
      ],
      ["Running job", machine.active_job && jobLink(machine.active_job, jobOf(machine.active_job))],
      ["Address", machine.ip_addresses.length > 0 ? machine.ip_addresses.join(", ") : null],
      ["Current snapshot", currentSnapshot(machine)],
      ["Pools", machine.pools.join(", ")],
      ["Annotation", machine.annotation],
      ["Guest", machine.guest_os],
      ["Tools", machine.tools_status?.replace("_", " ")],
    ]),
  );
}

const jobOf = (id) => (store.jobs.has(id) ? jobTitle(store.jobs.get(id)) : id);

function currentSnapshot(machine) {
  if (!machine.current_snapshot) return null;
  const known = store.snapshots.get(machine.id)?.get(machine.current_snapshot);
  return known?.path ?? machine.current_snapshot;
}

function actionsSection(machine, { lease, own, right }) {
  const { about } = store;
  const may = (action) => mayPower(action, about, machine, lease, own);
  const button = (action, label) => {
    const allowed = may(action);
    return {
      label,
      reason: allowed.reason,
      danger: action !== "on",
      run: () => power(machine, allowed, action),
    };
  };
  const held = lease ?? (machine.lease && { ...machine.lease, state: "active", ttl: "1h" });
  const operator = needs(about, "operator");
  return section(
    "actions",
    "Actions",
    actions("machine", [
      button("on", "Power on"),
      button("off", "Power off"),
      button("reset", "Reset"),
      button("suspend", "Suspend"),
      button("shutdown", "Shut down"),
      button("reboot", "Reboot"),
      { label: "Kill", reason: right.reason, danger: true, run: () => kill(machine, right) },
      !held && {
        label: "Take",
        reason: mayTake(about, machine),
        run: () => take(machine, knownSnapshots(machine)),
      },
      held && { label: "Renew", reason: mayRenew(held, own), run: () => renew(held, machine.name) },
      held && {
        label: "Give back",
        reason: mayEnd(about, held, own),
        danger: true,
        run: () => giveBack(held, machine.name),
      },
      !machine.quarantine && {
        label: "Quarantine",
        reason: operator,
        danger: true,
        run: () => quarantine(machine),
      },
      machine.quarantine && {
        label: "Clear quarantine",
        reason: operator,
        run: () => clearQuarantine(machine),
      },
      { label: "New snapshot", reason: right.reason, run: () => createSnapshot(machine, right) },
      machine.consolidation_needed && {
        label: "Consolidate disks",
        reason: right.reason,
        run: () => consolidate(machine, right),
      },
    ]),
  );
}

function questionSection(machine, { right }) {
  const { question } = machine;
  if (!question) return null;
  return section(
    "question",
    "Question",
    h("p", { class: "host-text" }, question.text),
    actions(
      "question",
      question.choices.map((choice) => ({
        key: choice.key,
        label: choiceText(choice),
        reason: right.reason,
        run: () => answer(machine, right, question, choice, choiceText(choice)),
      })),
    ),
  );
}

/** What a choice says. The host marks the letter of a shortcut with an underscore. */
const choiceText = ({ label, summary }) => (summary ? summary.replace(/_(?=\S)/, "") : label);

function serialSection(machine) {
  const ports = machine.serial_ports;
  return section(
    "serial",
    "Serial ports",
    ports.length === 0
      ? nothing("It has none.")
      : h(
          "ul",
          { class: "plain", role: "list" },
          ports.map((port) =>
            h(
              "li",
              { key: port.key },
              h(
                "a",
                {
                  href: link(["machines", machine.id, "screen"], {
                    port: port.linux_device ?? port.key,
                  }),
                },
                port.linux_device ?? port.label,
              ),
              " ",
              h(
                "span",
                { class: "small" },
                [
                  port.type,
                  port.pipe_name ?? port.service_uri ?? port.file_path ?? port.device_name,
                ]
                  .filter(Boolean)
                  .join(", "),
              ),
            ),
          ),
        ),
  );
}

function drivesSection(machine, { right }) {
  // An otter without files does not send these fields.
  const { cdroms, boot } = machine;
  if (!cdroms) return null;
  const inserted = cdroms.some((drive) => drive.path);
  const reason = right.reason ?? (cdroms.length === 0 ? "The machine has no CD drive." : null);
  return section(
    "drives",
    "Drives",
    facts([
      ...cdroms.map((drive) => [
        drive.label,
        drive.path ? [drive.path, drive.connected ? "" : " (not connected)"] : "empty",
      ]),
      [
        "Boot order",
        boot && (boot.order.length > 0 ? boot.order.join(", ") : "as the firmware says"),
      ],
      ["Boot delay", boot?.delay],
    ]),
    actions("drives", [
      { label: "Insert ISO", reason, run: () => insertIso(machine, right, sorted("datastores")) },
      {
        label: "Eject",
        reason: reason ?? (inserted ? null : "The drive is empty."),
        run: () => eject(machine, right),
      },
      { label: "Boot order", reason: right.reason, run: () => bootOrder(machine, right) },
    ]),
  );
}

function jobsSection(machine) {
  const older = resource(`jobs:${machine.id}`, (signal) =>
    get("/v1/jobs", { query: { machine: machine.id, limit: 10 }, signal }),
  );
  const known = new Map((older.data?.items ?? []).map((job) => [job.id, job]));
  for (const job of store.jobs.values()) if (job.machine === machine.id) known.set(job.id, job);
  const jobs = [...known.values()].sort((one, other) => (one.id < other.id ? 1 : -1)).slice(0, 10);
  return section(
    "jobs",
    "Jobs",
    jobs.length === 0
      ? nothing("None yet.")
      : h(
          "ul",
          { class: "plain", role: "list" },
          jobs.map((job) =>
            h(
              "li",
              { key: job.id },
              jobLink(job.id, jobTitle(job)),
              " ",
              stateBadge(job.state),
              " ",
              at(job.created_at),
              job.error && h("span", { class: "reason" }, ` ${job.error.detail}`),
            ),
          ),
        ),
  );
}

function leasesSection(machine) {
  const older = resource(`leases:${machine.id}`, (signal) =>
    get("/v1/leases", { query: { machine: machine.id, limit: 10 }, signal }),
  );
  const known = new Map((older.data?.items ?? []).map((lease) => [lease.id, lease]));
  for (const lease of store.leases.values())
    if (lease.machine === machine.id) known.set(lease.id, lease);
  const leases = [...known.values()]
    .sort((one, other) => (one.id < other.id ? 1 : -1))
    .slice(0, 10);
  return section(
    "leases",
    "Leases",
    leases.length === 0
      ? nothing("None yet.")
      : h(
          "ul",
          { class: "plain", role: "list" },
          leases.map((lease) =>
            h(
              "li",
              { key: lease.id },
              leaseLink(lease.id, lease.holder),
              " ",
              stateBadge(lease.state),
              " ",
              at(lease.created_at),
            ),
          ),
        ),
  );
}

function hardwareSection(machine) {
  return section(
    "hardware",
    "Hardware",
    facts([
      ["Processors", machine.cpu_count],
      ["Memory", size(machine.memory_bytes)],
      ["Storage", size(machine.storage_bytes)],
      [
        "Nested virtualization",
        machine.nested_virtualization === null
          ? null
          : machine.nested_virtualization
            ? "yes"
            : "no",
      ],
      ["Id", machine.id],
      ["UUID", machine.uuid],
      ["BIOS UUID", machine.bios_uuid],
      ["Path", machine.path],
      ["Connection", machine.connection_state],
      ...machine.network_cards.map((card) => [
        card.label,
        [card.type, card.mac_address, card.network, card.connected ? "connected" : "not connected"]
          .filter(Boolean)
          .join(", "),
      ]),
    ]),
    h("p", {}, h("a", { href: link(["artifacts"], { machine: machine.id }) }, "Artifacts")),
  );
}
