// The files of a folder of a datastore: save, delete, and upload by drop.

import { call, get, path } from "../api.js";
import { reload, resource } from "../data.js";
import { openDialog } from "../dialogs.js";
import { bytes } from "../format.js";
import { invalidate } from "../frame.js";
import { attempt, follow, say, showProblem } from "../messages.js";
import { actions, at, loaded, nothing, section } from "../parts.js";
import { needs } from "../rights.js";
import { link } from "../route.js";
import { MAX_SHOWN, save } from "../save.js";
import { onChange, store } from "../store.js";
import { upload } from "../upload.js";
import { h } from "../vdom.js";
import { windowed } from "../windowed.js";

/** Uploads of this tab that run or failed. */
let uploads = [];
let replace = false;
let shownFolder = null;

const keyOf = (datastore, folder) => `files:${datastore.id}:${folder}`;
const inFolder = (folder, name) => (folder ? `${folder}/${name}` : name);

// A job of otter changed the files of a datastore.
onChange((kind, job) => {
  if (kind === "jobs" && job?.kind.startsWith("file.") && job.state === "succeeded" && shownFolder)
    reload(shownFolder);
});

export function filesView(datastore, route) {
  const folder = route.query.get("path") ?? "";
  const key = keyOf(datastore, folder);
  shownFolder = key;
  const target = path("datastores", datastore.id, "files");
  const read = resource(key, (signal) =>
    get(target, { query: { path: folder, limit: 1000 }, signal }),
  );
  const more = async () => {
    const page = await get(target, {
      query: { path: folder, limit: 1000, cursor: read.data.next },
    });
    read.data = { ...page, items: [...read.data.items, ...page.items] };
    invalidate();
  };
  const low = needs(store.about, "runner");
  return section(
    "files",
    "Files",
    crumbs(datastore, folder),
    actions("files", [
      { label: "New folder", reason: low, run: () => newFolder(datastore, folder) },
      { label: "Refresh", run: () => reload(key) },
    ]),
    loaded(read, (list) =>
      list.items.length === 0
        ? nothing("This folder is empty.")
        : [
            windowed({
              id: key,
              label: "Files",
              items: list.items.map((item) => ({ ...item, id: item.name })),
              row: (item) => row(datastore, folder, item, low),
              className: "file-rows",
              heights: [3, 7],
            }),
            list.next && h("button", { type: "button", onclick: () => attempt(more) }, "Load more"),
          ],
    ),
    dropZone(datastore, folder, low),
    uploads.filter((one) => one.key === key).map(uploadView),
  );
}

function crumbs(datastore, folder) {
  const parts = folder.split("/").filter(Boolean);
  const crumb = (name, to) =>
    h(
      "li",
      { key: to },
      h(
        "a",
        {
          href: link(["datastores", datastore.id], { path: to }),
          "aria-current": to === folder ? "page" : null,
        },
        name,
      ),
    );
  return h(
    "nav",
    { "aria-label": "Folder" },
    h(
      "ol",
      { class: "crumbs", role: "list" },
      crumb(datastore.name, ""),
      parts.map((name, index) => crumb(name, parts.slice(0, index + 1).join("/"))),
    ),
  );
}

function row(datastore, folder, item, low) {
  const file = inFolder(folder, item.name);
  if (item.type === "folder") {
    return [
      h(
        "span",
        { class: "name" },
        h("a", { href: link(["datastores", datastore.id], { path: file }) }, `${item.name}/`),
      ),
      h("span", { class: "state" }),
      h("span", { class: "when" }, at(item.modified_at)),
      h("span", { class: "more" }, fileButtons(datastore, file, item, low, false)),
    ];
  }
  return [
    h("span", { class: "name" }, item.name),
    h("span", { class: "state" }, bytes(item.bytes)),
    h("span", { class: "when" }, at(item.modified_at)),
    h("span", { class: "more" }, fileButtons(datastore, file, item, low, true)),
  ];
}

