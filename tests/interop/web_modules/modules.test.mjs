// Tests of the page's modules that need no browser: the rules of rights, the codec of RFB, keys,
// terminal, recordings, addresses and formats. The variable WEB names the folder of the modules.

import assert from "node:assert/strict";
import { test } from "node:test";
import { pathToFileURL } from "node:url";

const load = (name) => import(new URL(name, pathToFileURL(`${process.env.WEB}/`)));

const rights = await load("rights.js");
const route = await load("route.js");
const format = await load("format.js");
const rfb = await load("screen/rfb.js");
const keys = await load("screen/keys.js");
const { Terminal } = await load("serial/terminal.js");

const about = (role) => ({ caller: { name: "ci", role }, self_machine: null });
const machine = (more) => ({ id: "16", name: "m", protected: false, template: false, lease: null, question: null, power_state: "off", ...more });

test("a role, a lease and a protection decide who changes a machine", () => {
  const leased = machine({ lease: { id: "l", holder: "h" } });
  const active = { state: "active" };
  for (const [role, one, lease, holds, reason, override] of [
    ["viewer", machine(), null, false, /viewer/, false],
    ["runner", machine(), null, false, /take the machine first/, false],
    ["operator", machine(), null, false, null, false],
    ["operator", machine({ protected: true }), null, false, /protected/, false],
    ["runner", leased, active, true, null, false],
    ["runner", leased, { state: "preparing" }, true, /preparing/, false],
    ["runner", leased, active, false, /held by h/, false],
    ["operator", leased, active, false, null, true],
    ["operator", leased, active, true, null, false],
  ]) {
    const right = rights.mayChange(about(role), one, lease, holds);
    if (reason) assert.match(right.reason, reason, role);
    else assert.equal(right.reason, null, role);
    assert.equal(right.override, override, role);
  }
  assert.match(rights.mayChange(null, machine(), null, false).reason, /did not say/);
});

test("a power action needs the right state, and an answered question", () => {
  const power = (action, more) => rights.mayPower(action, about("admin"), machine(more), null, false).reason;
  assert.equal(power("on"), null);
  assert.match(power("off"), /off already/);
  assert.match(power("on", { power_state: "on" }), /on already/);
  assert.match(power("reset", { power_state: "suspended" }), /not on/);
  assert.match(power("on", { question: { id: "1" } }), /answer it first/);
});

test("only the requester or an operator cancels a job", () => {
  const job = (more) => ({ state: "running", requested_by: "ci", cancelable: true, cancel_requested_at: null, ...more });
  assert.equal(rights.mayCancel(about("runner"), job()), null);
  assert.match(rights.mayCancel(about("runner"), job({ requested_by: "other" })), /other/);
  assert.equal(rights.mayCancel(about("operator"), job({ requested_by: "other" })), null);
  assert.match(rights.mayCancel(about("admin"), job({ state: "failed" })), /has ended/);
});

test("addresses keep names with any characters", () => {
  const hash = route.link(["machines", "a/b?c#d%"], { name: "x&y", free: "" });
  const { path, query } = route.parse(hash);
  assert.deepEqual(path, ["machines", "a/b?c#d%"]);
  assert.deepEqual(Object.fromEntries(query), { name: "x&y" });
  assert.deepEqual(route.parse("#/machines/%E0%A4%A").path, ["machines", "%E0%A4%A"]);
  const given = route.parse("#console=serial&machine=16&port=9000&mode=view&token=abc");
  assert.equal(given.console.get("port"), "9000");
});

test("links of the API lead to views", () => {
  assert.equal(route.viewOf("/v1/machines/16", ""), "#/machines/16");
  assert.equal(route.viewOf("/otter/v1/jobs/7", "/otter"), "#/jobs/7");
  assert.equal(route.viewOf("/v1/machines/a%2Fb/screen", ""), "#/machines/a%2Fb/screen");
  for (const other of ["/v1/machines/16/snapshots", "https://evil.example/v1/jobs/1", "/problems/x"]) {
    assert.equal(route.viewOf(other, ""), null, other);
  }
});

test("formats are short", () => {
  assert.deepEqual([0, 59, 3600, 93784].map(format.seconds), ["0 s", "59 s", "1 h", "1 d 2 h"]);
  assert.deepEqual([null, 0, 1023, 1024, 1.5 * 1024 ** 3].map(format.bytes), ["–", "0 B", "1023 B", "1.0 KiB", "1.5 GiB"]);
  assert.equal(format.relative("2026-01-01T00:05:00Z", Date.parse("2026-01-01T00:00:00Z")), "in 5 min");
  assert.equal(format.jobTitle({ kind: "file.upload", machine_name: null, target: { datastore: "isos", path: "a.iso" } }), "Upload of [isos] a.iso");
});

