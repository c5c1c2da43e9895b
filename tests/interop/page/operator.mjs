// An operator quarantines, kills, answers, cancels, moves files and images; a viewer sees what is
// forbidden, with the reason; the API's own page has the token.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import {
  button, checkComplaints, confirm, eventually, fact, problem, region, says, script, show, shows, showsView, startBrowser,
  startOtter, step, visit,
} from "./lab.mjs";
import { useRecordedPort } from "./example.mjs";

const CONFIG = `
[files]
roots = ["[isos] iso"]
[pools.qubes]
machines = ["qubes-*"]
`;
const PROD = "qubes-4.2-sdw-prod";

script("operator", async () => {
  const [otter, browser] = await Promise.all([
    startOtter({ tokens: { olga: "operator", vera: "viewer" }, config: CONFIG }), startBrowser(),
  ]);
  const page = await visit(browser, otter, { token: otter.tokens.olga, path: "/#/machines/17" });
  await showsView(page, PROD);
  const call = (method, target, body, headers) => otter.call(method, target, { as: "olga", body, headers });

  await step("quarantine, and clear it", async () => {
    await button(page, "Quarantine").click();
    await confirm(page, `Quarantine ${PROD}`, { Reason: "its disk is strange" });
    await shows(region(page, "State"), /its disk is strange by olga/);
    await show(page, "#/");
    await shows(region(page, "Broken machines"), "its disk is strange");
    await region(page, "Broken machines").getByRole("link", { name: PROD }).click();
    await button(page, "Clear quarantine").click();
    await confirm(page, `Clear the quarantine of ${PROD}?`);
    await region(page, "State").getByText("its disk is strange").waitFor({ state: "detached" });
  });

  await step("power, which asks first and names the machine", async () => {
    for (const [name, title, after] of [["Suspend", `Suspend ${PROD}?`, /^Power\s*suspended$/], ["Power on", null, /^Power\s*on$/],
      ["Reset", `Reset ${PROD}?`, /^Power\s*on$/], ["Kill", `Kill ${PROD}?`, /^Power\s*off$/]]) {
      await button(page, name).click();
      if (title) await confirm(page, title);
      await says(page, new RegExp(`^(${name}|Power off) of ${PROD}: succeeded$`));
      await shows(fact(page), after);
    }
  });

  await step("a refusal has the words of otter", async () => {
    await show(page, "#/machines/43");
    await showsView(page, "template-windows-10");
    await button(page, "Power on").click();
    const shown = page.locator("#problems .problem");
    await shown.waitFor();
    assert.match(await shown.getByRole("link", { name: "What this means" }).getAttribute("href"), /^\/problems\/[a-z-]+$/);
    await shown.getByRole("button", { name: "Dismiss" }).click();
    await shown.waitFor({ state: "detached" });
  });

  await step("answer a question", async () => {
    await show(page, "#/");
    await region(page, "Broken machines").getByRole("link", { name: "qubes-copied" }).click();
    await shows(region(page, "Question"), "might have been moved or copied");
    await region(page, "Question").getByRole("button", { name: "I Copied It", exact: true }).click();
    await region(page, "Question").waitFor({ state: "detached" });
    await shows(fact(page), /^Power\s*on$/);
  });

  await step("cancel a job that waits for another one, and follow that one, which asks, to its end", async () => {
    // The file of its serial port exists at the second power-on, so the host asks.
    for (const action of ["on", "off", "on"]) await call("POST", "/v1/machines/22/power", { action });
    const { id } = await call("POST", "/v1/machines/22/snapshots", { name: "later" });
    await show(page, "#/");
    await shows(region(page, "Running"), "New snapshot of qubes-scratch");
    await show(page, "#/jobs?state=queued");
    await page.getByRole("list", { name: "Jobs" }).getByRole("link", { name: "New snapshot of qubes-scratch" }).click();
    await showsView(page, "New snapshot of qubes-scratch");
    await shows(fact(page), /^In the queue\s*(next|\d+ before it)$/);
    await button(page, "Cancel job").click();
    await confirm(page, "Cancel the job?");
    await shows(fact(page), /^State\s*cancelled$/);
    assert.equal((await call("GET", `/v1/jobs/${id}`)).state, "cancelled");
    await region(page, "State").getByRole("link", { name: "qubes-scratch" }).click();
    const running = region(page, "State").getByRole("link", { name: "Power on of qubes-scratch" });
    const job = await running.getAttribute("href");
    await running.click();
    await showsView(page, "Power on of qubes-scratch");
    await page.getByRole("progressbar", { name: "Progress" }).waitFor();
    await region(page, "State").getByRole("link", { name: "qubes-scratch" }).click();
    await region(page, "Question").getByRole("button", { name: /append/i }).click();
    await shows(fact(page), /^Power\s*on$/);
    await show(page, job);
    await shows(fact(page), /^State\s*succeeded$/);
    await shows(page.getByRole("list", { name: "Steps" }).locator("li").first(), "succeeded");
  });

  await step("leases, their line and their pool", async () => {
    const held = await call("POST", "/v1/leases", { select: { machine: "32" }, ttl: "20m", holder: "first" });
    const waits = await call("POST", "/v1/leases", { select: { machine: "32" }, ttl: "20m", queue_for: "20m", holder: "second" });
    await show(page, "#/");
    await shows(region(page, "Waiting"), /second next, since/);
    await region(page, "Waiting").getByRole("link", { name: "second" }).click();
    await showsView(page, "Queued lease");
    await show(page, `#/leases/${held.id}`);
    await showsView(page, "Lease of ci-runner-2");
    assert.match(await region(page, "State").innerText(), /use its secret/);
    await button(page, "Use its secret").click();
    await confirm(page, "Use a lease secret", { Secret: `${held.id}.${held.secret}` });
    await shows(region(page, "State"), "has its secret");
    await button(page, "Give back").click();
    await confirm(page, "Give back ci-runner-2?");
    await show(page, `#/leases/${waits.id}`);
    await showsView(page, "Lease of ci-runner-2");
    await shows(page.getByRole("list", { name: "History" }).locator("li").first(), /./);
    await show(page, "#/pools");
    await shows(region(page, "qubes"), /\d+ free of \d+/);
  });

  await step("files: a folder, an upload, a drop, a replacement, save and delete", () => files(page, call));

  await step("insert an ISO, boot from it, eject it", async () => {
    await show(page, "#/machines/16");
    await button(page, "Insert ISO").click();
    await confirm(page, "Insert an ISO into qubes-4.2-sdw-staging", { Datastore: "isos", Path: "released/Qubes-R4.2.3-x86_64.iso" });
    await shows(region(page, "Drives"), "[isos] released/Qubes-R4.2.3-x86_64.iso");
    await button(page, "Boot order").click();
    await confirm(page, "Boot order of qubes-4.2-sdw-staging", { Order: "cdrom, disk" });
    await shows(region(page, "Drives"), "cdrom, disk");
    await button(page, "Power on").click();
    await shows(fact(page), /^Power\s*on$/);
    await eventually("the installer", async () => (await call("GET", "/v1/machines/16/screen/text")).text.includes("installer"));
    await button(page, "Power off").click();
    await confirm(page, "Power off qubes-4.2-sdw-staging?");
    await shows(fact(page), /^Power\s*off$/);
    await button(page, "Eject").click();
    await shows(region(page, "Drives"), "empty");
  });

  await step("artifacts: a recording in the player, a picture, a text", () => artifacts(page, otter, call));

  await step("the API's page has the token", async () => {
    await page.getByRole("link", { name: "API", exact: true }).click();
    await page.locator(".swagger-ui .information-container").waitFor();
    await page.getByRole("button", { name: /authorize/i }).first().click();
    await shows(page.locator(".swagger-ui .dialog-ux"), /Authorized/);
    await page.locator(".swagger-ui .close-modal").click();
    await page.goBack();
    await page.locator("#connection[data-state=live]").waitFor();
  });

  await step("a viewer sees all actions, and why each is forbidden", async () => {
    const viewer = await visit(browser, otter, { token: otter.tokens.vera, path: "/#/machines/16" });
    await showsView(viewer, "qubes-4.2-sdw-staging");
    const all = await region(viewer, "Actions").getByRole("button").evaluateAll((buttons) => buttons.map((one) => [
      one.textContent, one.getAttribute("aria-disabled"),
      document.getElementById(one.getAttribute("aria-describedby"))?.textContent ?? ""]));
    assert.ok(all.length >= 10);
    for (const [name, disabled, reason] of all) {
      assert.equal(disabled, "true", name);
      assert.match(reason, /viewer/, name);
    }
  });
  checkComplaints();
});

