// The pools: how many machines each has, who waits, and what is broken.

import { call, path } from "../api.js";
import { openDialog } from "../dialogs.js";
import { bytes, relative } from "../format.js";
import { say } from "../messages.js";
import { actions, facts, leaseLink, nothing, section } from "../parts.js";
import { needs } from "../rights.js";
import { link } from "../route.js";
import { put, sorted, store } from "../store.js";
import { h } from "../vdom.js";

export const title = () => "Pools";

export function view() {
  if (store.pools.length === 0) return nothing("This otter has no pools, or you may see none.");
  return h("div", { class: "columns" }, store.pools.map(poolView));
}

function poolView(pool, index) {
  const waiting = sorted("leases")
    .filter(
      (lease) =>
        lease.state === "queued" &&
        (lease.select.pool === pool.name || lease.select.pools.includes(pool.name)),
    )
    .sort((one, other) => one.position - other.position);
  return section(
    `pool-${index}`,
    pool.name,
    h(
      "p",
      {},
      h(
        "a",
        { href: link(["machines"], { pool: pool.name }) },
        `${pool.free_count} free of ${pool.machine_count}`,
      ),
    ),
    facts([
      ["Held", pool.held_count],
      ["Quarantined", pool.quarantined_count],
      ["Running", ofMost(pool.running_count, pool.max_running)],
      ["Memory", ofMost(pool.running_memory_bytes, pool.max_memory_bytes, bytes)],
      [
        "Stopped",
        pool.held && `${pool.held.detail} It tries again ${relative(pool.held.retry_at)}.`,
      ],
      ["Waiting", pool.waiting_count],
    ]),
    waiting.length > 0 &&
      h(
        "ol",
        { class: "steps", "aria-label": `Queue of ${pool.name}` },
        waiting.map((lease) =>
          h(
            "li",
            { key: lease.id },
            leaseLink(lease.id, lease.holder),
            h("span", { class: "small" }, ` since ${relative(lease.created_at)}`),
          ),
        ),
      ),
    actions(`pool-${index}`, [
      {
        label: "Clear quarantines",
        name: `Clear quarantines of ${pool.name}`,
        reason:
          needs(store.about, "operator") ??
          (pool.quarantined_count === 0 ? "None of its machines is quarantined." : null),
        run: () => clear(pool),
      },
    ]),
  );
}

function clear(pool) {
  openDialog({
    title: `Clear the quarantines of ${pool.name}?`,
    confirm: "Clear",
    text: `${pool.quarantined_count} machines can be leased again.`,
    submit: async () => {
      const cleared = await call("DELETE", path("pools", pool.name, "quarantine"));
      cleared.items.forEach((machine) => put("machines", machine));
      say(`The quarantines of ${pool.name} are cleared`);
    },
  });
}

/** A number and its limit. `most` is null if there is none. */
function ofMost(now, most, show = String) {
  return show(now) + (most === null ? "" : ` of at most ${show(most)}`);
}
