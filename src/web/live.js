// Keeps the store equal to otter: reads the lists, then streams all events from the version of the
// first list. After a lost connection it resumes at the last version that it saw.

import * as api from "./api.js";
import * as session from "./session.js";
import { apply, changed, clear, replaceAll, store } from "./store.js";

/** A stream is lost if nothing arrives in this time; otter sends a bookmark every 15 s. */
const SILENCE = 40_000;
const MAX_PAUSE = 10_000;

let controller = null;
let wake = null;

/** Starts again from the lists, with the token that the tab has by then. */
export function restart() {
  controller?.abort();
  controller = new AbortController();
  run(controller.signal);
}

/** Tries again at once, for example because the browser is online again. */
export const tryNow = () => wake?.();

async function run(signal) {
  const position = { version: null };
  let pause = 500;
  setState("connecting", null);
  while (!signal.aborted) {
    try {
      position.version ??= await readLists(signal);
      await stream(position, signal, () => {
        pause = 500;
      });
    } catch (error) {
      if (signal.aborted) return;
      const problem = api.problemOf(error);
      if (problem.code === "unauthenticated") {
        signOut(problem);
        return;
      }
      setState("lost", problem);
      await sleep(pause * (0.75 + Math.random() / 2));
      pause = Math.min(MAX_PAUSE, pause * 2);
    }
  }
}

/** Ends the work with a token that otter refuses. */
function signOut(problem) {
  store.refused = session.token() !== null;
  session.setToken(null);
  clear();
  setState("signed-out", problem);
}

function setState(state, problem) {
  store.connection = state;
  store.connectionProblem = problem;
  changed("connection");
}

async function readLists(signal) {
  store.about = await api.get("/v1/about", { signal });
  changed("about");
  const machines = await api.get("/v1/machines", { signal });
  replaceAll("machines", machines.items);
  store.snapshots = new Map();
  const open = "queued,preparing,active,releasing";
  const [datastores, running, jobs, leases, ended] = await Promise.all([
    api.get("/v1/datastores", { signal }),
    allPages("/v1/jobs", { state: "queued,running" }, signal),
    api.get("/v1/jobs", { signal }),
    allPages("/v1/leases", { state: open }, signal),
    api.get("/v1/leases", { signal }),
  ]);
  replaceAll("datastores", datastores.items);
  replaceAll("jobs", [...jobs.items, ...running]);
  replaceAll("leases", [...ended.items, ...leases]);
  return machines.version;
}

async function allPages(path, query, signal) {
  const items = [];
  let cursor = null;
  do {
    const page = await api.get(path, { query: { ...query, limit: 1000, cursor }, signal });
    items.push(...page.items);
    cursor = page.next;
  } while (cursor);
  return items;
}

/**
 * Streams events into the store until the connection ends. If `position.version` is null, it reads
 * the lists first.
 */
async function stream(position, signal, onData) {
  const attempt = new AbortController();
  const abort = () => attempt.abort();
  signal.addEventListener("abort", abort);
  let timer = setTimeout(abort, SILENCE);
  try {
    const query = { since: position.version };
    const accept = "application/x-ndjson";
    const options = { query, accept, signal: attempt.signal };
    const response = await api.request("GET", "/v1/events", options);
    setState("live", null);
    for await (const line of lines(response.body)) {
      clearTimeout(timer);
      timer = setTimeout(abort, SILENCE);
      store.heardAt = Date.now();
      const event = JSON.parse(line);
      if (event.type === "reset") {
        position.version = null;
        return;
      }
      onData();
      apply(event);
      position.version = event.version;
      if (event.type === "bye") break;
    }
    throw new api.ProblemError(api.noAnswer("The stream of events ended."));
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", abort);
    attempt.abort();
  }
}

/** The lines of a body, without empty ones. */
async function* lines(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = parts.pop();
    for (const line of parts) if (line) yield line;
  }
}

function sleep(milliseconds) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    wake = () => {
      clearTimeout(timer);
      resolve();
    };
  });
}
