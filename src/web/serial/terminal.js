// The text of a serial port: lines, carriage return, backspace and tabulator as a terminal does
// them. Of the escape sequences it does those that clear and move within a line; others are left
// out.

/** Older lines are forgotten. */
const MAX_LINES = 5000;
const TAB = 8;
const ESCAPE = "\x1b";

export class Terminal {
  constructor() {
    /** The lines that are complete, the oldest first. */
    this.lines = [];
    /** How many lines were complete so far, the forgotten ones included. */
    this.completed = 0;
    this.line = [];
    this.column = 0;
    this.escape = null;
  }

  /** Takes output. Sequences may be cut anywhere. */
  write(text) {
    for (const character of text) {
      if (this.escape !== null) this.continueEscape(character);
      else this.print(character);
    }
  }

  print(character) {
    switch (character) {
      case ESCAPE:
        this.escape = "";
        break;
      case "\n":
        this.newLine();
        break;
      case "\r":
        this.column = 0;
        break;
      case "\b":
        this.column = Math.max(0, this.column - 1);
        break;
      case "\t":
        this.column = (Math.floor(this.column / TAB) + 1) * TAB;
        break;
      default:
        if (character >= " " && character !== "\x7f") {
          while (this.line.length < this.column) this.line.push(" ");
          this.line[this.column] = character;
          this.column += 1;
        }
    }
  }

  newLine() {
    this.lines.push(this.line.join(""));
    this.completed += 1;
    if (this.lines.length > MAX_LINES) this.lines.shift();
    this.line = [];
    // Most ports send a carriage return too; those that do not mean the same.
    this.column = 0;
  }

  /** `\x1b[` … letter (CSI), `\x1b]` … BEL or ST (OSC), `\x1b(B` and the like, or one character. */
  continueEscape(character) {
    const begun = this.escape;
    if (begun === "" && "[](#)*+P_^X".includes(character)) {
      this.escape = character;
    } else if (begun === "") {
      this.escape = null;
    } else if (begun[0] === "[") {
      if (character >= "@" && character <= "~") {
        this.escape = null;
        this.control(character, begun.slice(1));
      } else {
        this.escape = begun.length < 64 ? begun + character : begun;
      }
    } else if ("]P_^X".includes(begun[0])) {
      if (character === "\x07" || character === "\x9c") this.escape = null;
      else if (begun.endsWith(ESCAPE)) this.escape = null;
      else this.escape = begun[0] + (character === ESCAPE ? ESCAPE : "");
    } else {
      this.escape = null;
    }
  }

  control(command, parameters) {
    const number = Number.parseInt(parameters, 10) || 0;
    switch (command) {
      case "K":
        if (number === 0) this.line.length = Math.min(this.line.length, this.column);
        else if (number === 1) this.line.fill(" ", 0, this.column);
        else this.line.length = 0;
        break;
      case "C":
        this.column = Math.min(1000, this.column + Math.max(1, number));
        break;
      case "D":
        this.column = Math.max(0, this.column - Math.max(1, number));
        break;
      case "G":
        this.column = Math.min(1000, Math.max(1, number)) - 1;
        break;
      // A program that paints the whole screen: its text begins on a new line.
      case "H":
      case "f":
      case "J":
        if (this.line.length > 0) this.newLine();
        break;
      default:
    }
  }

  /** The line that is not complete yet. */
  current() {
    return this.line.join("");
  }

  text() {
    return [...this.lines, this.current()].join("\n");
  }
}
