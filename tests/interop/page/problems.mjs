// The page shows each problem code of otter: its title, its detail, its code, and the link to what
// it means. The answers are made here, because no otter gives all of them.

import assert from "node:assert/strict";

import { button, checkComplaints, problem, script, shows, showsView, startBrowser, startOtter, step, visit } from "./lab.mjs";

script("problems", async () => {
  const [otter, browser] = await Promise.all([startOtter(), startBrowser()]);
  const page = await visit(browser, otter, { path: "/#/machines/16" });
  await showsView(page, "qubes-4.2-sdw-staging");
  const document_ = await otter.call("GET", "/openapi.json");
  const codes = document_.components.schemas.Problem.properties.code["x-extensible-enum"];
  assert.ok(codes.length > 50, `${codes.length} codes`);

  let answer = null;
  await page.route("**/v1/machines/16/power", (route) => route.fulfill({
    status: answer.status, contentType: "application/problem+json", body: JSON.stringify(answer),
  }));
  await step(`${codes.length} codes`, async () => {
    for (const [index, code] of codes.entries()) {
      answer = {
        type: `/problems/${code}`, code, status: 400 + (index % 2) * 100, title: `The title of ${code}`,
        detail: `The detail of ${code} <b>${index}</b>.`, request_id: `request-${index}`,
        retry: index % 3 === 0 ? "after" : "no", machine: "16", machine_name: "qubes", job: null, lease: null,
        links: { machine: "/v1/machines/17", problem: "https://elsewhere.example.org/" },
        errors: [{ pointer: "/action", parameter: null, code: "unknown", detail: `error ${index}` }],
        candidates: [{ id: "21", name: "one of two" }],
        fault: { type: "InvalidState", message: "what the host said" }, seen: "what was seen", sent: null,
      };
      await button(page, "Power on").dispatchEvent("click");
      await problem(page, code).waitFor();
      const { role, text, marked, links } = await problem(page, code).evaluate((shown) => ({
        role: shown.getAttribute("role"), text: shown.innerText,
        marked: [...shown.querySelectorAll("code")].map((element) => element.textContent),
        links: [...shown.querySelectorAll("a")].map((link) => [link.textContent, link.getAttribute("href")]),
      }));
      assert.equal(role, "alert");
      assert.ok(marked.includes(code), code);
      for (const wanted of [
        answer.title, answer.detail, `error ${index}`, "/action", "one of two (21)", "what the host said", "InvalidState",
        "what was seen", `request-${index}`, ...(answer.retry === "after" ? ["trying again later may help"] : []),
      ]) assert.ok(text.includes(wanted), `${code}: "${wanted}" is not in ${text}`);
      assert.deepEqual(links, [["machine", "#/machines/17"], ["What this means", `/problems/${code}`]]);
      await problem(page, code).getByRole("button", { name: "Dismiss" }).dispatchEvent("click");
      await problem(page, code).waitFor({ state: "detached" });
    }
  });

  await step("an answer that is not otter's", async () => {
    await page.unroute("**/v1/machines/16/power");
    await page.route("**/v1/machines/16/power", (route) => route.fulfill({ status: 502, contentType: "text/html", body: "<b>proxy</b>" }));
    await button(page, "Power on").click();
    await problem(page, "not-otter").waitFor();
    await page.unroute("**/v1/machines/16/power");
    await page.route("**/v1/machines/16/power", (route) => route.abort());
    await button(page, "Power on").click();
    await problem(page, "no-answer").waitFor();
  });

  await step("a problem of otter in a dialog, which stays open", async () => {
    await page.unroute("**/v1/machines/16/power");
    await button(page, "Take").click();
    const take = page.getByRole("dialog", { name: "Take qubes-4.2-sdw-staging" });
    await take.getByLabel("For", { exact: true }).fill("a while");
    await take.getByRole("button").last().click();
    await shows(take.locator(".problem"), "invalid-request");
    await shows(take.locator(".problem"), "/ttl");
  });
  checkComplaints();
});
