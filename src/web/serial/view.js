// The serial port of a machine: its output as text, and input by lines and keys.

import { get, path } from "../api.js";
import { consoleToken, openConsole, sendTo } from "../console_socket.js";
import { resource, reload } from "../data.js";
import { OVERRIDE_FIELD, openDialog } from "../dialogs.js";
import { invalidate } from "../frame.js";
import { attempt } from "../messages.js";
import { actions, loaded, nothing, section } from "../parts.js";
import { link } from "../route.js";
import { save } from "../save.js";
import { h } from "../vdom.js";
import { Terminal } from "./terminal.js";
import { TerminalText } from "./text.js";

/** How much earlier output is shown, in bytes. */
const BACKLOG = 65_536;

/** One open port. */
export class SerialConsole {
  constructor(machine) {
    this.machine = machine;
    this.state = "closed";
    this.mode = "view";
    this.reason = "";
    this.port = null;
    this.socket = null;
    this.gaps = 0;
    this.reset();
  }

  reset() {
    this.terminal = new Terminal();
    this.decoder = new TextDecoder();
    this.text?.use(this.terminal);
  }

  attach(element) {
    this.text = new TerminalText(element);
    this.text.use(this.terminal);
  }

  isWriting() {
    return this.state === "open" && this.mode === "drive";
  }

  async start(port, mode, since, authority, force = false) {
    this.close("");
    this.state = "connecting";
    this.mode = mode;
    this.port = port;
    this.reset();
    invalidate();
    try {
      const asked = { machine: this.machine, kind: "serial", port, mode, force };
      this.open(await consoleToken(asked, authority), mode, since);
    } catch (error) {
      this.state = "closed";
      invalidate();
      throw error;
    }
  }

  open(token, mode, since) {
    this.mode = mode;
    this.state = "connecting";
    const socket = openConsole(
      token,
      { since },
      {
        open: () => {
          this.state = "open";
          invalidate();
        },
        bytes: (piece) => {
          this.terminal.write(this.decoder.decode(piece, { stream: true }));
          this.text?.show();
        },
        text: (message) => this.control(message),
        close: (sentence) => {
          if (this.socket !== socket) return;
          this.socket = null;
          this.state = "closed";
          this.reason = sentence;
          invalidate();
        },
      },
    );
    this.socket = socket;
    invalidate();
  }

  /** What otter says between the bytes: where they begin, and where some are missing. */
  control(message) {
    let gap;
    try {
      ({ gap } = JSON.parse(message));
    } catch {
      return;
    }
    if (!gap) return;
    this.gaps += 1;
    this.terminal.write(`\r\n-- bytes may be missing here: ${gap.reason} --\r\n`);
    this.text?.show();
    invalidate();
  }

  send(text) {
    if (this.socket) sendTo(this.socket, new TextEncoder().encode(text));
  }

  close(sentence) {
    const { socket } = this;
    this.socket = null;
    this.state = "closed";
    this.reason = sentence;
    socket?.close();
  }

  leave() {
    this.close("");
    this.text = null;
  }
}

export function serialSection(own, machine, { right }, route) {
  if (machine.serial_ports.length === 0)
    return section("serial", "Serial port", nothing("It has none."));
  const key = `serial:${machine.id}`;
  const read = resource(key, (signal) =>
    get(path("machines", machine.id, "serial"), { lease: machine.lease?.id, signal }),
  );
  return section(
    "serial",
    "Serial port",
    loaded(read, ({ ports }) => {
      const asked = route.query.get("port") ?? "";
      const port =
        ports.find((other) => other.linux_device === asked || String(other.key) === asked) ??
        ports[0];
      if (!port) return nothing("It has none.");
      return portView(own, machine, right, ports, port, () => reload(key));
    }),
  );
}

const nameOf = (port) => port.linux_device ?? port.label;