function fileButtons(datastore, file, item, low, isFile) {
  const isLarge = isFile && item.bytes > MAX_SHOWN;
  const target = path("datastores", datastore.id, "file");
  return [
    isLarge && h("code", {}, `otter files get ${quoted(`${datastore.name}:${file}`)}`),
    h(
      "span",
      { class: "buttons" },
      isFile &&
        !isLarge &&
        h(
          "button",
          {
            type: "button",
            "aria-label": `Save ${item.name}`,
            onclick: () => attempt(() => save(target, item.name, { query: { path: file } })),
          },
          "Save",
        ),
      h(
        "button",
        {
          type: "button",
          class: "danger",
          "aria-label": `Delete ${item.name}`,
          "aria-disabled": low ? "true" : null,
          "aria-describedby": low ? "why-files-0" : null,
          onclick: () => {
            if (!low) askDelete(datastore, file, item.name);
          },
        },
        "Delete",
      ),
    ),
  ];
}

/** A word for a POSIX shell. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function askDelete(datastore, file, name) {
  openDialog({
    title: `Delete ${name}?`,
    confirm: "Delete",
    danger: true,
    text: `[${datastore.name}] ${file}`,
    submit: async () =>
      follow(
        await call("DELETE", path("datastores", datastore.id, "file"), {
          query: { path: file },
          key: true,
        }),
      ),
  });
}

function newFolder(datastore, folder) {
  openDialog({
    title: "New folder",
    confirm: "Create",
    text: `In [${datastore.name}] ${folder}`,
    fields: [{ name: "name", label: "Name", required: true }],
    submit: async ({ name }) =>
      follow(
        await call("POST", path("datastores", datastore.id, "folders"), {
          body: { path: inFolder(folder, name) },
          key: true,
        }),
      ),
  });
}

function dropZone(datastore, folder, low) {
  const begin = (files) => {
    for (const file of files) beginUpload(datastore, folder, file);
  };
  return h(
    "div",
    {
      id: "drop",
      key: "drop",
      class: "drop",
      role: "group",
      "aria-label": "Upload",
      ondragover: (event) => event.preventDefault(),
      ondrop: (event) => {
        event.preventDefault();
        if (!low) begin(event.dataTransfer.files);
      },
    },
    h("p", {}, "Drop files here"),
    h(
      "div",
      { class: "field" },
      h("label", { for: "upload" }, "Upload files"),
      h("input", {
        id: "upload",
        type: "file",
        multiple: true,
        disabled: low ? true : null,
        "aria-describedby": low ? "why-files-0" : null,
        onchange: (event) => {
          begin([...event.target.files]);
          event.target.value = "";
        },
      }),
    ),
    h(
      "div",
      { class: "field check" },
      h("input", {
        id: "replace",
        type: "checkbox",
        onchange: (event) => {
          replace = event.target.checked;
        },
      }),
      h("label", { for: "replace" }, "Replace existing files"),
    ),
  );
}

function beginUpload(datastore, folder, file) {
  const key = keyOf(datastore, folder);
  const own = {
    key,
    id: `${file.name}-${uploads.length}`,
    name: file.name,
    sent: 0,
    bytes: file.size,
    controller: new AbortController(),
  };
  uploads = [...uploads, own];
  const query = { path: inFolder(folder, file.name), ...(replace ? { replace: "true" } : {}) };
  upload(path("datastores", datastore.id, "file"), query, file, own.controller.signal, (sent) => {
    own.sent = sent;
    invalidate();
  })
    .then(
      (job) => {
        follow(job);
        reload(key);
      },
      (error) => {
        if (error.name === "AbortError") say(`The upload of ${file.name} was stopped`);
        else showProblem(error.problem);
      },
    )
    .finally(() => {
      uploads = uploads.filter((other) => other !== own);
      invalidate();
    });
  invalidate();
}

function uploadView(own) {
  const text = `Upload of ${own.name}`;
  return h(
    "p",
    { key: own.id, class: "upload" },
    `${text}: ${bytes(own.sent)} of ${bytes(own.bytes)} `,
    h("progress", { max: own.bytes || 1, value: own.sent, "aria-label": text }),
    " ",
    h(
      "button",
      {
        type: "button",
        onclick: () => own.controller.abort(),
        "aria-label": `Stop the upload of ${own.name}`,
      },
      "Stop",
    ),
  );
}
