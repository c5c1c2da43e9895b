// Fills an otter with what a lab has on an ordinary day: leases, one who waits, jobs that ran, one
// that failed, a broken machine, and artifacts.

import assert from "node:assert/strict";

import { eventually } from "./lab.mjs";

/**
 * Types lines at the first serial port of a machine that is leased and recorded, and waits until the
 * answers are recorded.
 *
 * @param lines pairs of a line and a part of its answer
 */
export async function useRecordedPort(call, lease, headers, lines) {
  const path = `/v1/leases/${lease.id}`;
  const shown = () => call("GET", path);
  await eventually("the recording to begin", async () => (await shown()).history.some(({ what }) => what.startsWith("recording:")));
  const port = `/v1/machines/${lease.machine}/serial/ttyS0`;
  for (const [line, answer] of lines) {
    await call("POST", `${port}/input`, { text: `${line}\r` }, headers);
    await call("POST", `${port}/wait?wait=60s`, { any: [{ text: answer }], since: 0 }, headers);
  }
  const now = new Date().toISOString();
  await eventually("the answers to be recorded", async () => (await shown()).recording?.synced_at > now);
}

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
  await useRecordedPort(call, done, own(done), [["user", "Password:"], ["otter", "$ "], ["qvm-ls", "qvm-ls"]]);
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