test("bytes are taken in other pieces than they came", async () => {
  const queue = new rfb.ByteQueue();
  queue.push(Uint8Array.of(1, 2, 3));
  queue.push(Uint8Array.of(4));
  assert.deepEqual([...await queue.take(2)], [1, 2]);
  const later = queue.take(4);
  queue.push(Uint8Array.of(5, 6, 7));
  assert.deepEqual([...await later], [3, 4, 5, 6]);
  const never = queue.take(2);
  queue.fail(new Error("closed"));
  await assert.rejects(never, /closed/);
});

test("compact lengths are those of the server", async () => {
  for (const [bytes, length] of [[[0], 0], [[127], 127], [[0x80, 1], 128], [[0x90, 0x4e], 10000], [[0x80, 0x80, 1], 16384], [[255, 255, 255], 4194303]]) {
    const queue = new rfb.ByteQueue();
    queue.push(Uint8Array.from(bytes));
    assert.equal(await rfb.compactLength(queue), length);
  }
});

test("messages have the bytes of the protocol", () => {
  assert.deepEqual([...rfb.keyEvent(0xff0d, true)], [4, 1, 0, 0, 0, 0, 0xff, 0x0d]);
  assert.deepEqual([...rfb.pointerEvent(1, 7, 258)], [5, 1, 0, 7, 1, 2]);
  assert.deepEqual([...rfb.updateRequest({ width: 258, height: 3 }, true)], [3, 1, 0, 0, 0, 0, 1, 2, 0, 3]);
  assert.deepEqual([...rfb.encodings([-260, 0])], [2, 0, 0, 2, 0xff, 0xff, 0xfe, 0xfc, 0, 0, 0, 0]);
  assert.deepEqual([...rfb.toRgba(Uint8Array.of(1, 2, 3, 0))], [3, 2, 1, 255]);
});

test("a handshake and an update reach the screen at once", async () => {
  globalThis.ImageData = class {
    constructor(data, width, height) {
      Object.assign(this, { data, width, height });
    }
  };
  const queue = new rfb.ByteQueue();
  const sent = [];
  const shown = [];
  const done = rfb.serve(queue, (bytes) => sent.push([...bytes]), {
    resize: (width, height) => shown.push(`${width}x${height}`),
    paint: (images) => shown.push(images.map(({ x, y, image }) => [x, y, ...image.data])),
  });
  const text = new TextEncoder();
  queue.push(text.encode("RFB 003.008\n"));
  queue.push(Uint8Array.of(1, 1, 0, 0, 0, 0));
  queue.push(Uint8Array.of(0, 2, 0, 1, ...new Array(16).fill(0), 0, 0, 0, 1, 0x78));
  queue.push(Uint8Array.of(0, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 2, 3, 0));
  queue.push(Uint8Array.of(0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 4, 5, 6, 0));
  queue.push(Uint8Array.of(0, 0, 0, 1, 0, 0, 0, 0, 0, 4, 0, 3, 0xff, 0xff, 0xff, 0x21));
  queue.push(Uint8Array.of(9));
  await assert.rejects(done, /unknown type 9/);
  assert.deepEqual(shown, ["2x1", [[0, 0, 3, 2, 1, 255], [1, 0, 6, 5, 4, 255]], "4x3", []]);
  assert.deepEqual(sent.at(-1), [3, 0, 0, 0, 0, 0, 0, 4, 0, 3]);
});

test("a key stands for its position on a US keyboard", () => {
  for (const [event, expected] of [
    [{ code: "KeyZ", key: "y" }, 0x7a], [{ code: "Digit7", key: "/" }, 0x37], [{ code: "F12", key: "F12" }, 0xffc9],
    [{ code: "Numpad5", key: "5" }, 0xffb5], [{ code: "AltRight", key: "AltGraph" }, 0xffea],
    [{ code: "", key: "Enter" }, 0xff0d], [{ code: "", key: "a" }, 0x61], [{ code: "", key: "€" }, 0x010020ac],
    [{ code: "", key: "Unidentified" }, null],
  ]) {
    assert.equal(keys.keysym(event), expected, JSON.stringify(event));
  }
});

test("a terminal shows what a terminal shows, however its output is cut", () => {
  const output = "\x1b[32mok\x1b[0m\r\nprogress 1\rprogress 2\r\nab\b!\n\x1b]0;title\x07x\x1b[2K\x1b[Gy\tz\x1b(B.\x1b[3D\x1b[K";
  const whole = new Terminal();
  whole.write(output);
  const cut = new Terminal();
  for (const character of output) cut.write(character);
  assert.equal(whole.text(), "ok\nprogress 2\na!\ny      ");
  assert.equal(cut.text(), whole.text());
  const many = new Terminal();
  many.write("line\n".repeat(6000));
  assert.equal(many.lines.length, 5000);
  assert.equal(many.completed, 6000);
});
