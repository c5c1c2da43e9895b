// Fills an otter with what a lab has on an ordinary day: leases, one who waits, jobs that ran, one
// that failed, a broken machine, and artifacts.

import assert from "node:assert/strict";

import { eventually } from "./lab.mjs";

/** @returns the ids of `lease`, `failed` (a job), `text` and `cast` (artifacts) and `datastore` */
export async function populate(otter) {
  const call = (method, target, body, headers = {}) => otter.call(method, target, { as: "olga", body, headers });
  const reference = { "Otter-Reference": "https://ci.example.org/runs/4711" };
  const state = (id, wanted) => eventually(`lease ${id} to be ${wanted}`,
    async () => (await call("GET", `/v1/leases/${id}`)).state === wanted);
  const own = (lease) => ({ ...reference, "Otter-Lease": `${lease.id}.${lease.secret}` });

  const done = await call("POST", "/v1/leases", {
    select: { machine: "16" }, ttl: "1h", holder: "nightly",
    prepare: { snapshot: "installed/updated", power: "on", until: "serial:login:" },
    record: { screen: true, serial: ["ttyS0"] },
  }, reference);
  await state(done.id, "active");
  const stored = await fetch(`${otter.origin}/v1/leases/${done.id}/artifacts/test.log`, {
    method: "PUT", body: "test_boot ... ok\ntest_update ... FAILED: no route to host\n",
    headers: { ...own(done), Authorization: `Bearer ${otter.tokens.olga}`, "Content-Type": "text/plain" },
  });
  assert.equal(stored.status, 201);
  await call("DELETE", `/v1/leases/${done.id}`, undefined, own(done));
  await state(done.id, "released");

  const lease = await call("POST", "/v1/leases", {
    select: { machine: "16" }, ttl: "2h", holder: "release tests", prepare: { snapshot: "installed/updated/kickstart", power: "on" },
  }, reference);
  await state(lease.id, "active");
  await call("POST", "/v1/leases", { select: { pool: "qubes", machine: "16" }, ttl: "1h", queue_for: "2h", holder: "alex" });
  await call("PUT", "/v1/machines/33/quarantine", { reason: "its network card vanishes" });
  const failed = await call("POST", "/v1/machines/17/power?wait=20s", { action: "shutdown" }).catch(() => null)
    ?? (await call("GET", "/v1/jobs?limit=1")).items[0];
  const artifacts = async () => (await call("GET", `/v1/artifacts?lease=${done.id}`)).items;
  const named = async (name) => (await artifacts()).find((artifact) => artifact.name === name)?.id;
  await eventually("the recordings", async () => await named("ttyS0.cast") && await named("screen.apng"));
  const datastores = (await call("GET", "/v1/datastores")).items;
  return {
    lease: lease.id, failed: failed.id, text: await named("test.log"), cast: await named("ttyS0.cast"),
    datastore: datastores.find(({ name }) => name === "isos").id,
  };
}
