// What a host, another caller or a script wrote is shown as text, whatever it is: HTML, quotes,
// letters from right to left, control characters, and 300 characters.

import assert from "node:assert/strict";

import {
  button, checkComplaints, dialog, region, script, show, shows, showsView, startBrowser, startOtter, step, visit,
} from "./lab.mjs";

const LONG = "0123456789".repeat(30);
/** By id of the machine that has the text in its name, annotation, snapshot and question. */
const TEXTS = {
  101: "<script>alert(1)</script>",
  102: `"quoted" 'names' & <img src=x onerror=alert(1)>`,
  103: "\u05de\u05db\u05d5\u05e0\u05d4 \u202etxt.exe\u202c \u0645\u0627\u0643\u064a\u0646\u0629",
  104: LONG,
};

const toml = (text) => JSON.stringify(text);

const machine = ([id, text], index) => `
[[machines]]
id = "${id}"
name = ${toml(text)}
directory = "m${id}"
datastore = "store"
annotation = ${toml(`note ${text}`)}
network_cards = [{ mac = "00:0c:29:00:00:0${index}" }]
snapshots = [{ number = 1, name = ${toml(text)}, description = ${toml(`kept ${text}`)}, current = true }]

[machines.question]
id = "${id}"
message_id = "msg.strange"
text = ${toml(`really ${text}?`)}
pending = true
choices = [{ key = "0", label = ${toml(`button.${text}`)}, summary = ${toml(`answer ${text}`)} }]
`;

const SCENARIO = `
[host]
name = "<b>host</b>"

[[datastores]]
id = "store"
name = "store"
capacity_gb = 100
free_gb = 50
${Object.entries(TEXTS).map(machine).join("")}`;

script("texts", async () => {
  const [otter, browser] = await Promise.all([startOtter({ scenario: SCENARIO }), startBrowser()]);
  const page = await visit(browser, otter, { path: "/#/machines" });
  // A text that became an element, or a script that ran, would be found here.
  const isOnlyText = async () => assert.deepEqual(await page.evaluate(() => [...document.querySelectorAll(
    "#app script, #app img[onerror], #app b, #app i")].map((element) => element.outerHTML)), []);
  const isWithinThePage = async () => assert.ok(await page.evaluate(
    () => document.documentElement.scrollWidth <= innerWidth), "the page is wider than its window");

  await step("names in the list", async () => {
    const list = page.getByRole("list", { name: "Machines" });
    for (const text of Object.values(TEXTS)) {
      await list.getByRole("link", { name: text, exact: true }).waitFor();
    }
    await isOnlyText();
  });

  for (const [id, text] of Object.entries(TEXTS)) {
    await step(`machine ${id}`, async () => {
      await show(page, `#/machines/${id}`);
      await page.waitForFunction((name) => document.querySelector("h1").textContent === name, text);
      assert.equal(await page.title(), `${text} · otter`);
      await shows(region(page, "State").locator("dd"), `note ${text}`);
      await shows(region(page, "Question"), `really ${text}?`);
      await region(page, "Question").getByRole("button", { name: `answer ${text}`, exact: true }).waitFor();
      await shows(region(page, "Snapshots"), `kept ${text}`);
      // A path of snapshots escapes the slash of a name.
      const name = text.replaceAll("/", "%2F");
      await button(page, `Revert to ${name}`).click();
      await shows(dialog(page).getByRole("heading"), `Revert ${text} to ${name}?`);
      await page.keyboard.press("Escape");
      await dialog(page).waitFor({ state: "detached" });
      await isOnlyText();
      await isWithinThePage();
    });
  }

  await step("holders, reasons and references", async () => {
    const headers = { "Otter-Reference": "javascript:alert(1)//<b>" };
    await otter.call("PUT", "/v1/machines/101/quarantine", { body: { reason: "<i>why</i> \"not\"" } });
    const lease = await otter.call("POST", "/v1/leases", {
      body: { select: { memory_bytes_at_least: 2 ** 60 }, ttl: "10m", queue_for: "10m", holder: "<b>holder</b>" }, headers,
    }).catch(() => null);
    await show(page, "#/");
    await showsView(page, "Overview");
    await shows(region(page, "Broken machines"), "<i>why</i> \"not\"");
    if (lease) {
      await shows(region(page, "Waiting"), "<b>holder</b>");
      await show(page, `#/leases/${lease.id}`);
      await shows(region(page, "State"), "javascript:alert(1)//<b>");
      assert.equal(await page.locator("a[href^=javascript]").count(), 0);
    }
    await isOnlyText();
  });

  await step("on a phone", async () => {
    await page.setViewportSize({ width: 360, height: 740 });
    for (const id of Object.keys(TEXTS)) {
      await show(page, `#/machines/${id}`);
      await page.waitForFunction((name) => document.querySelector("h1").textContent === name, TEXTS[id]);
      await isWithinThePage();
    }
  });
  checkComplaints();
});