async function files(page, call) {
  await show(page, "#/datastores");
  await page.getByRole("list", { name: "Datastores" }).getByRole("link", { name: "isos" }).click();
  await showsView(page, "isos");
  const list = page.getByRole("list", { name: "Files", exact: true });
  await list.getByRole("link", { name: "released/" }).click();
  await shows(list, "otter files get 'isos:released/Qubes-R4.2.3-x86_64.iso'");
  await page.getByRole("navigation", { name: "Folder" }).getByRole("link", { name: "isos" }).click();
  await list.getByRole("link", { name: "iso/" }).click();
  await button(page, "New folder").click();
  await confirm(page, "New folder", { Name: "by hand" });
  await list.getByRole("link", { name: "by hand/" }).click();
  const file = (name, text) => ({ name, mimeType: "application/octet-stream", buffer: Buffer.from(text) });
  await page.getByLabel("Upload files").setInputFiles([file("it's small.iso", "first"), file("other.iso", "other")]);
  await button(page, "Delete it's small.iso").waitFor();
  await button(page, "Delete other.iso").waitFor();
  // The same name again is refused, unless the box is ticked.
  await page.getByLabel("Upload files").setInputFiles(file("it's small.iso", "second"));
  await problem(page, "file-exists").waitFor();
  await problem(page, "file-exists").getByRole("button", { name: "Dismiss" }).click();
  await page.getByLabel("Replace existing files").check();
  await page.locator("#drop").evaluate((zone) => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File(["second, dropped"], "it's small.iso"));
    zone.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
  });
  await shows(list, "15 B");
  const saved = page.waitForEvent("download");
  await button(page, "Save it's small.iso").click();
  assert.equal(readFileSync(await (await saved).path()).toString(), "second, dropped");
  for (const name of ["it's small.iso", "other.iso"]) {
    await button(page, `Delete ${name}`).click();
    await confirm(page, `Delete ${name}?`);
    await button(page, `Delete ${name}`).waitFor({ state: "detached" });
  }
  await page.getByText("This folder is empty.").waitFor();
  await button(page, "Measure again").click();
  await says(page, "The free space of isos was measured");
  const { items } = await call("GET", "/v1/datastores/name:isos/files?path=iso/by%20hand");
  assert.deepEqual(items, []);
}

