// What a person does on the picture of a screen: keys and pointer, as messages of RFB.

import { keysym } from "./keys.js";
import { keyEvent, pointerEvent } from "./rfb.js";

const WHEEL_UP = 8;
const WHEEL_DOWN = 16;

/** Listens on a canvas, and sends what happens there while `isDriving()`. */
export class ScreenInput {
  /**
   * @param canvas the picture
   * @param send sends a message
   * @param isDriving whether input goes to the machine
   * @param leave called when somebody presses Ctrl, Alt and Shift together to leave
   */
  constructor(canvas, { send, isDriving, leave }) {
    Object.assign(this, { canvas, send, isDriving, leave });
    /** The keys that are held: by position, their keysym. */
    this.held = new Map();
    this.buttons = 0;
    this.moved = null;
    this.controller = new AbortController();
    const options = { signal: this.controller.signal };
    canvas.addEventListener("keydown", (event) => this.key(event, true), options);
    canvas.addEventListener("keyup", (event) => this.key(event, false), options);
    canvas.addEventListener("blur", () => this.release(), options);
    addEventListener("blur", () => this.release(), options);
    document.addEventListener(
      "visibilitychange",
      () => {
        if (document.hidden) this.release();
      },
      options,
    );
    canvas.addEventListener("pointerdown", (event) => this.press(event), options);
    canvas.addEventListener("pointerup", (event) => this.press(event), options);
    canvas.addEventListener("pointercancel", (event) => this.press(event), options);
    canvas.addEventListener("pointermove", (event) => this.move(event), options);
    canvas.addEventListener("wheel", (event) => this.wheel(event), { ...options, passive: false });
    canvas.addEventListener(
      "contextmenu",
      (event) => {
        if (this.isDriving()) event.preventDefault();
      },
      options,
    );
  }

  key(event, down) {
    if (!this.isDriving()) return;
    event.preventDefault();
    const position = event.code || event.key;
    if (!down) {
      const held = this.held.get(position);
      this.held.delete(position);
      if (held !== undefined) this.send(keyEvent(held, false));
      return;
    }
    const symbol = this.held.get(position) ?? keysym(event);
    if (symbol === null) return;
    this.held.set(position, symbol);
    this.send(keyEvent(symbol, true));
    const modifiers = ["Control", "Alt", "Shift"];
    const isModifier = modifiers.includes(event.key);
    if (isModifier && event.ctrlKey && event.altKey && event.shiftKey && this.held.size === 3) {
      this.release();
      this.leave();
    }
  }

  /** Releases all keys and buttons that are held. */
  release() {
    for (const symbol of this.held.values()) this.send(keyEvent(symbol, false));
    this.held.clear();
    if (this.buttons !== 0 && this.last) {
      this.buttons = 0;
      this.send(pointerEvent(0, this.last.x, this.last.y));
    }
  }

  /** Presses keys in this order, and releases them in the reverse one. */
  stroke(symbols) {
    for (const symbol of symbols) this.send(keyEvent(symbol, true));
    for (const symbol of [...symbols].reverse()) this.send(keyEvent(symbol, false));
  }

  position(event) {
    const { canvas } = this;
    const box = canvas.getBoundingClientRect();
    const scale = (value, length, pixels) =>
      Math.max(0, Math.min(pixels - 1, Math.floor((value / length) * pixels)));
    return {
      x: scale(event.clientX - box.left, box.width, canvas.width),
      y: scale(event.clientY - box.top, box.height, canvas.height),
    };
  }

  press(event) {
    if (!this.isDriving()) return;
    event.preventDefault();
    this.canvas.focus();
    if (event.type === "pointerdown") this.canvas.setPointerCapture(event.pointerId);
    this.buttons = mask(event);
    this.last = this.position(event);
    this.moved = null;
    this.send(pointerEvent(this.buttons, this.last.x, this.last.y));
  }

  /** Sends the last position once per frame. */
  move(event) {
    if (!this.isDriving()) return;
    // While a button is held, the browser reports others as a move.
    if (mask(event) !== this.buttons) {
      this.press(event);
      return;
    }
    if (event.pointerType === "touch" && this.buttons !== 0) event.preventDefault();
    const isScheduled = this.moved !== null;
    this.moved = this.position(event);
    if (isScheduled) return;
    requestAnimationFrame(() => {
      if (this.moved === null) return;
      this.last = this.moved;
      this.moved = null;
      if (this.isDriving()) this.send(pointerEvent(this.buttons, this.last.x, this.last.y));
    });
  }

  wheel(event) {
    if (!this.isDriving() || event.deltaY === 0) return;
    event.preventDefault();
    const { x, y } = this.position(event);
    const button = event.deltaY < 0 ? WHEEL_UP : WHEEL_DOWN;
    this.send(pointerEvent(this.buttons | button, x, y));
    this.send(pointerEvent(this.buttons, x, y));
  }

  close() {
    this.release();
    this.controller.abort();
  }
}

/** The buttons of an event. The browser counts left, right, middle; RFB left, middle, right. */
function mask({ type, buttons }) {
  return type === "pointercancel" ? 0 : (buttons & 1) | ((buttons & 4) >> 1) | ((buttons & 2) << 1);
}
