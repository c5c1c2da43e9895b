// What the actions of this tab did: a line for screen readers and eyes, and problems until they are
// dismissed. Jobs that this tab started are followed to their end.

import { problemOf } from "./api.js";
import { invalidate } from "./frame.js";
import { jobTitle } from "./format.js";
import { jobLink, problemView } from "./parts.js";
import { isEndedJob, onChange, put } from "./store.js";
import { h } from "./vdom.js";

/** How long a message stays, in milliseconds. */
const STAY = 12_000;

let messages = [];
let problems = [];
let count = 0;
const followed = new Set();

export function say(text, job = null) {
  count += 1;
  const message = { id: count, text, job };
  // The end of a job takes the place of its beginning.
  messages = [...messages.filter((other) => job === null || other.job !== job).slice(-3), message];
  setTimeout(() => {
    messages = messages.filter((other) => other !== message);
    invalidate();
  }, STAY);
  invalidate();
}

export function showProblem(problem) {
  count += 1;
  problems = [...problems.slice(-4), { id: count, problem }];
  invalidate();
}

/** Follows a job that an action started. */
export function follow(job) {
  put("jobs", job);
  if (isEndedJob(job)) return ended(job);
  followed.add(job.id);
  return say(`${jobTitle(job)}: ${job.state}`, job.id);
}

/** Does something; its problem is shown on the page. */
export async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name !== "AbortError") {
      showProblem(problemOf(error));
    }
    return undefined;
  }
}

function ended(job) {
  say(`${jobTitle(job)}: ${job.state}`, job.id);
  // Who cancels a job knows why it ended.
  if (job.error && job.state !== "cancelled") showProblem(job.error);
}

onChange((kind, job) => {
  if (kind === "jobs" && job && followed.has(job.id) && isEndedJob(job)) {
    followed.delete(job.id);
    ended(job);
  }
});

/** Forgets the problems, for example when somebody signs out. */
export function clearMessages() {
  messages = [];
  problems = [];
}

export function messagesView() {
  return [
    h(
      "div",
      { id: "messages", role: "status", "aria-live": "polite", key: "messages" },
      messages.map(({ id, text, job }) => h("p", { key: id }, job ? jobLink(job, text) : text)),
    ),
    h(
      "div",
      { id: "problems", key: "problems" },
      problems.map(({ id, problem }) =>
        h(
          "div",
          { key: id, oncreate: (element) => element.scrollIntoView({ block: "nearest" }) },
          problemView(problem, () => {
            problems = problems.filter((other) => other.id !== id);
            invalidate();
          }),
        ),
      ),
    ),
  ];
}