function portView(own, machine, right, ports, port, refresh) {
  const closed =
    port.access === "unavailable" ? (port.access_reason ?? "otter cannot reach this port.") : null;
  const open = (mode, force, override) => async () => {
    // The offsets grow all the time, so they are read just before.
    const lease = machine.lease?.id;
    const { ports: fresh } = await get(path("machines", machine.id, "serial"), { lease });
    const { first_offset: first, next_offset: next } =
      fresh.find((other) => other.key === port.key) ?? port;
    await own.start(port.key, mode, Math.max(first, next - BACKLOG), { lease, override }, force);
    refresh();
  };
  const write = (force) => {
    if (!right.override) {
      attempt(open("drive", force));
      return;
    }
    openDialog({
      title: `Write to ${nameOf(port)} of ${machine.name}?`,
      confirm: "Write",
      danger: true,
      fields: [OVERRIDE_FIELD],
      submit: ({ override }) => open("drive", force, override)(),
    });
  };
  const other = port.writer && !own.isWriting();
  return [
    h(
      "div",
      { class: "field" },
      h("label", { for: "serial-port" }, "Port"),
      h(
        "select",
        {
          id: "serial-port",
          onchange: (event) => {
            own.close("");
            location.hash = link(["machines", machine.id, "screen"], { port: event.target.value });
          },
        },
        ports.map((choice) =>
          h(
            "option",
            {
              key: choice.key,
              value: choice.linux_device ?? String(choice.key),
              selected: choice === port,
            },
            nameOf(choice),
          ),
        ),
      ),
    ),
    actions("serial", [
      { label: "Read", reason: closed, run: () => attempt(open("view", false)) },
      { label: "Read and write", reason: closed ?? right.reason, run: () => write(false) },
      other && {
        label: "Take over",
        name: `Take over ${nameOf(port)}`,
        reason: closed ?? right.reason,
        danger: true,
        run: () => write(true),
      },
      own.state !== "closed" && {
        label: "Stop",
        name: "Stop the serial port",
        run: () => {
          own.close("You stopped.");
          invalidate();
        },
      },
      {
        label: "Save log",
        run: () =>
          attempt(() =>
            save(
              path("machines", machine.id, "serial", String(port.key), "log"),
              `${machine.name}-${nameOf(port)}.log`,
              { lease: machine.lease?.id },
            ),
          ),
      },
    ]),
    h("p", { id: "serial-status", role: "status" }, statusText(own, port)),
    ...terminalView(own, nameOf(port)),
  ];
}

/** The text of a port, and what is typed into it. */
export function terminalView(own, name) {
  const closed = own.isWriting() ? null : "Press “Read and write” first.";
  const sendLine = (event) => {
    event.preventDefault();
    const input = event.target.elements.line;
    if (own.isWriting()) {
      own.send(`${input.value}\r`);
      input.value = "";
    }
  };
  const key = (label, text) => ({ label, reason: closed, run: () => own.send(text) });
  return [
    h("pre", {
      id: "serial-text",
      key: "text",
      class: "terminal",
      tabindex: "0",
      role: "log",
      "aria-label": `Output of ${name}`,
      "aria-live": "off",
      own: true,
      oncreate: (element) => own.attach(element),
    }),
    h(
      "form",
      { class: "line", key: "line", onsubmit: sendLine, autocomplete: "off" },
      h("label", { for: "serial-input" }, "Input"),
      h("input", {
        id: "serial-input",
        name: "line",
        type: "text",
        autocomplete: "off",
        autocapitalize: "none",
        spellcheck: "false",
        "aria-describedby": closed ? "why-serial-keys-0" : null,
      }),
      h(
        "button",
        {
          type: "submit",
          "aria-disabled": closed ? "true" : null,
          "aria-describedby": closed ? "why-serial-keys-0" : null,
        },
        "Send",
      ),
    ),
    actions("serial-keys", [
      key("Ctrl-C", "\x03"),
      key("Ctrl-D", "\x04"),
      key("Escape", "\x1b"),
      key("Tab", "\t"),
    ]),
  ];
}

function statusText(own, port) {
  if (own.state === "connecting") return "Connecting…";
  if (own.state === "closed")
    return own.reason
      ? `Closed: ${own.reason}`
      : (port.access_reason ?? "Press Read to see its output.");
  return own.mode === "drive" ? "Reading and writing." : "Reading.";
}
