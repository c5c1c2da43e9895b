// The snapshots of a machine as a tree, each with what can be done with it.

import { removeAllSnapshots, removeSnapshot, renameSnapshot, revert } from "../actions.js";
import { get, path } from "../api.js";
import { reload, resource } from "../data.js";
import { actions, at, badge, loaded, nothing, section } from "../parts.js";
import { changed, store } from "../store.js";
import { h } from "../vdom.js";

/** The snapshots of a machine as far as they were read, parents first. */
export const knownSnapshots = (machine) => [...(store.snapshots.get(machine.id)?.values() ?? [])];

export function snapshotsSection(machine, right) {
  const key = `snapshots:${machine.id}`;
  const read = resource(key, async (signal) => {
    const list = await get(path("machines", machine.id, "snapshots"), { signal });
    store.snapshots.set(machine.id, new Map(list.items.map((snapshot) => [snapshot.id, snapshot])));
    changed("snapshots");
    return true;
  });
  // After the lists were read again, what was known of snapshots is gone.
  if (read.data && !store.snapshots.has(machine.id)) reload(key);
  const all = knownSnapshots(machine);
  return section(
    "snapshots",
    "Snapshots",
    loaded(read, () =>
      all.length === 0
        ? nothing("It has none.")
        : [
            right.reason && h("p", { class: "why", id: "why-snapshots" }, right.reason),
            level(machine, right, all, null),
            actions(
              "snapshots-all",
              [
                {
                  label: "Remove all snapshots",
                  reason: right.reason,
                  danger: true,
                  run: () => removeAllSnapshots(machine, right),
                },
              ],
              "why-snapshots",
            ),
          ],
    ),
  );
}

function level(machine, right, all, parent) {
  const ids = new Set(all.map(({ id }) => id));
  const here = all.filter((snapshot) =>
    parent === null ? !ids.has(snapshot.parent) : snapshot.parent === parent,
  );
  if (here.length === 0) return null;
  return h(
    "ul",
    { class: "tree", role: "list", "aria-label": parent === null ? "Snapshots" : null },
    here.map((snapshot) =>
      h(
        "li",
        { key: snapshot.id },
        h(
          "div",
          { class: "snapshot" },
          h("span", { class: "name" }, snapshot.name),
          snapshot.current && badge("current", "good"),
          snapshot.power_state === "on" && badge("with memory"),
          " ",
          h("span", { class: "small" }, at(snapshot.created_at)),
          snapshot.description && h("p", { class: "host-text small" }, snapshot.description),
          actions(
            `snapshot-${snapshot.id}`,
            [
              {
                label: "Revert",
                name: `Revert to ${snapshot.path}`,
                reason: right.reason,
                danger: true,
                run: () => revert(machine, right, snapshot),
              },
              {
                label: "Rename",
                name: `Rename ${snapshot.path}`,
                reason: right.reason,
                run: () => renameSnapshot(machine, right, snapshot),
              },
              {
                label: "Remove",
                name: `Remove ${snapshot.path}`,
                reason: right.reason,
                danger: true,
                run: () => removeSnapshot(machine, right, snapshot),
              },
            ],
            "why-snapshots",
          ),
        ),
        level(machine, right, all, snapshot.id),
      ),
    ),
  );
}
