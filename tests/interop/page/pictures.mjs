// Makes the pictures of the README: `tests/interop/page/pictures` calls it.

import path from "node:path";

import { populate } from "./example.mjs";
import { button, eventually, PICTURES, script, show, showsView, startBrowser, startOtter, visit } from "./lab.mjs";

const CONFIG = `
[pools.qubes]
machines = ["qubes-4*"]
[pools.runners]
machines = ["ci-runner-*"]
`;

script("pictures", async () => {
  const [otter, browser] = await Promise.all([startOtter({ tokens: { olga: "operator" }, config: CONFIG }), startBrowser()]);
  await populate(otter);
  const options = { token: otter.tokens.olga, viewport: { width: 1100, height: 720 } };
  const page = await visit(browser, otter, options);
  await showsView(page, "Overview");
  await page.locator("#connection[data-state=live]").waitFor();
  const picture = (name) => page.screenshot({ path: path.join(PICTURES, `${name}.png`), animations: "disabled" });
  await picture("overview");
  await show(page, "#/machines/17/screen");
  await showsView(page, "Screen of qubes-4.2-sdw-prod");
  await button(page, "Watch").click();
  await page.locator("canvas[data-state=open]").waitFor();
  await page.evaluate(() => scrollTo(0, 0));
  await picture("screen");
  await show(page, "#/machines/16");
  await showsView(page, "qubes-4.2-sdw-staging");
  await eventually("everything to be read", async () => !(await page.locator("main").innerText()).includes("Loading…"));
  await page.waitForFunction(() => document.querySelector("img.picture")?.naturalWidth > 0);
  await page.emulateMedia({ colorScheme: "dark" });
  await picture("machine");
});
