// The objects that the page knows, as the API last sent them, and who wants to hear of changes.

/** Kinds of objects by id. Ended jobs and leases beyond `MAX_ENDED` are forgotten, oldest first. */
export const store = {
  about: null,
  machines: new Map(),
  jobs: new Map(),
  leases: new Map(),
  datastores: new Map(),
  /** By machine: its snapshots by id, only of machines whose snapshots were read. */
  snapshots: new Map(),
  pools: [],
  /** The state of the connection: "connecting", "live", "lost" or "signed-out". */
  connection: "connecting",
  /** When the page last heard of otter, in milliseconds. */
  heardAt: Date.now(),
  /** The problem of the last attempt to connect. */
  connectionProblem: null,
  /** Whether otter refused a token of this tab. */
  refused: false,
};

const MAX_ENDED = 2000;
const ENDED_JOB = new Set(["succeeded", "failed", "cancelled", "unknown"]);
const ENDED_LEASE = new Set(["released", "expired", "revoked", "failed"]);

export const isEndedJob = (job) => ENDED_JOB.has(job.state);
export const isEndedLease = (lease) => ENDED_LEASE.has(lease.state);

const listeners = new Set();
const cache = new Map();

/** Calls `listener` after each change: `listener(kind, object)`. */
export function onChange(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function changed(kind, object = null) {
  cache.delete(kind);
  for (const listener of listeners) listener(kind, object);
}

/** The objects of a kind in the order of lists: machines by name, jobs and leases newest first. */
export function sorted(kind) {
  if (!cache.has(kind)) cache.set(kind, [...store[kind].values()].sort(ORDER[kind]));
  return cache.get(kind);
}

const byName = (one, other) => {
  const [a, b] = [one.name.toLowerCase(), other.name.toLowerCase()];
  return a < b ? -1 : a > b ? 1 : one.id < other.id ? -1 : 1;
};
const newest = (one, other) => (one.id < other.id ? 1 : -1);
const ORDER = { machines: byName, datastores: byName, jobs: newest, leases: newest };

/** Replaces all objects of a kind. */
export function replaceAll(kind, items) {
  store[kind] = new Map(items.map((item) => [item.id, item]));
  changed(kind);
}

export function put(kind, object) {
  store[kind].set(object.id, object);
  if (kind === "jobs") forgetEnded(store.jobs, isEndedJob);
  if (kind === "leases") forgetEnded(store.leases, isEndedLease);
  changed(kind, object);
}

export function remove(kind, id) {
  if (store[kind].delete(id)) changed(kind);
}

function forgetEnded(map, isEnded) {
  if (map.size <= MAX_ENDED * 1.2) return;
  const ended = [...map.values()]
    .filter(isEnded)
    .sort((one, other) => (one.id < other.id ? -1 : 1));
  for (const object of ended.slice(0, map.size - MAX_ENDED)) map.delete(object.id);
}

/** Applies an event of `/v1/events`. */
export function apply(event) {
  const { type, id, object } = event;
  switch (type) {
    case "machine.changed":
      return put("machines", object);
    case "machine.removed":
      store.snapshots.delete(id);
      return remove("machines", id);
    case "job.changed":
      return put("jobs", object);
    case "lease.changed":
      return put("leases", { ...object, secret: null });
    case "datastore.changed":
      return put("datastores", object);
    case "datastore.removed":
      return remove("datastores", id);
    case "snapshot.changed": {
      const known = store.snapshots.get(object.machine);
      if (known) known.set(object.id, object);
      return changed("snapshots", object);
    }
    case "snapshot.removed":
      for (const known of store.snapshots.values()) known.delete(id);
      return changed("snapshots");
    case "session.changed":
      if (store.about) store.about = { ...store.about, session: object };
      return changed("about");
    default:
      return undefined;
  }
}

/** Forgets everything, for example after the token was refused. */
export function clear() {
  for (const kind of ["machines", "jobs", "leases", "datastores", "snapshots"]) {
    store[kind] = new Map();
    changed(kind);
  }
  store.about = null;
  store.pools = [];
  changed("about");
}
