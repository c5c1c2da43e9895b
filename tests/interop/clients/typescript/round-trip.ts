// A round trip with openapi-fetch and the types that openapi-typescript generates. The argument is
// the address of otter.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { argv } from "node:process";
import createClient from "openapi-fetch";
import type { components, paths } from "./otter.js";

type Event = components["schemas"]["Event"];
type Job = components["schemas"]["Job"];
type Problem = components["schemas"]["Problem"];

const snapshotPath = "installed/updated/kickstart";
const otter = createClient<paths>({ baseUrl: argv[2] ?? "" });

const machines = got(await otter.GET("/v1/machines"));
const staging = machines.items.find((machine) => machine.name === "qubes-4.2-sdw-staging");
const mac = staging?.network_cards[0]?.mac_address;
assert(staging && mac);

const found = got(await otter.GET("/v1/machines/find", { params: { query: { mac } } }));
assert.equal(found.id, staging.id);
assert(found.power_state === "off" && found.free);

const machine = { machine: found.id };
const snapshots = got(await otter.GET("/v1/machines/{machine}/snapshots", { params: { path: machine } }));
const kickstart = snapshots.items.find((snapshot) => snapshot.path === snapshotPath);
assert(kickstart);

const job = got(
  await otter.POST("/v1/machines/{machine}/revert", {
    params: { path: machine, query: { wait: "5m" } },
    body: { snapshot: snapshotPath },
  }),
);
assert.equal(job.state, "succeeded");
assert.equal(job.result?.snapshot, kickstart.id);
assert.equal(job.result?.power_state, "off");

const read = got(await otter.GET("/v1/jobs/{job}", { params: { path: { job: job.id } } }));
assert.deepEqual(read, job);
assert.equal(read.kind, "snapshot.revert");
assert(read.finished_at !== null && new Date(read.finished_at) >= new Date(read.created_at));

const propertyPaths = ["config.version", "summary.runtime"];
const properties = got(
  await otter.GET("/v1/machines/{machine}/properties", { params: { path: machine, query: { path: propertyPaths } } }),
);
assert.deepEqual(Object.keys(properties).sort(), propertyPaths);

const missing = refused(await otter.GET("/v1/machines/{machine}", { params: { path: { machine: "none-such" } } }));
assert.deepEqual([missing.status, missing.code, missing.retry], [404, "not-found", "no"]);

const ambiguous = refused(
  await otter.POST("/v1/machines/{machine}/revert", { params: { path: machine }, body: { snapshot: "kickstart" } }),
);
assert.equal(ambiguous.code, "ambiguous-name");
assert(ambiguous.candidates.some((candidate) => candidate.id === kickstart.id));

const started = got(
  await otter.POST("/v1/machines/{machine}/power", { params: { path: machine }, body: { action: "on" } }),
);
const ended = await follow(machines.version, started);
assert.equal(ended.state, "succeeded");
assert(ended.result?.changed && ended.result.power_state === "on");

const wait = { path: { job: started.id }, query: { wait: "1m" } };
assert.deepEqual(got(await otter.GET("/v1/jobs/{job}/wait", { params: wait })), ended);
const after = got(await otter.GET("/v1/machines/{machine}", { params: { path: machine } }));
assert.equal(after.power_state, "on");

// Binary bodies have the type string, and pass through a serializer that leaves them as they are.
const content = Buffer.alloc(256_000, "otter\0ÿ", "latin1");
const file = { path: { datastore: "name:isos" }, query: { path: "by typescript.iso" } };
const stored = got(
  await otter.PUT("/v1/datastores/{datastore}/file", {
    params: file,
    headers: { "Content-Type": "application/octet-stream" },
    body: content as unknown as string,
    bodySerializer: (body) => body,
  }),
);
assert.equal(stored.result?.sha256, createHash("sha256").update(content).digest("hex"));

const folder = { path: file.path };
const listed = got(await otter.GET("/v1/datastores/{datastore}/files", { params: folder }));
assert.equal(listed.items.find((item) => item.name === file.query.path)?.bytes, content.length);

const bytes = got(await otter.GET("/v1/datastores/{datastore}/file", { params: file, parseAs: "arrayBuffer" }));
assert(content.equals(Buffer.from(bytes)));

const removal = { path: file.path, query: { ...file.query, wait: "1m" } };
assert.equal(got(await otter.DELETE("/v1/datastores/{datastore}/file", { params: removal })).state, "succeeded");
const gone = refused(await otter.GET("/v1/datastores/{datastore}/file", { params: file, parseAs: "arrayBuffer" }));
assert.equal(gone.code, "not-found");

/** Reads the event stream until the job has ended, and returns the job. */
async function follow(since: string, job: Job): Promise<Job> {
  const query = { since, types: "job.changed", job: job.id };
  const stream = got(await otter.GET("/v1/events", { params: { query }, parseAs: "stream" }));
  assert(stream);
  let rest = "";
  for await (const text of stream.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines.filter((line) => line.startsWith("data: "))) {
      const event: Event = JSON.parse(line.slice("data: ".length));
      assert(event.type === "job.changed" && event.object);
      job = event.object as Job;
      if (job.finished_at !== null) return job;
    }
  }
  assert.fail("the stream ended before the job");
}

function got<T>(answer: { data?: T; error?: Problem }): T {
  assert(answer.data !== undefined, JSON.stringify(answer.error));
  return answer.data;
}

function refused(answer: { data?: unknown; error?: Problem }): Problem {
  assert(answer.error !== undefined, JSON.stringify(answer.data));
  return answer.error;
}
