// The list of jobs, newest first, and one job with its progress and steps.

import { cancelJob } from "../actions.js";
import { get, path } from "../api.js";
import { resource } from "../data.js";
import { KNOWN_KINDS, ahead, between, fileOf, jobTitle, kind, seconds } from "../format.js";
import {
  actions,
  at,
  facts,
  jobLink,
  leaseLink,
  loaded,
  machineLink,
  problemView,
  progress,
  reference,
  section,
  stateBadge,
} from "../parts.js";
import { mayCancel } from "../rights.js";
import { isEndedJob, sorted, store } from "../store.js";
import { h } from "../vdom.js";
import { windowed } from "../windowed.js";
import { filters, finds } from "./filters.js";
import { loadOlder } from "./paged.js";

const STATES = ["queued", "running", "succeeded", "failed", "cancelled", "unknown"];

export const title = (route) => {
  if (!route.path[1]) return "Jobs";
  const job = store.jobs.get(route.path[1]);
  return job ? jobTitle(job) : "Job";
};

export function view(route) {
  return route.path[1] ? jobView(route.path[1]) : listView(route);
}

function listView(route) {
  const wanted = (name) => route.query.get(name) ?? "";
  const all = sorted("jobs");
  const shown = all.filter(
    (job) =>
      (wanted("state") === "" || job.state === wanted("state")) &&
      (wanted("kind") === "" || job.kind === wanted("kind")) &&
      (wanted("reference") === "" || job.reference === wanted("reference")) &&
      finds(
        wanted("text"),
        jobTitle(job),
        job.id,
        job.requested_by,
        job.reference,
        job.error?.code,
      ),
  );
  const query = Object.fromEntries(
    ["state", "kind", "reference"].map((name) => [name, wanted(name)]).filter(([, value]) => value),
  );
  const kinds = [...new Set([...KNOWN_KINDS, ...all.map((job) => job.kind)])];
  return [
    filters(
      route,
      [
        { name: "text", label: "Search" },
        { name: "state", label: "State", options: STATES.map((state) => [state, state]) },
        { name: "kind", label: "Kind", options: kinds.map((name) => [name, kind(name)]) },
      ],
      `${shown.length} of ${all.length} jobs that were read`,
      loadOlder("jobs", query),
    ),
    windowed({ id: "jobs", label: "Jobs", items: shown, row, className: "job-rows" }),
  ];
}

const row = (job) => [
  h("span", { class: "name" }, jobLink(job.id, jobTitle(job))),
  h("span", { class: "state" }, stateBadge(job.state)),
  h(
    "span",
    { class: "more" },
    job.state === "running"
      ? progress(`Progress of ${jobTitle(job)}`, job.progress)
      : (job.error?.detail ?? job.blocked_by?.detail ?? ""),
  ),
  h("span", { class: "when" }, at(job.created_at)),
];

function jobView(id) {
  const known = store.jobs.get(id);
  if (known) return show(known);
  return loaded(
    resource(`job:${id}`, async (signal) => {
      const job = await get(path("jobs", id), { signal });
      store.jobs.set(id, job);
      return job;
    }),
    show,
  );
}

function show(job) {
  const { result, request } = job;
  const asked = Object.entries(request ?? {})
    .filter(([, value]) => value !== null && value !== "")
    .map(([name, value]) => `${name.replaceAll("_", " ")}: ${value}`)
    .join(", ");
  return h(
    "div",
    { class: "columns" },
    section(
      "state",
      "State",
      facts([
        ["State", stateBadge(job.state)],
        ["Machine", job.machine && machineLink(job.machine, job.machine_name)],
        ["File", fileOf(job)],
        ["Phase", !isEndedJob(job) && job.phase],
        ["In the queue", ahead(job.position)],
        ["Waits for", job.blocked_by?.detail],
        ["Asked for", asked],
        ["Requested by", job.requested_by],
        ["Reference", reference(job.reference)],
        ["Lease", job.lease && leaseLink(job.lease)],
        ["Created", at(job.created_at)],
        ["Started", job.started_at && at(job.started_at)],
        [
          "Ended",
          job.finished_at && [
            at(job.finished_at),
            job.started_at && ` after ${between(job.started_at, job.finished_at)}`,
          ],
        ],
        ["Deadline", !isEndedJob(job) && at(job.deadline_at)],
        ["Cancelled", job.cancel_requested_at && ["asked for at ", at(job.cancel_requested_at)]],
        ["Result", result && resultText(result)],
        ["Task of the host", job.host_task],
      ]),
      job.state === "running" && progress("Progress", job.progress),
      job.warnings.map((warning) => h("p", { class: "warning" }, warning)),
      actions("job", [
        {
          label: "Cancel job",
          reason: mayCancel(store.about, job),
          danger: true,
          run: () => cancelJob(job, jobTitle(job)),
        },
      ]),
    ),
    job.error && section("error", "Why it failed", problemView(job.error)),
    section(
      "steps",
      "Steps",
      h(
        "ol",
        { class: "steps", "aria-label": "Steps" },
        job.steps.map((step, index) =>
          h(
            "li",
            { key: index },
            h("strong", {}, step.name.replaceAll("_", " ")),
            " ",
            stateBadge(step.state),
            " ",
            step.started_at &&
              h(
                "span",
                { class: "small" },
                at(step.started_at),
                step.finished_at
                  ? `, ${seconds((new Date(step.finished_at) - new Date(step.started_at)) / 1000)}`
                  : "",
              ),
            step.detail && h("p", { class: "host-text small" }, step.detail),
          ),
        ),
      ),
    ),
  );
}

function resultText(result) {
  const parts = Object.entries(result)
    .filter(([, value]) => value !== null)
    .map(
      ([name, value]) =>
        `${name.replaceAll("_", " ")}: ${value === true ? "yes" : value === false ? "no" : value}`,
    );
  return parts.join(", ");
}
