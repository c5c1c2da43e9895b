// What a view reads beyond the store: each address is read once for a view, and again on demand.

import { problemOf } from "./api.js";
import { invalidate } from "./frame.js";

let resources = new Map();

/** Forgets what the last view read. */
export function forgetResources() {
  for (const resource of resources.values()) resource.controller.abort();
  resources = new Map();
}

/**
 * Reads something once.
 *
 * @param key names it in this view
 * @param load returns a promise: `load(signal, before)`; `before` is what was read the last time
 * @returns `{data, problem, loading}`; `data` is undefined until it was read
 */
export function resource(key, load) {
  let known = resources.get(key);
  if (!known) {
    known = { controller: new AbortController(), load };
    resources.set(key, known);
    read(known);
  }
  known.load = load;
  return known;
}

/** Reads it again. What was read before is shown meanwhile. */
export function reload(key) {
  const known = resources.get(key);
  if (known && !known.loading) read(known);
}

async function read(known) {
  known.loading = true;
  try {
    known.data = await known.load(known.controller.signal, known.data);
    known.problem = undefined;
  } catch (error) {
    if (known.controller.signal.aborted) return;
    known.problem = problemOf(error);
  } finally {
    known.loading = false;
  }
  invalidate();
}
