// Texts for people: times, durations, sizes, and the names of states and kinds.

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** A time of the API, such as "14:03:59", with the date if it is another day. */
export function time(text, now = new Date()) {
  if (!text) return "–";
  const at = new Date(text);
  return at.toDateString() === now.toDateString() ? clock.format(at) : full.format(at);
}

/** A number of seconds in its two largest units: "2 h 5 min". */
export function seconds(count) {
  const units = [
    ["d", 86400],
    ["h", 3600],
    ["min", 60],
    ["s", 1],
  ];
  let rest = Math.max(0, Math.round(count));
  const first = units.findIndex(([, size]) => rest >= size);
  if (first < 0) return "0 s";
  const parts = [];
  for (const [name, size] of units.slice(first, first + 2)) {
    const number = Math.floor(rest / size);
    if (number > 0) parts.push(`${number} ${name}`);
    rest %= size;
  }
  return parts.join(" ");
}

/** The time between two times of the API: "12 s". */
export const between = (from, to) => seconds((new Date(to) - new Date(from)) / 1000);

/** "in 5 min", "3 min ago". */
export function relative(text, now = Date.now()) {
  if (!text) return "–";
  const left = (new Date(text).getTime() - now) / 1000;
  if (Math.abs(left) < 1) return "now";
  return left > 0 ? `in ${seconds(left)}` : `${seconds(-left)} ago`;
}

/** A place in a queue: the API counts those before it. */
export function ahead(position) {
  if (position === null || position === undefined) return null;
  return position === 0 ? "next" : `${position} before it`;
}

/** "1.5 GiB". */
export function bytes(count) {
  if (count === null || count === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let index = 0;
  let value = count;
  while (value >= 1024 && index < units.length - 1) {
    value /= 1024;
    index += 1;
  }
  return `${value >= 100 || index === 0 ? Math.round(value) : value.toFixed(1)} ${units[index]}`;
}

const KINDS = {
  "machine.power_on": "Power on",
  "machine.power_off": "Power off",
  "machine.reset": "Reset",
  "machine.suspend": "Suspend",
  "machine.shutdown": "Shut down",
  "machine.reboot": "Reboot",
  "machine.kill": "Kill",
  "machine.answer": "Answer",
  "machine.consolidate": "Consolidate disks",
  "machine.media": "Media",
  "machine.boot": "Boot order",
  "snapshot.create": "New snapshot",
  "snapshot.revert": "Revert",
  "snapshot.remove": "Remove snapshot",
  "snapshot.remove_all": "Remove all snapshots",
  "snapshot.rename": "Rename snapshot",
  "lease.prepare": "Prepare",
  "lease.release": "Release",
  "file.upload": "Upload",
  "file.delete": "Delete file",
  "file.create_folder": "New folder",
};

/** The kind of a job in words; a kind of a later otter as it is. */
export const kind = (name) => KINDS[name] ?? name;
export const KNOWN_KINDS = Object.keys(KINDS);

/** "Power on of qubes-1", "Upload of [isos] a.iso". */
export const jobTitle = (job) =>
  `${kind(job.kind)} of ${job.machine_name ?? fileOf(job) ?? job.machine ?? "a file"}`;

/** The file of a job on files, such as "[isos] a.iso"; null for a job on a machine. */
export function fileOf({ target }) {
  if (!target) return null;
  const { datastore, datastore_name: name, path } = target;
  return path.startsWith("[") ? path : `[${name ?? datastore}] ${path}`;
}

const REASONS = {
  powered_on: "on",
  suspended: "suspended",
  power_unknown: "power unknown",
  template: "template",
  not_connected: "not connected",
  question: "asks a question",
  leased: "held",
  quarantined: "quarantined",
  releasing: "being released",
  job: "a job runs",
  host_task: "the host works on it",
  self: "otter runs in it",
  protected: "protected",
};

/** Why a machine is not free, in words. */
export const notFree = (machine) => machine.not_free_because.map((code) => REASONS[code] ?? code);

/** The power state in words. */
export const power = (state) => state ?? "unknown";

/** A text of the API in words: "prepare-failed" is "prepare failed". */
export const words = (code) => code.replaceAll(/[-_]/g, " ");
