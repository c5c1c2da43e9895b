// Opens the page in Chromium while otter's machines change, and prints what Chromium's trace says:
// `{"<view>": {"longest": <milliseconds>, "events": <number>}, …}`. A frame waits for the longest task
// of the page's thread. Arguments: the address of otter, and the seconds for each view.

import { showsView, show, startBrowser, visit } from "../interop/page/lab.mjs";

const [origin, seconds] = [process.argv[2], Number(process.argv[3])];
/** Changes in a second, and how many may be without an answer. */
const RATE = 100;
const MAX_OPEN = 32;
const CATEGORIES = ["disabled-by-default-devtools.timeline", "devtools.timeline"];

const VIEWS = {
  overview: ["#/", "Overview", async () => {}],
  machines: ["#/machines", "Machines", async (page) => {
    await page.getByRole("group", { name: "Machines, scrolls" }).hover();
    await page.mouse.wheel(0, 700);
  }],
  search: ["#/machines", "Machines", async (page, turn) => {
    await page.getByLabel("Search").fill(String(turn % 10));
  }],
  machine: ["#/machines/1", null, async () => {}],
};

/** Quarantines machines, and clears them, in turn: each call is one event. */
function changes(ids) {
  const made = { count: 0, problem: null };
  let open = 0;
  const change = async (turn) => {
    open += 1;
    const id = ids[turn % ids.length];
    const isSet = Math.floor(turn / ids.length) % 2 === 0;
    try {
      const response = await fetch(`${origin}/v1/machines/${id}/quarantine`, {
        method: isSet ? "PUT" : "DELETE", headers: { "Content-Type": "application/json" },
        body: isSet ? JSON.stringify({ reason: `change ${turn}` }) : undefined,
      });
      if (!response.ok) made.problem = await response.text();
      made.count += 1;
    } catch (error) {
      made.problem = String(error);
    }
    open -= 1;
  };
  const began = performance.now();
  let next = 0;
  // A timer is late now and then, so the time counts, not the ticks.
  const timer = setInterval(() => {
    const due = ((performance.now() - began) / 1000) * RATE;
    for (; next < due && open < MAX_OPEN; next += 1) change(next);
  }, 1000 / RATE);
  return { made, stop: () => clearInterval(timer) };
}

function longestTask(trace) {
  const threads = trace.filter(({ name, args }) => name === "thread_name" && args.name === "CrRendererMain");
  const isOfPage = ({ pid, tid }) => threads.some((thread) => thread.pid === pid && thread.tid === tid);
  const tasks = trace.filter((event) => event.name === "RunTask" && event.ph === "X" && isOfPage(event));
  if (tasks.length === 0) throw new Error("The trace has no task of the page.");
  return Math.max(...tasks.map(({ dur }) => dur ?? 0)) / 1000;
}

const browser = await startBrowser();
const page = await visit(browser, { origin });
await page.locator("#connection[data-state=live]").waitFor();
const { items } = await (await fetch(`${origin}/v1/machines`)).json();
const found = {};
for (const [name, [hash, title, act]] of Object.entries(VIEWS)) {
  await show(page, hash);
  if (title) await showsView(page, title);
  const { made, stop } = changes(items.map(({ id }) => id));
  await browser.startTracing(page, { categories: CATEGORIES });
  const until = performance.now() + seconds * 1000;
  for (let turn = 0; performance.now() < until; turn += 1) {
    await act(page, turn);
    await new Promise((resolve) => { setTimeout(resolve, 200); });
  }
  const trace = JSON.parse((await browser.stopTracing()).toString()).traceEvents;
  stop();
  if (made.problem) throw new Error(made.problem);
  found[name] = { longest: longestTask(trace), events: made.count };
}
console.log(JSON.stringify(found));
await browser.close();
process.exit();
