// Each view in light and dark, and on a phone: axe finds nothing, the page is not wider than its
// window, and the keyboard alone is enough. The pictures go to the folder of OTTER_PICTURES.

import assert from "node:assert/strict";
import path from "node:path";

import {
  button, checkAccessibility, checkComplaints, eventually, heading, PICTURES, region, script, show, shows, showsView,
  startBrowser, startOtter, step, visit,
} from "./lab.mjs";
import { populate } from "./example.mjs";

const CONFIG = `
[pools.qubes]
machines = ["qubes-4*"]
max_running = 4
[pools.runners]
machines = ["ci-runner-*"]
`;

script("views", async () => {
  const [otter, browser] = await Promise.all([
    startOtter({ tokens: { olga: "operator", ci: "runner" }, config: CONFIG }), startBrowser(),
  ]);
  const example = await step("an example of a day", () => populate(otter));
  const views = {
    overview: ["#/", "Overview"],
    machines: ["#/machines", "Machines"],
    machine: ["#/machines/16", "qubes-4.2-sdw-staging"],
    question: ["#/machines/51", "qubes-copied"],
    screen: ["#/machines/17/screen", "Screen of qubes-4.2-sdw-prod"],
    jobs: ["#/jobs", "Jobs"],
    job: [`#/jobs/${example.failed}`, null],
    leases: ["#/leases", "Leases"],
    lease: [`#/leases/${example.lease}`, "Lease of qubes-4.2-sdw-staging"],
    pools: ["#/pools", "Pools"],
    artifacts: ["#/artifacts", "Artifacts"],
    artifact: [`#/artifacts/${example.text}`, "test.log"],
    player: [`#/artifacts/${example.cast}`, "ttyS0.cast"],
    datastores: ["#/datastores", "Datastores"],
    files: [`#/datastores/${encodeURIComponent(example.datastore)}?path=released`, "isos"],
    "not-found": ["#/no-such-view", "Not found"],
  };
  const page = await visit(browser, otter, { token: otter.tokens.olga });
  await page.locator("#connection[data-state=live]").waitFor();

  const settled = async (name) => {
    const [hash, title] = views[name];
    await show(page, hash);
    if (title) await showsView(page, title);
    if (name === "screen") {
      await button(page, "Watch").click();
      await page.locator("canvas[data-state=open]").waitFor();
    }
    await eventually(`${name} to be read`, async () => !(await page.locator("main").innerText()).includes("Loading…"));
    assert.equal(await page.evaluate(() => document.querySelectorAll("h1").length), 1, name);
    const problems = await page.locator("main .problem").allInnerTexts();
    assert.deepEqual(name === "job" ? problems.slice(1) : problems, [], name);
    if (name === "machine") {
      const isShown = () => page.waitForFunction(() => document.querySelector("img.picture")?.naturalWidth > 0);
      await isShown();
      await button(page, "Look again").click();
      await isShown();
    }
  };
  const picture = (name) => page.screenshot({ path: path.join(PICTURES, `${name}.png`), animations: "disabled" });

  await step("axe finds what is wrong", async () => {
    await page.evaluate(() => document.querySelector("h1").append(document.createElement("img")));
    await assert.rejects(checkAccessibility(page, "a picture without a text"), /image-alt/);
    await page.evaluate(() => document.querySelector("h1 img").remove());
  });

  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    for (const name of Object.keys(views)) {
      await step(`${name}, ${colorScheme}`, async () => {
        await settled(name);
        await checkAccessibility(page, `${name}, ${colorScheme}`);
        await picture(`${name}-${colorScheme}`);
      });
    }
    await step(`a dialog with a problem, ${colorScheme}`, async () => {
      await settled("machines");
      await settled("machine");
      await button(page, "Revert to installed").click();
      await page.getByRole("dialog").waitFor();
      await checkAccessibility(page, `dialog, ${colorScheme}`);
      await picture(`dialog-${colorScheme}`);
      await page.keyboard.press("Escape");
      await show(page, "#/");
      await button(page, "Take a machine").click();
      await page.getByLabel("For", { exact: true }).fill("soon");
      await page.getByRole("dialog").getByRole("button").last().click();
      await page.getByRole("dialog").locator(".problem").waitFor();
      await checkAccessibility(page, `problem, ${colorScheme}`);
      await page.keyboard.press("Escape");
    });
    await step(`signing in, ${colorScheme}`, async () => {
      const guest = await visit(browser, otter, { colorScheme });
      await showsView(guest, "Sign in");
      await checkAccessibility(guest, `sign in, ${colorScheme}`);
      await guest.screenshot({ path: path.join(PICTURES, `sign-in-${colorScheme}.png`) });
      await guest.context().close();
    });
  }

  await step("on a phone", async () => {
    await page.emulateMedia({ colorScheme: "light" });
    await page.setViewportSize({ width: 360, height: 740 });
    for (const name of Object.keys(views)) {
      await settled(name);
      const [wide, width] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(wide <= width, `${name} is ${wide} pixels wide on ${width}`);
      await picture(`${name}-phone`);
    }
    await settled("machines");
    await checkAccessibility(page, "machines on a phone");
    await settled("machine");
    await checkAccessibility(page, "a machine on a phone");
    await page.setViewportSize({ width: 1280, height: 900 });
  });

  await step("by the keyboard alone", async () => {
    await show(page, "#/");
    await showsView(page, "Overview");
    assert.equal(await page.evaluate(() => document.activeElement.id), "title");
    const press = (key) => page.keyboard.press(key);
    const focused = () => page.evaluate(() => document.activeElement.textContent);
    await page.evaluate(() => document.querySelector(".skip").focus());
    await press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement.id), "title");
    const tabTo = async (name) => {
      for (let count = 0; count < 80; count += 1) {
        if ((await focused()).trim() === name) {
          // The outline of the focus can be seen.
          assert.notEqual(await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle), "none", name);
          return;
        }
        await press("Tab");
      }
      assert.fail(`the key Tab does not reach ${name}`);
    };
    await tabTo("Take a machine");
    await press("Enter");
    await page.getByRole("dialog", { name: "Take a machine" }).waitFor();
    await press("Escape");
    await page.getByRole("dialog").waitFor({ state: "detached" });
    await eventually("the focus to come back", async () => await focused() === "Take a machine");
    await page.evaluate(() => document.querySelector(".skip").focus());
    await tabTo("Machines");
    await press("Enter");
    await showsView(page, "Machines");
    await tabTo("ci-runner-2");
    await press("Enter");
    await showsView(page, "ci-runner-2");
    await tabTo("Quarantine");
    await press("Space");
    await page.getByRole("dialog", { name: "Quarantine ci-runner-2" }).waitFor();
    await page.keyboard.type("by keyboard");
    await press("Enter");
    await shows(region(page, "State"), "by keyboard");
    assert.equal(await heading(page).innerText(), "ci-runner-2");
  });
  checkComplaints();
});
