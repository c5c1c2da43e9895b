// What the scripts of this folder share: an otter with a simulated host, a browser, and the checks
// that hold on every page: no error in the console, and no request to another origin.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { accessSync, constants, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const required = (name) => process.env[name]
  ?? assert.fail(`${name} is not set. tests/run sets it; README.md of tests/interop says to what`);
/** The packages of `package.json`. */
const packages = createRequire(path.join(required("OTTER_PLAYWRIGHT"), "package.json"));
const { chromium } = packages("playwright-core");
const OTTER = required("OTTER_BINARY");
/** Where pictures go. */
export const PICTURES = required("OTTER_PICTURES");
export const REPOSITORY = fileURLToPath(new URL("../../..", import.meta.url));
/** The longest time for one condition, in milliseconds. */
const TIMEOUT = 60_000;

const run = promisify(execFile);
/** otter gets none of the variables of the tests. */
const environment = { PATH: process.env.PATH, HOME: tmpdir() };
const cleanups = [];

/** Runs a script: prints each step, and leaves nothing behind. */
export async function script(name, work) {
  mkdirSync(PICTURES, { recursive: true });
  try {
    await work();
    console.log(`${name}: all steps done`);
  } catch (error) {
    console.error(`${name}: ${current ?? "the start"} failed: ${error.stack} ${error.cause ?? ""}`);
    for (const [index, page] of pages.entries()) {
      await page.screenshot({ path: path.join(PICTURES, `failed-${name}-${index}.png`) }).catch(() => {});
      const text = page.locator("main, dialog").last().innerText({ timeout: 1000 }).catch(() => "");
      console.error(`tab ${index}: ${(await text).replaceAll(/\n+/g, " | ")}`);
    }
    process.exitCode = 1;
  } finally {
    for (const cleanup of cleanups.reverse()) await cleanup();
  }
  process.exit();
}

let current = null;

/** One thing that a person does. Its duration is printed. */
export async function step(what, work) {
  current = what;
  const began = performance.now();
  const result = await work();
  console.log(`ok ${what} (${Math.round(performance.now() - began)} ms)`);
  return result;
}

/**
 * Starts `otter serve --simulate`.
 *
 * @param options `tokens` (by name their role; none: otter wants no tokens), `config` (lines of the
 *   configuration), `scenario` (its text; none: the lab), `arguments` (more of the command line)
 */
export async function startOtter({ tokens = {}, config = "", scenario, more = [] } = {}) {
  const folder = mkdtempSync(path.join(tmpdir(), "otter-page-"));
  cleanups.push(() => rmSync(folder, { recursive: true, force: true }));
  const file = (name, text) => {
    writeFileSync(path.join(folder, name), text);
    return path.join(folder, name);
  };
  const state = path.join(folder, "state");
  mkdirSync(state);
  const given = {};
  const token = async (...command) => {
    const done = await run(OTTER, ["token", ...command, "--state-dir", state], { env: environment });
    return done.stdout.trim();
  };
  for (const [name, role] of Object.entries(tokens)) given[name] = await token("create", "--name", name, "--role", role);
  const options = ["serve", "--simulate", "--log-level", "error", "--state-dir", state, "--config", file("otter.toml", config), ...more];
  if (scenario) options.push("--scenario", file("scenario.toml", scenario));
  const otter = { origin: null, tokens: given, token, child: null };
  const begin = async (listen) => {
    // The kernel ends it with this process, however that ends.
    const command = ["--pdeathsig", "KILL", OTTER, ...options, "--listen", listen];
    const child = spawn("setpriv", command, { env: environment, stdio: ["ignore", "pipe", "inherit"] });
    otter.child = child;
    for await (const line of createInterface({ input: child.stdout })) {
      const found = /http:\/\/[\d.]+:\d+/.exec(line);
      if (found) {
        [otter.origin] = found;
        break;
      }
    }
    child.stdout.resume();
    await eventually("the inventory to load", async () => (await fetch(`${otter.origin}/readyz`)).ok);
  };
  otter.end = async () => {
    const { child } = otter;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => { child.on("exit", resolve); });
    child.kill("SIGTERM");
    await ended;
  };
  otter.begin = () => begin(new URL(otter.origin).host);
  otter.call = async (method, target, { as, body, headers = {} } = {}) => {
    const response = await fetch(otter.origin + target, {
      method, body: body === undefined ? undefined : JSON.stringify(body),
      headers: {
        ...(as ? { Authorization: `Bearer ${given[as]}` } : {}),
        ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...headers,
      },
    });
    const text = await response.text();
    assert.ok(response.ok, `${method} ${target}: ${response.status} ${text}`);
    return text ? JSON.parse(text) : null;
  };
  cleanups.push(() => otter.end());
  await begin("127.0.0.1:0");
  return otter;
}

