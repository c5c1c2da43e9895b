// Small parts that all views share: problems, badges, groups of actions, lists of facts, progress.

import { BASE, address } from "./api.js";
import { h } from "./vdom.js";
import { link, viewOf } from "./route.js";
import { bytes, power, time } from "./format.js";

/** A problem of the API in its own words, with its links. `dismiss` adds a button. */
export function problemView(problem, dismiss) {
  const fault = problem.fault;
  const heading = problem.machine_name
    ? `${problem.title} (${problem.machine_name})`
    : problem.title;
  return h(
    "section",
    { class: "problem", role: "alert", "data-code": problem.code },
    h("h2", {}, heading),
    h("p", {}, problem.detail),
    (problem.errors ?? []).length > 0 &&
      h(
        "ul",
        {},
        problem.errors.map((error) =>
          h(
            "li",
            {},
            error.pointer || error.parameter
              ? [h("code", {}, error.pointer ?? error.parameter), " "]
              : null,
            error.detail === problem.detail ? error.code : error.detail,
          ),
        ),
      ),
    (problem.candidates ?? []).length > 0 &&
      h(
        "p",
        {},
        "Do you mean ",
        problem.candidates.map(({ id, name }, index) => [
          index > 0 ? ", " : "",
          name,
          " (",
          id,
          ")",
        ]),
        "?",
      ),
    problem.sent &&
      h(
        "p",
        {},
        `Sent before it stopped: ${problem.sent.events} events, `,
        `${problem.sent.characters} characters.`,
      ),
    fault &&
      h("p", {}, "The host says: ", h("q", {}, fault.message), " ", h("code", {}, fault.type)),
    problem.seen && h("pre", {}, problem.seen),
    h(
      "p",
      { class: "small" },
      h("code", {}, problem.code),
      problem.retry === "after" && " · trying again later may help",
      problem.request_id && [" · request ", h("code", {}, problem.request_id)],
    ),
    h(
      "p",
      { class: "links" },
      problemLinks(problem),
      dismiss && h("button", { type: "button", onclick: dismiss }, "Dismiss"),
    ),
  );
}

function problemLinks(problem) {
  const links = Object.entries(problem.links ?? {}).flatMap(([name, path]) => {
    const view = typeof path === "string" ? viewOf(path, BASE) : null;
    return view ? [h("a", { href: view }, name)] : [];
  });
  if (problem.type?.includes("/problems/")) {
    const page = `/problems/${encodeURIComponent(problem.code)}`;
    links.push(
      h("a", { href: address(page), target: "_blank", rel: "noreferrer" }, "What this means"),
    );
  }
  return links;
}

export const badge = (text, tone = "") => h("span", { class: `badge ${tone}` }, text);

const TONES = {
  on: "good",
  off: "",
  suspended: "warn",
  running: "busy",
  queued: "busy",
  succeeded: "good",
  failed: "bad",
  cancelled: "",
  unknown: "bad",
  preparing: "busy",
  active: "good",
  releasing: "busy",
  released: "",
  expired: "",
  revoked: "warn",
};

export const stateBadge = (state) => badge(power(state), TONES[state] ?? "");

/**
 * Buttons, and below them why some of them are forbidden.
 *
 * @param id unique in the view
 * @param list of `{label, run, reason, danger, name, id}`; `name` is for screen readers
 *   if `label` is short
 * @param shared the id of an element that has the reason, in place of a sentence below the buttons
 */
export function actions(id, list, shared = null) {
  const present = list.filter(Boolean);
  const reasons = [...new Set(present.map((action) => action.reason).filter(Boolean))];
  const buttons = present.map(({ label, run, reason, danger, name, key, id: own }) =>
    h(
      "button",
      {
        key: key ?? name ?? label,
        id: own ?? null,
        type: "button",
        class: danger ? "danger" : "",
        "aria-label": name ?? null,
        "aria-disabled": reason ? "true" : null,
        "aria-describedby": reason ? (shared ?? `why-${id}-${reasons.indexOf(reason)}`) : null,
        onclick: () => {
          if (!reason) run();
        },
      },
      label,
    ),
  );
  return [
    h("div", { class: "buttons" }, buttons),
    !shared &&
      reasons.map((reason, index) => {
        const labels = present
          .filter((action) => action.reason === reason)
          .map(({ label }) => label);
        return h(
          "p",
          { class: "why", id: `why-${id}-${index}` },
          present.length > 1 && labels.length < present.length ? `${labels.join(", ")}: ` : "",
          reason,
        );
      }),
  ];
}

/** Facts with their names; facts without a value are left out. */
export const facts = (list) =>
  h(
    "dl",
    {},
    list
      .filter(
        (fact) =>
          fact && fact[1] !== null && fact[1] !== undefined && fact[1] !== false && fact[1] !== "",
      )
      .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );

/** A section with a heading, which names it. */
export const section = (id, title, ...children) =>
  h(
    "section",
    { class: "card", "aria-labelledby": `h-${id}`, key: id },
    h("h2", { id: `h-${id}` }, title),
    ...children,
  );

export function progress(label, value) {
  const props = { max: 100, "aria-label": label };
  if (value !== null && value !== undefined) props.value = value;
  return h("progress", { ...props, key: value === null ? "unknown" : "known" });
}

export const machineLink = (id, name) =>
  id ? h("a", { href: link(["machines", id]) }, name ?? id) : (name ?? "–");
export const jobLink = (id, text) => h("a", { href: link(["jobs", id]) }, text ?? id);
export const leaseLink = (id, text) => h("a", { href: link(["leases", id]) }, text ?? id);

/** What a caller sent as `Otter-Reference`: a link if it is an address of the web. */
export function reference(text) {
  if (!text) return null;
  return /^https?:\/\/[^\s]+$/i.test(text)
    ? h("a", { href: text, target: "_blank", rel: "noreferrer noopener" }, text)
    : text;
}

/** A time, with the whole of it as a title. */
export const at = (text) => (text ? h("time", { datetime: text, title: text }, time(text)) : "–");

export const size = (count) => (count === null || count === undefined ? null : bytes(count));

export const nothing = (text) => h("p", { class: "nothing" }, text);

/** What a resource of `data.js` shows while it is loading, and if it failed. */
export function loaded(resource, show) {
  if (resource.problem) return problemView(resource.problem);
  if (resource.data === undefined) return nothing("Loading…");
  return show(resource.data);
}
