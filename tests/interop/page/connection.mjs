// The page when the connection, the token or JavaScript is missing, and in two tabs.

import assert from "node:assert/strict";

import {
  button, checkComplaints, confirm, fact, region, script, show, shows, showsView, startBrowser, startOtter, step, visit,
} from "./lab.mjs";

script("connection", async () => {
  const [otter, browser] = await Promise.all([
    startOtter({ tokens: { ci: "runner", olga: "operator", root: "admin" } }), startBrowser(),
  ]);

  await step("without JavaScript a sentence says what to do", async () => {
    const plain = await visit(browser, otter, { javaScriptEnabled: false });
    assert.match(await plain.locator("body").innerText(), /This page needs JavaScript\. Allow it/);
    await plain.context().close();
  });

  const page = await visit(browser, otter, { token: otter.tokens.olga, path: "/#/machines/17" });
  const connection = page.locator("#connection");
  await showsView(page, "qubes-4.2-sdw-prod");
  await shows(connection, "Live");

  await step("another tab of the same browser asks for a token of its own", async () => {
    const other = await visit(browser, otter, { context: page.context() });
    await showsView(other, "Sign in");
    await other.getByLabel("Token", { exact: true }).fill(otter.tokens.ci);
    await other.keyboard.press("Enter");
    await shows(other.locator("#caller"), "ci (runner)");
    await shows(page.locator("#caller"), "olga (operator)");
    // Both follow what one of them does.
    await show(other, "#/machines/16");
    await button(other, "Take").click();
    await confirm(other, "Take qubes-4.2-sdw-staging", { For: "30m" });
    await show(page, "#/machines/16");
    await shows(fact(page), /^Held by\s*ci/);
    assert.equal(await button(page, "Power on").getAttribute("aria-disabled"), null);
    await button(page, "Power on").click();
    await confirm(page, "Power on qubes-4.2-sdw-staging?", { "Reason for the override": "the other tab is away" });
    await shows(fact(other), /^Power\s*on$/);

    await step("a token that is revoked under the open page", async () => {
      await otter.token("revoke", "ci");
      await showsView(other, "Sign in");
      await shows(other.locator("#connection"), "Signed out");
      await shows(other.locator(".problem"), "unauthenticated");
      assert.equal(await other.evaluate(() => sessionStorage.getItem("otter.token")), null);
      await other.getByLabel("Token", { exact: true }).fill(otter.tokens.root);
      await other.keyboard.press("Enter");
      await showsView(other, "qubes-4.2-sdw-staging");
      await shows(other.locator("#caller"), "root (admin)");
      await button(other, "Sign out").click();
      await showsView(other, "Sign in");
    });
  });

  await step("otter restarts under the open page", async () => {
    await show(page, "#/machines/17");
    await showsView(page, "qubes-4.2-sdw-prod");
    await otter.end();
    await shows(connection, /^Connection lost\. Showing what was known at \d+:\d\d:\d\d; trying again…$/);
    // What was known is still there, also in another view.
    await shows(fact(page), /^Power\s*on$/);
    await show(page, "#/machines");
    await page.getByRole("list", { name: "Machines" }).getByRole("link", { name: "golden-debian-12" }).waitFor();
    await show(page, "#/machines/17");
    await button(page, "Power off").click();
    const ask = page.getByRole("dialog");
    await ask.getByRole("button").last().click();
    await shows(ask.locator(".problem"), "otter did not answer");
    await page.keyboard.press("Escape");
    await otter.begin();
    const { lease } = await otter.call("GET", "/v1/machines/16", { as: "olga" });
    assert.ok(lease, "the lease outlives the restart");
    await shows(connection, "Live");
    // It catches up: what happens from then on is shown.
    await otter.call("PUT", "/v1/machines/17/quarantine", { as: "olga", body: { reason: "after the restart" } });
    await shows(region(page, "State"), "after the restart");
    // The simulated host forgot that machine 16 was powered on; the page knows too.
    await show(page, "#/machines/16");
    await shows(fact(page), /^Held by\s*ci/);
  });
  checkComplaints();
});