/** Waits until a condition holds. */
export async function eventually(what, holds) {
  const until = Date.now() + TIMEOUT;
  for (;;) {
    if (await holds()) return;
    assert.ok(Date.now() < until, `${what} did not happen`);
    await new Promise((resolve) => { setTimeout(resolve, 50); });
  }
}

function chromiumPath() {
  for (const folder of process.env.PATH.split(":")) {
    const candidate = path.join(folder, "chromium");
    try {
      accessSync(candidate, constants.X_OK);
      return candidate;
    } catch {
      // Perhaps in the next folder.
    }
  }
  return assert.fail("chromium is not in PATH");
}

/** Starts a browser. */
export async function startBrowser() {
  const browser = await chromium.launch({
    executablePath: chromiumPath(), args: ["--no-sandbox", "--disable-gpu", "--no-proxy-server"],
  });
  cleanups.push(() => browser.close());
  return browser;
}

const pages = [];

/**
 * Opens a tab in a profile of its own.
 *
 * @param options those of Playwright's `newContext`, and `token` (of the tab), `context` (a profile
 *   that is open already), `path` (the view)
 * @returns the page, with `page.complaints`: what the browser or its address says that is wrong
 */
export async function visit(browser, otter, { token, context, path: view = "/", ...options } = {}) {
  const profile = context ?? await browser.newContext({ viewport: { width: 1280, height: 900 }, locale: "en-GB", ...options });
  profile.setDefaultTimeout(TIMEOUT);
  const page = await profile.newPage();
  page.complaints = [];
  page.on("console", (message) => {
    // Chromium reports each 4xx and 5xx that `fetch` gets, and each connection that is cut.
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) {
      page.complaints.push(message.text());
    }
  });
  page.on("pageerror", (error) => page.complaints.push(error.stack));
  page.on("dialog", (dialog) => {
    page.complaints.push(`a dialog of the browser: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("request", (request) => {
    const url = request.url();
    if (![`${otter.origin}/`, "blob:", "data:"].some((own) => url.startsWith(own))) {
      page.complaints.push(`a request to ${url}`);
    }
  });
  pages.push(page);
  if (token) await page.addInitScript((text) => sessionStorage.setItem("otter.token", text), token);
  await page.goto(otter.origin + view);
  return page;
}

/** Nothing was wrong on any page. */
export function checkComplaints() {
  for (const page of pages) assert.deepEqual(page.complaints, []);
}

/** Shows another view by its address, as a link that somebody sends. */
export async function show(page, view) {
  await page.evaluate((hash) => { location.hash = hash; }, view);
}

export const heading = (page) => page.getByRole("heading", { level: 1 });
export const button = (page, name) => page.getByRole("button", { name, exact: true });
export const region = (page, name) => page.getByRole("region", { name, exact: true });
export const dialog = (page) => page.getByRole("dialog");

/** The facts of the section "State", each with its name. */
export const fact = (page) => region(page, "State").locator("dl > div");

/** Waits until an element has a text, or texts that fit. */
export async function shows(locator, text) {
  await locator.filter({ hasText: text }).first().waitFor();
}

/** Waits for the heading of a view. */
export const showsView = (page, name) => page.getByRole("heading", { level: 1, name, exact: true }).waitFor();

/** Confirms the open dialog, whose name and fields are given, and waits until it closes. */
export async function confirm(page, name, fields = {}, verb = null) {
  const open = page.getByRole("dialog", { name, exact: true });
  await open.waitFor();
  for (const [label, value] of Object.entries(fields)) {
    const field = open.getByLabel(label, { exact: true });
    if (typeof value === "boolean") await field.setChecked(value);
    else if (await field.evaluate((element) => element.localName) === "select") await field.selectOption(value);
    else await field.fill(value);
  }
  const last = verb ? open.getByRole("button", { name: verb, exact: true }) : open.getByRole("button").last();
  await last.click();
  await open.waitFor({ state: "detached" });
}

/** Waits until the page says what an action did. */
export const says = (page, text) => shows(page.locator("#messages p"), text);

/** The problem with a code that the page shows. */
export const problem = (page, code) => page.locator(`.problem[data-code="${code}"]`);

/** axe finds nothing on the page as it is shown. */
export async function checkAccessibility(page, what) {
  if (!await page.evaluate(() => "axe" in window)) {
    // The policy of the page forbids scripts; the debugger may evaluate one.
    await page.evaluate(axeSource());
  }
  const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const text = found.violations.map(({ id, help, nodes }) => `${id}: ${help}\n${nodes.slice(0, 3)
    .map((node) => `  ${node.target}: ${node.failureSummary}`).join("\n")}`);
  assert.equal(text.join("\n"), "", what);
}

let axe = null;
const axeSource = () => (axe ??= packages("axe-core").source);
