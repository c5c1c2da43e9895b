// One console alone, opened by a console token from the fragment of the address.

import { path } from "../api.js";
import { invalidate } from "../frame.js";
import { actions, section } from "../parts.js";
import { ScreenConsole, canvasView, statusText } from "../screen/view.js";
import { STROKES } from "../screen/keys.js";
import { SerialConsole, terminalView } from "../serial/view.js";
import { h } from "../vdom.js";

let shown = null;

/** Takes the token out of the address, where others could see it, and keeps it for one use. */
export function takeToken(route) {
  const given = Object.fromEntries(route.console);
  shown = { ...given, isSerial: given.console === "serial", used: !given.token };
  history.replaceState(null, "", "#/console");
}

export const title = () => {
  if (!shown) return "Console";
  return shown.isSerial ? `Serial port of ${shown.machine}` : `Screen of ${shown.machine}`;
};

export function view() {
  if (!shown) return h("p", {}, "This link was used. A console token opens one console, once.");
  const { machine, port, mode, token } = shown;
  if (!shown.own) {
    shown.own = shown.isSerial ? new SerialConsole(machine) : new ScreenConsole(machine);
    shown.own.reason = "";
  }
  const { own } = shown;
  const begin = () => {
    shown.used = true;
    const target = shown.isSerial
      ? `${path("machines", machine, "serial", port ?? "")}/stream`
      : path("machines", machine, "screen", "rfb");
    own.open(
      { token, url: `${target}?mode=${encodeURIComponent(mode ?? "view")}` },
      mode ?? "view",
      undefined,
    );
  };
  const stop =
    own.state !== "closed" &&
    h(
      "button",
      {
        id: "screen-stop",
        key: "stop",
        type: "button",
        onclick: () => {
          own.close("You stopped.");
          invalidate();
        },
      },
      "Stop",
    );
  const key = (name) => ({
    label: name,
    reason: own.isDriving?.() ? null : "The screen is only shown.",
    run: () => own.input.stroke(STROKES[name]),
  });
  return section(
    "console",
    shown.isSerial ? `Serial port ${port ?? ""}` : "Screen",
    !shown.isSerial && actions("console", [key("Ctrl-Alt-Del"), key("Ctrl-Alt-F2"), key("Super")]),
    stop,
    h(
      "p",
      { id: shown.isSerial ? "serial-status" : "screen-status", role: "status" },
      shown.isSerial
        ? own.state === "closed"
          ? `Closed: ${own.reason}`
          : own.mode === "drive"
            ? "Reading and writing."
            : "Reading."
        : statusText(own, null),
    ),
    shown.isSerial ? terminalView(own, port ?? "the port") : canvasView(own, machine, own.state),
    !shown.used && h("span", { key: "begin", oncreate: begin }),
  );
}

export function leave() {
  shown?.own?.leave();
  shown = null;
}
