// What a person does to a machine and its snapshots: each action asks first if it is dangerous,
// names the machine, and starts a job through the API.

import { call, path } from "./api.js";
import { OVERRIDE_FIELD, openDialog } from "./dialogs.js";
import { attempt, follow, say } from "./messages.js";
import { put } from "./store.js";

/** The options of a call that changes a machine: its lease of this tab, or the override. */
const authority = (machine, override) => ({ lease: machine.lease?.id, override, key: true });

/** Starts a job, after a dialog if there is one. */
function start({ machine, right, title, text, confirm, danger, fields = [], request }) {
  const all = right.override ? [...fields, OVERRIDE_FIELD] : fields;
  const send = async (values) => {
    const { method, target, query, body } = request(values);
    const options = { ...authority(machine, values.override), query, body };
    follow(await call(method, target, options));
  };
  if (title || right.override) {
    openDialog({
      title: title ?? `${confirm} ${machine.name}?`,
      text,
      fields: all,
      confirm,
      danger,
      submit: send,
    });
  } else {
    attempt(() => send({}));
  }
}

const POWER = {
  on: { confirm: "Power on" },
  off: { confirm: "Power off", text: "The machine stops at once, as if its plug was pulled." },
  reset: {
    confirm: "Reset",
    text: "The machine starts again at once, as if its reset button was pressed.",
  },
  suspend: { confirm: "Suspend", text: "The memory of the machine is kept, and it stops." },
  shutdown: {
    confirm: "Shut down",
    text: "The guest is asked to shut down. This needs its tools.",
  },
  reboot: { confirm: "Reboot", text: "The guest is asked to reboot. This needs its tools." },
};

export function power(machine, right, action) {
  const { confirm, text } = POWER[action];
  const fields =
    action === "shutdown"
      ? [
          {
            name: "force_after",
            label: "Power off after",
            placeholder: "5m",
            help: "If the guest does not shut down in this time. Empty: never.",
          },
        ]
      : [];
  start({
    machine,
    right,
    text,
    confirm,
    fields,
    danger: action !== "on",
    title: action === "on" ? null : `${confirm} ${machine.name}?`,
    request: ({ force_after }) => ({
      method: "POST",
      target: path("machines", machine.id, "power"),
      body: force_after ? { action, force_after } : { action },
    }),
  });
}

export function kill(machine, right) {
  start({
    machine,
    right,
    title: `Kill ${machine.name}?`,
    confirm: "Kill",
    danger: true,
    text: "The machine is powered off before all that is queued; what runs on it is asked to stop.",
    request: () => ({ method: "POST", target: "/v1/machines/kill", body: { name: machine.name } }),
  });
}

export function consolidate(machine, right) {
  start({
    machine,
    right,
    title: `Consolidate the disks of ${machine.name}?`,
    confirm: "Consolidate",
    text: "The host merges disks that a removed snapshot left behind. This can take long.",
    request: () => ({
      method: "POST",
      target: path("machines", machine.id, "consolidate"),
      body: {},
    }),
  });
}

export function answer(machine, right, question, choice, text) {
  start({
    machine,
    right,
    confirm: "Answer",
    title: right.override ? `Answer “${text}” on ${machine.name}?` : null,
    request: () => ({
      method: "POST",
      target: path("machines", machine.id, "answer"),
      body: { question: question.id, choice: choice.key },
    }),
  });
}

export function revert(machine, right, snapshot) {
  start({
    machine,
    right,
    title: `Revert ${machine.name} to ${snapshot.path}?`,
    confirm: "Revert",
    danger: true,
    text: "What the machine's disks and memory hold now is lost.",
    fields: [
      {
        name: "power",
        label: "Afterwards",
        type: "select",
        options: [
          { value: "", label: "as the snapshot says" },
          { value: "on", label: "on" },
          { value: "off", label: "off" },
        ],
      },
    ],
    request: ({ power: after }) => ({
      method: "POST",
      target: path("machines", machine.id, "snapshots", snapshot.id, "revert"),
      body: after ? { power_on: after === "on" } : {},
    }),
  });
}

export function createSnapshot(machine, right) {
  start({
    machine,
    right,
    title: `New snapshot of ${machine.name}`,
    confirm: "Create",
    fields: [
      { name: "name", label: "Name", required: true },
      { name: "description", label: "Description" },
      { name: "memory", label: "With memory", type: "checkbox" },
      {
        name: "quiesce",
        label: "Quiesce",
        type: "checkbox",
        help: "The guest's tools write all files first.",
      },
    ],
    request: ({ name, description, memory, quiesce }) => ({
      method: "POST",
      target: path("machines", machine.id, "snapshots"),
      body: { name, ...(description ? { description } : {}), memory, quiesce },
    }),
  });
}

