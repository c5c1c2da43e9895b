// A person who never saw otter takes a machine, brings it to a snapshot, uses its screen and its
// serial port, and gives it back; a second person looks on, and takes the screen over.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import {
  button, checkComplaints, confirm, eventually, fact, problem, region, says, script, show, shows, showsView,
  startBrowser, startOtter, step, visit,
} from "./lab.mjs";

const CONFIG = `
[pools.qubes]
machines = ["qubes-4*"]
[pools.runners]
machines = ["ci-runner-*"]
`;
const NAME = "qubes-4.2-sdw-staging";

script("person", async () => {
  const [otter, browser] = await Promise.all([
    startOtter({ tokens: { alex: "runner", olga: "operator", vera: "viewer" }, config: CONFIG }), startBrowser(),
  ]);
  const page = await visit(browser, otter);

  await step("sign in", async () => {
    await showsView(page, "Sign in");
    await page.getByLabel("Token", { exact: true }).fill("otter_wrong");
    await button(page, "Sign in").click();
    await problem(page, "unauthenticated").waitFor();
    await page.getByLabel("Token", { exact: true }).fill(otter.tokens.alex);
    await page.keyboard.press("Enter");
    await showsView(page, "Overview");
    await shows(page.locator("#caller"), "alex (runner)");
    await shows(page.locator("#connection"), "Live");
    assert.deepEqual(await page.evaluate(() => [localStorage.length, document.cookie]), [0, ""]);
  });

  await step("find a free machine", async () => {
    await region(page, "Machines").getByRole("link", { name: /^\d+ free$/ }).click();
    await showsView(page, "Machines");
    assert.match(page.url(), /#\/machines\?free=true$/);
    await page.getByLabel("Search").fill("sdw");
    await shows(page.locator("#count"), /^1 of \d+ machines$/);
    assert.match(page.url(), /name=sdw/);
    await page.getByLabel("Power").selectOption("on");
    await shows(page.locator("#count"), /^0 of \d+ machines$/);
    await page.getByLabel("Power").selectOption("off");
    // The filters are in the address: a reload and the way back keep them.
    await page.reload();
    await shows(page.locator("#count"), /^1 of \d+ machines$/);
    assert.equal(await page.getByLabel("Search").inputValue(), "sdw");
    await page.getByRole("list", { name: "Machines" }).getByRole("link", { name: NAME }).click();
    await showsView(page, NAME);
  });

  await step("see what is forbidden, and why", async () => {
    const on = button(page, "Power on");
    assert.equal(await on.getAttribute("aria-disabled"), "true");
    const reason = page.locator(`#${await on.getAttribute("aria-describedby")}`);
    assert.match(await reason.innerText(), /take the machine first/);
    await on.click({ force: true });
    assert.equal(await page.getByRole("dialog").count(), 0);
  });

  await step("take it", async () => {
    await button(page, "Take").click();
    await confirm(page, `Take ${NAME}`, { For: "30m", Holder: "Alex, by hand", "Record screen and serial ports": true });
    await says(page, `You hold ${NAME}`);
    await shows(region(page, "State"), "Alex, by hand");
  });

  await step("bring it to a snapshot", async () => {
    const tree = page.getByRole("list", { name: "Snapshots", exact: true });
    await tree.getByRole("button", { name: "Revert to installed/updated/kickstart", exact: true }).click();
    await confirm(page, `Revert ${NAME} to installed/updated/kickstart?`, { Afterwards: "on" });
    await says(page, /^Revert of .*: succeeded$/);
    await shows(fact(page), /^Power\s*on$/);
    await shows(region(page, "State"), "installed/updated/kickstart");
  });

  await step("open the screen and drive it", async () => {
    await page.getByRole("link", { name: "Open the screen" }).click();
    await showsView(page, `Screen of ${NAME}`);
    await button(page, "Drive").click();
    await shows(page.locator("#screen-status"), "Driving");
    await page.locator("canvas[data-state=open]").waitFor();
  });

  const hasWidth = (width) => page.waitForFunction((wanted) => document.querySelector("canvas").width === wanted, width);
  await step("type on it", async () => {
    // The guest asks for a password, and then shows a larger desktop.
    await hasWidth(800);
    await page.locator("canvas").focus();
    await page.keyboard.type("otter", { delay: 5 });
    await page.keyboard.press("Enter");
    await hasWidth(1280);
  });

  await step("special keys, a text that is pasted as typing, and what it says then", async () => {
    await button(page, "Super").click();
    // This guest opens its prompt for programs by Alt-F2.
    await button(page, "Ctrl-Alt-F2").click();
    await button(page, "Type text").click();
    await confirm(page, "Type text", { Text: "xfce4-terminal\n" });
    await says(page, "15 characters were typed");
    await page.locator("canvas").focus();
    await page.keyboard.type("echo hello-otter-42", { delay: 5 });
    await page.keyboard.press("Enter");
    // otter reads the picture, as a person does: the line that was typed, and its output.
    const wanted = { any: [{ text: "hello-otter-42 hello-otter-42" }] };
    const read = () => otter.call("POST", "/v1/machines/16/screen/wait?wait=60s", { as: "olga", body: wanted });
    await read().catch(read);
  });

  await step("the canvas shows the picture of the screen", () => showsPicture(page));

  await step("save a picture, and full screen", async () => {
    const saved = page.waitForEvent("download");
    await button(page, "Save picture").click();
    const file = await (await saved).path();
    assert.equal(readFileSync(file).subarray(1, 4).toString(), "PNG");
    await button(page, "Full screen").click();
    await page.waitForFunction(() => document.fullscreenElement !== null);
    await page.evaluate(() => document.exitFullscreen());
  });

  const other = await visit(browser, otter, { token: otter.tokens.olga, path: "/#/machines/16/screen" });
  await step("another person looks on, and takes over", async () => {
    await button(other, "Watch").click();
    await shows(other.locator("#screen-status"), "Watching");
    await shows(page.getByRole("list", { name: "Viewers" }), "olga looks");
    await shows(other.getByRole("list", { name: "Viewers" }), "alex drives");
    await button(other, "Take over").click();
    await confirm(other, `Drive ${NAME}?`, { "Reason for the override": "a demonstration" });
    await shows(other.locator("#screen-status"), "Driving");
    await shows(page.locator("#screen-status"), /^Closed: /);
    await button(page, "Take over").click();
    await shows(page.locator("#screen-status"), "Driving");
    await shows(other.locator("#screen-status"), /^Closed: /);
    await other.context().close();
  });

  await step("leave the screen with the keyboard", async () => {
    await page.locator("canvas").focus();
    await page.keyboard.press("Control+Alt+Shift");
    assert.equal(await page.evaluate(() => document.activeElement.id), "screen-stop");
    await page.keyboard.press("Enter");
    await shows(page.locator("#screen-status"), "Closed: You stopped.");
  });

  await step("use the serial port", async () => {
    const port = region(page, "Serial port");
    assert.deepEqual(await page.getByLabel("Port", { exact: true }).locator("option").allInnerTexts(), ["ttyS0", "ttyS1"]);
    // The second port is a pipe, which otter cannot reach: the page says why.
    await page.getByLabel("Port", { exact: true }).selectOption("ttyS1");
    await shows(port, /ttyS1[^]*The port is the pipe/);
    await page.getByLabel("Port", { exact: true }).selectOption("ttyS0");
    await port.getByRole("button", { name: "Read and write", exact: true }).click();
    await shows(page.locator("#serial-status"), "Reading and writing.");
    await page.getByLabel("Input", { exact: true }).fill("");
    await page.keyboard.press("Enter");
    const output = page.locator("#serial-text");
    await shows(output, "login:");
    for (const [line, prompt] of [["user", "assword:"], ["otter", "$"], ["echo serial-$((40 + 2)) <b>", "<b>"]]) {
      await page.getByLabel("Input", { exact: true }).fill(line);
      await page.keyboard.press("Enter");
      await shows(output, prompt);
    }
    await button(page, "Ctrl-C").click();
    await port.getByRole("button", { name: "Stop the serial port" }).click();
    await shows(page.locator("#serial-status"), "Closed: You stopped.");
  });

  await step("see why the last run failed", async () => {
    await region(page, "Screen").getByRole("link", { name: NAME }).click();
    await button(page, "Shut down").click();
    await confirm(page, `Shut down ${NAME}?`);
    await says(page, `Shut down of ${NAME}: failed`);
    await problem(page, "tools-unavailable").getByRole("button", { name: "Dismiss" }).click();
    await page.getByRole("link", { name: "Overview" }).click();
    await region(page, "Failed lately").getByRole("link", { name: `Shut down of ${NAME}` }).click();
    await shows(region(page, "Why it failed"), "tools-unavailable");
    await shows(page.getByRole("list", { name: "Steps" }).locator("li").first(), "failed");
    await region(page, "State").getByRole("link", { name: NAME }).click();
  });

  await step("keep a snapshot", async () => {
    await button(page, "New snapshot").click();
    await confirm(page, `New snapshot of ${NAME}`, { Name: "by hand", Description: "<i>before</i> the test" });
    await says(page, `New snapshot of ${NAME}: succeeded`);
    await shows(region(page, "Snapshots"), "<i>before</i> the test");
  });

  await step("a machine that is off has no signal", async () => {
    await button(page, "Power off").click();
    await confirm(page, `Power off ${NAME}?`);
    await says(page, `Power off of ${NAME}: succeeded`);
    await show(page, "#/machines/16/screen");
    await button(page, "Watch").click();
    await shows(page.locator("#screen-status"), /No signal|off/);
    await region(page, "Screen").getByRole("link", { name: NAME }).click();
  });

  await step("renew it, and give it back", async () => {
    await button(page, "Renew").click();
    await confirm(page, `Renew ${NAME}`, { For: "45m" });
    await button(page, "Give back").click();
    await confirm(page, `Give back ${NAME}?`);
    await says(page, `${NAME} was given back`);
    await shows(fact(page), /^Free\s*free$/);
  });
  checkComplaints();
});

/** The canvas has each pixel of the picture that otter makes of the same screen. */
async function showsPicture(page) {
  await eventually("the canvas to have each pixel of the screen", () => page.evaluate(async () => {
    const headers = { Authorization: `Bearer ${sessionStorage.getItem("otter.token")}` };
    const [[lease, secret]] = Object.entries(JSON.parse(sessionStorage.getItem("otter.leases")));
    headers["Otter-Lease"] = `${lease}.${secret}`;
    const response = await fetch("v1/machines/16/screen.png", { headers });
    const image = await createImageBitmap(await response.blob());
    const canvas = document.querySelector("canvas");
    const own = document.createElement("canvas");
    [own.width, own.height] = [image.width, image.height];
    own.getContext("2d").drawImage(image, 0, 0);
    const pixels = (of) => of.getContext("2d").getImageData(0, 0, of.width, of.height).data;
    const [shown, made] = [pixels(canvas), pixels(own)];
    return canvas.width === own.width && shown.every((value, index) => value === made[index]);
  }));
}
