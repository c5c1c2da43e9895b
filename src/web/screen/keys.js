// The keys of a keyboard as keysyms. A keysym stands for a physical key of a US keyboard: the
// guest's own layout decides which character it gives. So the position of a key counts first.

const FIXED = {
  Backspace: 0xff08,
  Tab: 0xff09,
  Enter: 0xff0d,
  NumpadEnter: 0xff8d,
  Escape: 0xff1b,
  Space: 0x20,
  Delete: 0xffff,
  Insert: 0xff63,
  Home: 0xff50,
  End: 0xff57,
  PageUp: 0xff55,
  PageDown: 0xff56,
  ArrowLeft: 0xff51,
  ArrowUp: 0xff52,
  ArrowRight: 0xff53,
  ArrowDown: 0xff54,
  ShiftLeft: 0xffe1,
  ShiftRight: 0xffe2,
  ControlLeft: 0xffe3,
  ControlRight: 0xffe4,
  AltLeft: 0xffe9,
  AltRight: 0xffea,
  MetaLeft: 0xffeb,
  MetaRight: 0xffec,
  ContextMenu: 0xff67,
  CapsLock: 0xffe5,
  NumLock: 0xff7f,
  ScrollLock: 0xff14,
  PrintScreen: 0xff61,
  Pause: 0xff13,
  Minus: 0x2d,
  Equal: 0x3d,
  BracketLeft: 0x5b,
  BracketRight: 0x5d,
  Backslash: 0x5c,
  IntlBackslash: 0x3c,
  Semicolon: 0x3b,
  Quote: 0x27,
  Backquote: 0x60,
  Comma: 0x2c,
  Period: 0x2e,
  Slash: 0x2f,
  NumpadMultiply: 0xffaa,
  NumpadAdd: 0xffab,
  NumpadSubtract: 0xffad,
  NumpadDecimal: 0xffae,
  NumpadDivide: 0xffaf,
};

/** The keys of what the browser calls `key`, for keyboards without positions, as on phones. */
const BY_KEY = {
  Shift: FIXED.ShiftLeft,
  Control: FIXED.ControlLeft,
  Alt: FIXED.AltLeft,
  AltGraph: FIXED.AltRight,
  Meta: FIXED.MetaLeft,
};

/** The keysym of a keyboard event; null if there is none. */
export function keysym({ code, key }) {
  if (code) {
    const letter = /^Key([A-Z])$/.exec(code);
    if (letter) return letter[1].toLowerCase().charCodeAt(0);
    const digit = /^Digit([0-9])$/.exec(code);
    if (digit) return digit[1].charCodeAt(0);
    const keypad = /^Numpad([0-9])$/.exec(code);
    if (keypad) return 0xffb0 + Number(keypad[1]);
    const number = /^F([1-9]|1[0-9]|2[0-4])$/.exec(code);
    if (number) return 0xffbd + Number(number[1]);
    if (code in FIXED) return FIXED[code];
  }
  if (key in BY_KEY) return BY_KEY[key];
  if (key in FIXED) return FIXED[key];
  const points = [...(key ?? "")];
  if (points.length !== 1) return null;
  const point = points[0].codePointAt(0);
  return point < 0x100 ? point : 0x01000000 + point;
}

/** Strokes that browsers keep for themselves. */
export const STROKES = {
  "Ctrl-Alt-Del": [0xffe3, 0xffe9, 0xffff],
  "Ctrl-Alt-F2": [0xffe3, 0xffe9, 0xffbf],
  Super: [0xffeb],
};
