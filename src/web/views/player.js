// Plays a recording of a serial port (asciicast v2): one line of JSON with the size, and then one
// per output with its time.

import { seconds } from "../format.js";
import { invalidate } from "../frame.js";
import { section } from "../parts.js";
import { Terminal } from "../serial/terminal.js";
import { h } from "../vdom.js";

/** Pauses are played no longer than this, in seconds. */
const MAX_PAUSE = 2;

/**
 * The outputs of a recording, with their times. Pauses are shortened, and lines that are cut are
 * left out.
 */
export function parseCast(text) {
  const outputs = [];
  let last = 0;
  let at = 0;
  for (const line of text.split("\n").slice(1)) {
    let entry;
    try {
      entry = JSON.parse(line);
    } catch {
      continue;
    }
    const [time, type, output] = Array.isArray(entry) ? entry : [];
    if (type !== "o" || typeof time !== "number") continue;
    at += Math.min(MAX_PAUSE, Math.max(0, time - last));
    last = time;
    outputs.push({ at, output });
  }
  return { outputs, length: at };
}

let player = null;

export function playerView(id, text) {
  if (player?.id !== id) player = newPlayer(id, text);
  const { cast, position, playing } = player;
  const own = player;
  return section(
    "content",
    "Player",
    h(
      "div",
      { class: "buttons" },
      h("button", { type: "button", onclick: () => toggle(own) }, playing ? "Pause" : "Play"),
      h("input", {
        type: "range",
        "aria-label": "Time",
        min: 0,
        max: Math.ceil(cast.length * 10),
        step: 1,
        value: String(Math.round(position * 10)),
        "aria-valuetext": `${seconds(position)} of ${seconds(cast.length)}`,
        oninput: (event) => seek(own, Number(event.target.value) / 10),
      }),
      h("span", { class: "small" }, `${seconds(position)} of ${seconds(cast.length)}`),
    ),
    h("pre", {
      id: "player",
      class: "terminal",
      tabindex: "0",
      role: "group",
      "aria-label": "Output",
      own: true,
      oncreate: (element) => {
        own.element = element;
        element.textContent = own.terminal.text();
      },
      onremove: () => stop(own),
    }),
  );
}

function newPlayer(id, text) {
  const cast = parseCast(text);
  return {
    id,
    cast,
    position: 0,
    next: 0,
    playing: false,
    terminal: new Terminal(),
    timer: 0,
    element: null,
  };
}

function toggle(own) {
  own.playing = !own.playing;
  if (own.playing) {
    if (own.position >= own.cast.length) seek(own, 0);
    own.startedAt = performance.now() - own.position * 1000;
    step(own);
  } else {
    clearTimeout(own.timer);
  }
  invalidate();
}

function step(own) {
  if (!own.playing) return;
  own.position = Math.min(own.cast.length, (performance.now() - own.startedAt) / 1000);
  show(own);
  if (own.position >= own.cast.length) own.playing = false;
  else own.timer = setTimeout(() => step(own), 100);
  invalidate();
}

function seek(own, position) {
  if (position < own.position) {
    own.terminal = new Terminal();
    own.next = 0;
  }
  own.position = position;
  own.startedAt = performance.now() - position * 1000;
  show(own);
  invalidate();
}

function show(own) {
  const { outputs } = own.cast;
  while (own.next < outputs.length && outputs[own.next].at <= own.position) {
    own.terminal.write(outputs[own.next].output);
    own.next += 1;
  }
  if (!own.element) return;
  own.element.textContent = own.terminal.text();
  own.element.scrollTop = own.element.scrollHeight;
}

function stop(own) {
  own.playing = false;
  clearTimeout(own.timer);
  if (player === own) player = null;
}
