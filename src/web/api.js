// Calls of the API: the token, the headers, and problems as errors.

import * as session from "./session.js";

/** The path under which the browser reaches otter, without a slash at its end. */
export const BASE = new URL("..", import.meta.url).pathname.replace(/\/$/, "");

/** A call failed. `problem` has the fields of the API's problem. */
export class ProblemError extends Error {
  constructor(problem) {
    super(problem.detail ?? problem.title);
    this.problem = problem;
  }
}

/** A text that no other request uses. It also works on pages without TLS. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A path of the API with encoded segments: `path("machines", "a/b")` is `/v1/machines/a%2Fb`. */
export const path = (...segments) => `/v1/${segments.map(encodeURIComponent).join("/")}`;

/**
 * Calls the API.
 *
 * Options: `query`, `body` (JSON), `lease` (id of a lease of this tab), `override` (the reason of
 * an operator), `key` (true: with an Idempotency-Key), `headers`, `accept`, `signal`.
 * The response is not read yet. Throws a ProblemError if it is not a success.
 */
export async function request(method, target, options = {}) {
  const { query, body, lease, override, key, accept, signal } = options;
  const headers = new Headers(options.headers);
  if (session.token()) headers.set("Authorization", `Bearer ${session.token()}`);
  const credential = session.leaseHeader(lease);
  if (credential) headers.set("Otter-Lease", credential);
  else if (override) headers.set("Otter-Override", override);
  if (key) headers.set("Idempotency-Key", newKey());
  if (accept) headers.set("Accept", accept);
  if (body !== undefined) headers.set("Content-Type", "application/json");
  let response;
  try {
    response = await fetch(address(target, query), {
      method,
      headers,
      signal,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ProblemError(noAnswer(`${method} ${target}: ${error.message}`));
  }
  if (!response.ok) throw new ProblemError(await readProblem(response));
  return response;
}

/** As `request`, with the JSON of the response. */
export async function call(method, target, options = {}) {
  const response = await request(method, target, options);
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

export const get = (target, options) => call("GET", target, options);

/** The address of a path of the API, which may begin with the base path, as links do. */
export function address(target, query = {}) {
  const own = BASE && target.startsWith(`${BASE}/`) ? target : BASE + target;
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== "") search.set(name, value);
  }
  const text = search.toString();
  return text ? `${own}${own.includes("?") ? "&" : "?"}${text}` : own;
}

/** The address of a WebSocket of the API. */
export function socketAddress(target, query) {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  return `${scheme}//${location.host}${address(target, query)}`;
}

export function noAnswer(detail) {
  return {
    code: "no-answer",
    status: 0,
    title: "otter did not answer",
    detail,
    retry: "after",
    errors: [],
    candidates: [],
    links: {},
    fault: null,
    seen: null,
    request_id: null,
  };
}

/** The problem of any error: one of otter, or one of the browser itself. */
export function problemOf(error) {
  return (
    error.problem ?? {
      ...noAnswer(error.message),
      code: "browser",
      title: "The browser could not do this",
      retry: "no",
    }
  );
}

async function readProblem(response) {
  try {
    const problem = await response.json();
    if (problem.code) return problem;
  } catch {
    // Not a problem of otter: perhaps a proxy answered.
  }
  return {
    ...noAnswer("Something between this page and otter answered in its place."),
    code: "not-otter",
    status: response.status,
    title: `${response.status} ${response.statusText}`,
  };
}