async function artifacts(page, otter, call) {
  const lease = await call("POST", "/v1/leases", {
    select: { machine: "16" }, ttl: "20m", prepare: { power: "on", until: "serial:login:" }, record: { screen: true, serial: ["ttyS0"] },
  });
  const state = async (wanted) => eventually(`the lease to be ${wanted}`,
    async () => (await call("GET", `/v1/leases/${lease.id}`)).state === wanted);
  await state("active");
  const own = { "Otter-Lease": `${lease.id}.${lease.secret}` };
  await useRecordedPort(call, lease, own, [["user", "Password:"]]);
  const put = await fetch(`${otter.origin}/v1/leases/${lease.id}/artifacts/log.txt`, {
    method: "PUT", body: "<script>line</script>\n",
    headers: { ...own, Authorization: `Bearer ${otter.tokens.olga}`, "Content-Type": "text/plain" },
  });
  assert.equal(put.status, 201);
  await show(page, `#/leases/${lease.id}`);
  await button(page, "Use its secret").click();
  await confirm(page, "Use a lease secret", { Secret: lease.secret });
  await button(page, "Give back").click();
  await confirm(page, "Give back qubes-4.2-sdw-staging?");
  await shows(fact(page), /^State\s*released$/);
  const stored = async () => (await call("GET", `/v1/artifacts?lease=${lease.id}`)).items.map(({ name }) => name);
  await eventually("the recordings", async () => (await stored()).length >= 3);
  await page.getByRole("link", { name: "Artifacts" }).last().click();
  const list = page.getByRole("list", { name: "Artifacts" });
  await list.getByRole("link", { name: "log.txt" }).click();
  await shows(region(page, "Text"), "<script>line</script>");
  await page.goBack();
  await list.getByRole("link", { name: /\.apng$|\.png$/ }).first().click();
  await page.waitForFunction(() => document.querySelector("img.picture")?.naturalWidth > 0);
  await page.goBack();
  await list.getByRole("link", { name: /\.cast$/ }).first().click();
  await button(page, "Play").click();
  await shows(page.locator("#player"), "Password:");
  const slider = page.getByRole("slider", { name: "Time" });
  await slider.focus();
  await page.keyboard.press("Home");
  assert.equal(await slider.inputValue(), "0");
  await page.keyboard.press("End");
  await shows(page.locator("#player"), "Password:");
  await page.goBack();
  await list.getByRole("link", { name: "log.txt" }).click();
  await button(page, "Delete").click();
  await confirm(page, "Delete log.txt?");
  await says(page, "log.txt is deleted");
}
