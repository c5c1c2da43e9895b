// The files of leases: a list, and one file with its picture, text or player.

import { BASE, call, get, path, request } from "../api.js";
import { reload, resource } from "../data.js";
import { openDialog } from "../dialogs.js";
import { bytes } from "../format.js";
import { invalidate } from "../frame.js";
import { attempt, say } from "../messages.js";
import {
  actions,
  at,
  facts,
  leaseLink,
  loaded,
  machineLink,
  nothing,
  reference,
  section,
} from "../parts.js";
import { needs } from "../rights.js";
import { link } from "../route.js";
import { MAX_SHOWN, ownedUrl, save } from "../save.js";
import { store } from "../store.js";
import { h } from "../vdom.js";
import { windowed } from "../windowed.js";
import { filters } from "./filters.js";
import { playerView } from "./player.js";

/** Texts up to this size are shown. */
const MAX_TEXT = 1024 * 1024;

const names = new Map();

export const title = (route) =>
  route.path[1] ? (names.get(route.path[1]) ?? "Artifact") : "Artifacts";

export function view(route) {
  return route.path[1] ? artifactView(route.path[1]) : listView(route);
}

const queryOf = (route) =>
  Object.fromEntries(
    ["lease", "reference", "machine"]
      .map((name) => [name, route.query.get(name)])
      .filter(([, value]) => value),
  );

function listView(route) {
  const query = queryOf(route);
  const key = `artifacts?${new URLSearchParams(query)}`;
  const read = resource(key, (signal) => get("/v1/artifacts", { query, signal }));
  const items = read.data?.items ?? [];
  for (const { id, name } of items) names.set(id, name);
  const older = async () => {
    const page = await get("/v1/artifacts", { query: { ...query, cursor: read.data.next } });
    read.data = { ...page, items: [...read.data.items, ...page.items] };
    invalidate();
  };
  return [
    filters(
      route,
      [
        { name: "lease", label: "Lease" },
        { name: "reference", label: "Reference" },
        { name: "machine", label: "Machine" },
      ],
      read.data ? `${items.length} artifacts${read.data.next ? ", and older ones" : ""}` : "",
      h("button", { type: "button", key: "refresh", onclick: () => reload(key) }, "Refresh"),
      read.data?.next &&
        h("button", { type: "button", key: "older", onclick: () => attempt(older) }, "Load older"),
    ),
    loaded(read, () =>
      items.length === 0
        ? nothing("None.")
        : windowed({ id: key, label: "Artifacts", items, row, className: "artifact-rows" }),
    ),
  ];
}

const row = (artifact) => [
  h("span", { class: "name" }, h("a", { href: link(["artifacts", artifact.id]) }, artifact.name)),
  h("span", { class: "state" }, bytes(artifact.bytes)),
  h("span", { class: "more" }, artifact.machine_name ?? ""),
  h("span", { class: "when" }, at(artifact.created_at)),
];

function artifactView(id) {
  const read = resource(`artifact:${id}`, (signal) => get(path("artifacts", id), { signal }));
  return loaded(read, (artifact) => {
    names.set(id, artifact.name);
    return h(
      "div",
      { class: "columns" },
      section(
        "state",
        "File",
        facts([
          ["Size", bytes(artifact.bytes)],
          ["Type", artifact.content_type],
          ["Machine", artifact.machine && machineLink(artifact.machine, artifact.machine_name)],
          ["Lease", leaseLink(artifact.lease)],
          ["Reference", reference(artifact.reference)],
          [
            "Stored",
            [at(artifact.created_at), artifact.source === "otter" ? " by otter" : " by the holder"],
          ],
          ["SHA-256", h("code", {}, artifact.sha256)],
        ]),
        artifact.bytes > MAX_SHOWN &&
          h("p", {}, "It is too large for a browser: ", h("code", {}, curlLine(artifact))),
        actions("artifact", [
          artifact.bytes <= MAX_SHOWN && {
            label: "Save",
            run: () => attempt(() => save(path("artifacts", id, "content"), artifact.name)),
          },
          {
            label: "Delete",
            danger: true,
            reason: needs(store.about, "runner"),
            run: () => askDelete(artifact),
          },
        ]),
      ),
      content(artifact),
    );
  });
}

function curlLine(artifact) {
  const address = location.origin + BASE + path("artifacts", artifact.id, "content");
  return `curl -O --remote-header-name -H 'Authorization: Bearer …' '${address}'`;
}

function content(artifact) {
  const { id, name, content_type: type, bytes: length } = artifact;
  if (length > MAX_SHOWN) return null;
  const target = path("artifacts", id, "content");
  if (type.startsWith("image/")) {
    const picture = resource(`picture:${id}`, (signal) => ownedUrl(target, type, signal));
    return section(
      "content",
      "Picture",
      loaded(picture, (url) =>
        h("img", { class: "picture", src: url, alt: `The picture ${name}` }),
      ),
    );
  }
  if (type === "application/x-asciicast" || name.endsWith(".cast")) {
    const text = resource(`text:${id}`, (signal) => readText(target, signal));
    return loaded(text, (cast) => playerView(id, cast));
  }
  const isText = type === "text/plain" || type === "application/json";
  if (!isText || length > MAX_TEXT) return null;
  const text = resource(`text:${id}`, (signal) => readText(target, signal));
  return section(
    "content",
    "Text",
    loaded(text, (shown) =>
      h(
        "pre",
        { class: "text", tabindex: "0", role: "group", "aria-label": `The text of ${name}` },
        shown,
      ),
    ),
  );
}

const readText = async (target, signal) => (await request("GET", target, { signal })).text();

function askDelete(artifact) {
  openDialog({
    title: `Delete ${artifact.name}?`,
    confirm: "Delete",
    danger: true,
    text: `A file of ${artifact.machine_name ?? "a lease"}.`,
    submit: async () => {
      await call("DELETE", path("artifacts", artifact.id), { lease: artifact.lease });
      say(`${artifact.name} is deleted`);
      location.hash = link(["artifacts"], { lease: artifact.lease });
    },
  });
}
