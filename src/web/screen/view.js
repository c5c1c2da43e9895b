// The live screen of a machine: look, drive, special keys, typing of text, and who else looks; the
// serial port is next to it.

import { call, get, path } from "../api.js";
import { consoleToken, openConsole, sendTo } from "../console_socket.js";
import { resource, reload } from "../data.js";
import { OVERRIDE_FIELD, openDialog } from "../dialogs.js";
import { invalidate } from "../frame.js";
import { attempt, say } from "../messages.js";
import { actions, at, facts, leaseLink, loaded, machineLink, nothing, section } from "../parts.js";
import { save } from "../save.js";
import { SerialConsole, serialSection } from "../serial/view.js";
import { store } from "../store.js";
import { h } from "../vdom.js";
import { rightsOf } from "../views/machine.js";
import { ScreenInput } from "./input.js";
import { STROKES } from "./keys.js";
import { ByteQueue, serve } from "./rfb.js";

/** How often the page asks who looks, in milliseconds. */
const LOOK_AROUND = 3000;

/** One live screen, from the first look until the view is left. */
export class ScreenConsole {
  constructor(machine) {
    this.machine = machine;
    this.state = "closed";
    this.mode = "view";
    this.reason = "";
    this.canvas = null;
    this.input = null;
    this.socket = null;
    this.timer = 0;
  }

  attach(canvas) {
    this.canvas = canvas;
    this.input = new ScreenInput(canvas, {
      send: (bytes) => {
        if (this.socket) sendTo(this.socket, bytes);
      },
      isDriving: () => this.isDriving(),
      leave: () => document.getElementById("screen-stop")?.focus(),
    });
  }

  isDriving() {
    return this.state === "open" && this.mode === "drive";
  }

  /** Opens the screen; a problem is thrown. */
  async start(mode, authority, force = false) {
    this.close("");
    this.state = "connecting";
    this.mode = mode;
    invalidate();
    try {
      this.open(
        await consoleToken({ machine: this.machine, kind: "screen", mode, force }, authority),
        mode,
      );
    } catch (error) {
      this.state = "closed";
      invalidate();
      throw error;
    }
  }

  /** Opens the WebSocket of a console token. */
  open(token, mode) {
    const queue = new ByteQueue();
    this.mode = mode;
    this.state = "connecting";
    const socket = openConsole(
      token,
      {},
      {
        open: () => {},
        bytes: (piece) => queue.push(piece),
        close: (sentence) => {
          queue.fail(new Error(sentence));
          if (this.socket === socket) this.closed(sentence);
        },
      },
    );
    this.socket = socket;
    serve(queue, (bytes) => sendTo(socket, bytes), this).catch((error) => {
      if (this.socket === socket && socket.readyState === WebSocket.OPEN) {
        socket.close();
        this.closed(error.message);
      }
    });
    invalidate();
  }

  resize(width, height) {
    if (!this.canvas) return;
    this.canvas.width = width;
    this.canvas.height = height;
    this.canvas.style.setProperty("aspect-ratio", `${width} / ${height}`);
  }

  paint(images) {
    if (this.state === "connecting") {
      this.state = "open";
      invalidate();
    }
    const context = this.canvas?.getContext("2d", { alpha: false });
    for (const { x, y, image } of images) {
      if (image instanceof ImageData) {
        context?.putImageData(image, x, y);
      } else {
        context?.drawImage(image, x, y);
        image.close();
      }
    }
  }

  closed(sentence) {
    this.socket = null;
    this.state = "closed";
    this.reason = sentence;
    invalidate();
  }

  close(sentence) {
    this.input?.release();
    const { socket } = this;
    this.socket = null;
    this.state = "closed";
    this.reason = sentence;
    socket?.close();
  }

  leave() {
    clearTimeout(this.timer);
    this.close("");
    this.input?.close();
  }
}

let shown = null;

export const title = (route) => {
  const machine = store.machines.get(route.path[1]);
  return `Screen of ${machine?.name ?? route.path[1]}`;
};

export function view(route) {
  const machine = store.machines.get(route.path[1]);
  if (!machine)
    return nothing(
      store.machines.size === 0
        ? "Loading…"
        : "This machine does not exist, or you may not see it.",
    );
  const own = screenOf(machine);
  const rights = rightsOf(machine);
  const state = resource(`screen:${machine.id}`, (signal) =>
    get(path("machines", machine.id, "screen"), { lease: machine.lease?.id, signal }),
  );
  shown.state = state;
  return h(
    "div",
    { class: "consoles" },
    screenSection(own, machine, rights, state),
    serialSection(shown.serial, machine, rights, route),
    section("viewers", "Viewers", loaded(state, viewers)),
  );
}

function screenOf(machine) {
  if (shown?.machine === machine.id) return shown.screen;
  leave();
  shown = {
    machine: machine.id,
    screen: new ScreenConsole(machine.id),
    serial: new SerialConsole(machine.id),
  };
  lookAround(shown);
  return shown.screen;
}

function lookAround(own) {
  own.timer = setTimeout(() => {
    if (shown !== own) return;
    // Somebody who may not look is not asked again and again.
    const isForbidden = own.state?.problem?.status < 500;
    if (!document.hidden && !isForbidden) reload(`screen:${own.machine}`);
    lookAround(own);
  }, LOOK_AROUND);
}