export function renameSnapshot(machine, right, snapshot) {
  const fields = [
    { name: "name", label: "Name", value: snapshot.name, required: true },
    { name: "description", label: "Description", value: snapshot.description },
  ];
  openDialog({
    title: `Rename ${snapshot.path}`,
    confirm: "Rename",
    fields: right.override ? [...fields, OVERRIDE_FIELD] : fields,
    submit: async ({ name, description, override }) => {
      const target = path("machines", machine.id, "snapshots", snapshot.id);
      await call("PATCH", target, { ...authority(machine, override), body: { name, description } });
      say(`Renamed ${snapshot.path}`);
    },
  });
}

export function removeSnapshot(machine, right, snapshot) {
  start({
    machine,
    right,
    title: `Remove ${snapshot.path} of ${machine.name}?`,
    confirm: "Remove",
    danger: true,
    text: "The state that it keeps is gone for ever; the machine itself does not change.",
    fields:
      snapshot.children.length > 0
        ? [{ name: "children", label: "And all snapshots below it", type: "checkbox" }]
        : [],
    request: ({ children }) => ({
      method: "DELETE",
      target: path("machines", machine.id, "snapshots", snapshot.id),
      query: children ? { children: "true" } : {},
    }),
  });
}

export function removeAllSnapshots(machine, right) {
  start({
    machine,
    right,
    title: `Remove all snapshots of ${machine.name}?`,
    confirm: "Remove",
    danger: true,
    text: "All states that the snapshots keep are gone for ever. The machine does not change.",
    request: () => ({
      method: "DELETE",
      target: path("machines", machine.id, "snapshots"),
      query: { all: "true" },
    }),
  });
}

export function quarantine(machine) {
  openDialog({
    title: `Quarantine ${machine.name}`,
    confirm: "Quarantine",
    danger: true,
    text: "No lease gets the machine until the quarantine is cleared.",
    fields: [{ name: "reason", label: "Reason", required: true }],
    submit: async ({ reason }) => {
      put(
        "machines",
        await call("PUT", path("machines", machine.id, "quarantine"), { body: { reason } }),
      );
      say(`${machine.name} is quarantined`);
    },
  });
}

export function clearQuarantine(machine) {
  openDialog({
    title: `Clear the quarantine of ${machine.name}?`,
    confirm: "Clear",
    text: `Its reason: ${machine.quarantine?.reason ?? "unknown"}`,
    submit: async () => {
      put("machines", await call("DELETE", path("machines", machine.id, "quarantine")));
      say(`The quarantine of ${machine.name} is cleared`);
    },
  });
}

export function insertIso(machine, right, datastores) {
  start({
    machine,
    right,
    title: `Insert an ISO into ${machine.name}`,
    confirm: "Insert",
    fields: [
      {
        name: "datastore",
        label: "Datastore",
        type: "select",
        options: datastores.map(({ name }) => ({ value: name, label: name })),
      },
      { name: "path", label: "Path", required: true, placeholder: "iso/qubes.iso" },
    ],
    request: ({ datastore, path: file }) => ({
      method: "PUT",
      target: path("machines", machine.id, "cdrom"),
      body: { iso: `[${datastore}] ${file}` },
    }),
  });
}

export function eject(machine, right) {
  start({
    machine,
    right,
    confirm: "Eject",
    request: () => ({ method: "DELETE", target: path("machines", machine.id, "cdrom") }),
  });
}

export function bootOrder(machine, right) {
  start({
    machine,
    right,
    title: `Boot order of ${machine.name}`,
    confirm: "Set",
    fields: [
      {
        name: "order",
        label: "Order",
        value: (machine.boot?.order ?? []).join(", "),
        placeholder: "cdrom, disk, network",
        help: "Of cdrom, disk and network, the first one first. Empty: the firmware chooses.",
      },
      {
        name: "delay",
        label: "Delay",
        placeholder: "5s",
        help: "How long the firmware waits. Empty: as it is.",
      },
    ],
    request: ({ order, delay }) => ({
      method: "PUT",
      target: path("machines", machine.id, "boot"),
      body: { order: order.split(/[\s,]+/).filter(Boolean), ...(delay ? { delay } : {}) },
    }),
  });
}

export function cancelJob(job, title) {
  openDialog({
    title: "Cancel the job?",
    text: title,
    confirm: "Cancel job",
    danger: true,
    submit: async () => follow(await call("POST", path("jobs", job.id, "cancel"), { body: {} })),
  });
}
