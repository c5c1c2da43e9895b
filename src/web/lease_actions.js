// What a person does with leases: take a machine, renew, give back, and use a secret that another
// tab or a script has.

import { call, path } from "./api.js";
import { openDialog } from "./dialogs.js";
import { say } from "./messages.js";
import { link } from "./route.js";
import { forgetSecret, holds, keepSecret } from "./session.js";
import { put, sorted, store } from "./store.js";

/** Asks what to take. `machine` chooses it beforehand; null: any. */
export function take(machine, snapshots = []) {
  const free = sorted("machines").filter((other) => other.free || other.id === machine?.id);
  const pools = store.pools.map(({ name }) => name);
  const none = { value: "", label: "–" };
  openDialog({
    title: machine ? `Take ${machine.name}` : "Take a machine",
    text:
      machine && !machine.free ? "It is not free now: say how long to wait in the queue." : null,
    confirm: "Take",
    fields: [
      {
        name: "machine",
        label: "Machine",
        type: "select",
        value: machine?.id ?? "",
        options: [
          { value: "", label: "Any" },
          ...free.map(({ id, name }) => ({ value: id, label: name })),
        ],
      },
      {
        name: "pool",
        label: "Pool",
        type: "select",
        options: [none, ...pools.map((name) => ({ value: name, label: name }))],
        help: "For any machine of this pool.",
      },
      { name: "ttl", label: "For", value: "1h", required: true, help: "Such as 30m, 2h or 1h30m." },
      {
        name: "queue_for",
        label: "Wait in the queue for",
        placeholder: "10m",
        help: "Empty: only if one is free now.",
      },
      snapshots.length > 0
        ? {
            name: "snapshot",
            label: "Snapshot",
            type: "select",
            options: [
              none,
              ...snapshots.map((snapshot) => ({ value: snapshot.path, label: snapshot.path })),
            ],
            help: "The machine is reverted to it first.",
          }
        : {
            name: "snapshot",
            label: "Snapshot",
            help: "Name or path; the machine is reverted to it first. Empty: as it is.",
          },
      {
        name: "power",
        label: "Power",
        type: "select",
        options: [none, { value: "on", label: "on" }, { value: "off", label: "off" }],
      },
      {
        name: "iso",
        label: "ISO",
        placeholder: "[isos] qubes.iso",
        help: "Put into its drive first. Empty: as it is.",
      },
      {
        name: "holder",
        label: "Holder",
        help: "Who uses it, for other people. Empty: the name of your token.",
      },
      { name: "record", label: "Record screen and serial ports", type: "checkbox" },
    ],
    submit: async (values) => {
      const lease = await call("POST", "/v1/leases", { body: leaseRequest(values), key: true });
      if (lease.secret) keepSecret(lease.id, lease.secret);
      put("leases", { ...lease, secret: null });
      say(lease.machine_name ? `You hold ${lease.machine_name}` : "You wait in the queue");
      location.hash = lease.machine
        ? link(["machines", lease.machine])
        : link(["leases", lease.id]);
    },
  });
}

function leaseRequest({ machine, pool, ttl, queue_for, snapshot, power, iso, holder, record }) {
  const prepare = {
    ...(snapshot ? { snapshot } : {}),
    ...(power ? { power } : {}),
    ...(iso ? { iso } : {}),
  };
  return {
    select: {
      ...(machine ? { machine } : {}),
      ...(pool ? { pool } : {}),
      ...(machine || pool ? {} : anyMachine()),
    },
    ttl,
    ...(queue_for ? { queue_for } : {}),
    ...(Object.keys(prepare).length > 0 ? { prepare } : {}),
    ...(holder ? { holder } : {}),
    ...(record ? { record: { screen: true, serial: ["*"] } } : {}),
  };
}

/** The API wants a choice: every machine has some memory. */
const anyMachine = () => ({ memory_bytes_at_least: 1 });

export function renew(lease, name) {
  openDialog({
    title: `Renew ${name}`,
    confirm: "Renew",
    fields: [
      {
        name: "ttl",
        label: "For",
        value: lease.ttl,
        required: true,
        help: "From now on, such as 30m or 2h.",
      },
    ],
    submit: async ({ ttl }) => {
      put(
        "leases",
        await call("POST", path("leases", lease.id, "renew"), { lease: lease.id, body: { ttl } }),
      );
      say(`${name} is yours for ${ttl}`);
    },
  });
}

export function giveBack(lease, name) {
  const own = holds(lease.id);
  openDialog({
    title: `Give back ${name}?`,
    confirm: "Give back",
    danger: true,
    text: own
      ? "otter powers the machine off, or does what the lease says, and then it is free for others."
      : "You do not hold it: this revokes the lease of its holder.",
    fields: own
      ? []
      : [{ name: "reason", label: "Reason", required: true, help: "The holder sees it." }],
    submit: async ({ reason }) => {
      const options = own ? { lease: lease.id } : { query: { reason } };
      put("leases", await call("DELETE", path("leases", lease.id), options));
      if (own) forgetSecret(lease.id);
      say(`${name} was given back`);
    },
  });
}

export function useSecret(lease) {
  openDialog({
    title: "Use a lease secret",
    confirm: "Use",
    text: "The caller who took the lease got its secret. With it, this tab acts as the holder.",
    fields: [
      {
        name: "secret",
        label: "Secret",
        type: "password",
        required: true,
        help: "With or without the id before it.",
      },
    ],
    submit: async ({ secret }) => {
      const given = secret.trim();
      keepSecret(
        lease.id,
        given.startsWith(`${lease.id}.`) ? given.slice(lease.id.length + 1) : given,
      );
      say("This tab uses the secret");
    },
  });
}