/** Closes what the view opened. */
export function leave() {
  if (!shown) return;
  clearTimeout(shown.timer);
  shown.screen.leave();
  shown.serial.leave();
  shown = null;
}

function screenSection(own, machine, { right }, state) {
  const info = state.data;
  const other = info?.driver && !own.isDriving();
  const drives = own.isDriving() ? null : "Press Drive first.";
  const key = (name) => ({
    label: name,
    reason: drives,
    run: () => {
      own.input.stroke(STROKES[name]);
      own.canvas.focus();
    },
  });
  const canvasState = info && !info.available && own.state === "open" ? "no-signal" : own.state;
  return section(
    "screen",
    "Screen",
    h("p", {}, machineLink(machine.id, machine.name)),
    h(
      "div",
      { role: "toolbar", "aria-label": "Screen" },
      actions("screen", [
        { label: "Watch", run: () => attempt(() => watch(own, machine)) },
        { label: "Drive", reason: right.reason, run: () => drive(own, machine, right, false) },
        other && {
          label: "Take over",
          reason: right.reason,
          danger: true,
          run: () => drive(own, machine, right, true),
        },
        key("Ctrl-Alt-Del"),
        key("Ctrl-Alt-F2"),
        key("Super"),
        { label: "Type text", reason: right.reason, run: () => typeText(machine, right) },
        {
          label: "Full screen",
          run: () => attempt(() => own.canvas.parentElement.requestFullscreen()),
        },
        {
          label: "Save picture",
          run: () =>
            attempt(() =>
              save(`${path("machines", machine.id)}/screen.png`, `${machine.name}.png`, {
                lease: machine.lease?.id,
              }),
            ),
        },
        own.state !== "closed" && {
          label: "Stop",
          id: "screen-stop",
          run: () => {
            own.close("You stopped.");
            invalidate();
          },
        },
      ]),
    ),
    h("p", { id: "screen-status", role: "status" }, statusText(own, info)),
    canvasView(own, machine.name, canvasState),
  );
}

/** The picture itself. */
export function canvasView(own, name, state) {
  return h(
    "div",
    { class: "screen", key: "canvas" },
    h("canvas", {
      width: null,
      class: own.isDriving() ? "driving" : "",
      tabindex: own.isDriving() ? "0" : "-1",
      role: own.isDriving() ? "application" : "img",
      "aria-label": `Screen of ${name}`,
      "data-state": state,
      oncreate: (canvas) => own.attach(canvas),
    }),
  );
}

export function statusText(own, info) {
  if (own.state === "connecting") return "Connecting…";
  if (own.state === "closed")
    return own.reason
      ? `Closed: ${own.reason}`
      : "Press Watch to look, or Drive to type and click.";
  if (info && !info.available) return `No signal: ${info.unavailable_reason}`;
  return own.mode === "drive"
    ? "Driving. Press Ctrl+Alt+Shift to leave the screen with the keyboard."
    : "Watching.";
}

async function watch(own, machine) {
  await own.start("view", { lease: machine.lease?.id });
  reload(`screen:${machine.id}`);
}

function drive(own, machine, right, force) {
  const begin = async (override) => {
    await own.start("drive", { lease: machine.lease?.id, override }, force);
    own.canvas.focus();
    reload(`screen:${machine.id}`);
  };
  if (!right.override) {
    attempt(() => begin());
    return;
  }
  openDialog({
    title: `Drive ${machine.name}?`,
    confirm: "Drive",
    danger: true,
    fields: [OVERRIDE_FIELD],
    submit: ({ override }) => begin(override),
  });
}

function typeText(machine, right) {
  openDialog({
    title: "Type text",
    confirm: "Type",
    text: `On the keyboard of ${machine.name}.`,
    fields: [
      { name: "text", label: "Text", type: "textarea", required: true },
      {
        name: "layout",
        label: "Layout of the guest",
        type: "select",
        value: "us",
        options: [
          { value: "us", label: "us" },
          { value: "de", label: "de" },
        ],
      },
      {
        name: "secret",
        label: "Secret",
        type: "checkbox",
        help: "otter keeps it out of what it writes.",
      },
      ...(right.override
        ? [{ name: "override", label: "Reason for the override", required: true }]
        : []),
    ],
    submit: async ({ text, layout, secret, override }) => {
      const body = { events: [{ text: text.replaceAll("\r\n", "\n") }], layout, secret };
      const done = await call("POST", path("machines", machine.id, "screen", "input"), {
        lease: machine.lease?.id,
        override,
        body,
        key: true,
      });
      say(`${done.sent.characters} characters were typed`);
    },
  });
}

function viewers({ viewers: list, driver, recording, connection }) {
  return [
    facts([
      ["Driver", driver && [driver.caller, " since ", at(driver.since)]],
      ["Recording", recording && leaseLink(recording, "for this lease")],
      ["Connection", connection],
    ]),
    list.length === 0
      ? nothing("No one looks.")
      : h(
          "ul",
          { class: "plain", role: "list", "aria-label": "Viewers" },
          list.map((viewer) =>
            h(
              "li",
              { key: viewer.id },
              `${viewer.caller} ${viewer.mode === "drive" ? "drives" : "looks"}`,
              viewer.address ? ` from ${viewer.address}` : "",
              ", since ",
              at(viewer.since),
            ),
          ),
        ),
  ];
}
