// Draws the page at most once per frame, and less often for changes that no person asked for.

let draw = () => {};
let frame = 0;
let timer = 0;

/** The time between two drawings for changes of the lab, in milliseconds. */
const CALM = 120;

export function setDraw(callback) {
  draw = callback;
}

/** Draws in the next frame: a person did something. */
export function invalidate() {
  if (timer) clearTimeout(timer);
  timer = 0;
  if (!frame) {
    frame = requestAnimationFrame(() => {
      frame = 0;
      draw();
    });
  }
}

/** Draws soon: the lab changed. */
export function invalidateSoon() {
  if (!frame && !timer) timer = setTimeout(invalidate, CALM);
}
