// Shows a terminal in an element: complete lines are appended in blocks, so that much output stays
// cheap, and only the last line is written again.

/** The number of lines in a block, and of blocks that stay. */
const BLOCK = 200;
const BLOCKS = 25;

export class TerminalText {
  constructor(element) {
    this.element = element;
    this.frame = 0;
  }

  /** Shows this terminal from now on. */
  use(terminal) {
    this.terminal = terminal;
    this.shown = terminal.completed - terminal.lines.length;
    this.last = document.createTextNode("");
    this.blocks = [];
    this.element.replaceChildren(this.last);
    this.show();
  }

  /** Shows what came since, once per frame. */
  show() {
    if (!this.frame) {
      this.frame = requestAnimationFrame(() => {
        this.frame = 0;
        this.draw();
      });
    }
  }

  draw() {
    const { element, terminal } = this;
    const isAtEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
    const fresh = Math.min(terminal.completed - this.shown, terminal.lines.length);
    if (fresh > 0) this.append(terminal.lines.slice(-fresh));
    this.shown = terminal.completed;
    this.last.data = terminal.current();
    if (isAtEnd) element.scrollTop = element.scrollHeight;
  }

  append(lines) {
    for (let start = 0; start < lines.length;) {
      let block = this.blocks.at(-1);
      if (!block || block.count >= BLOCK) {
        block = { node: document.createTextNode(""), count: 0 };
        this.blocks.push(block);
        this.element.insertBefore(block.node, this.last);
        if (this.blocks.length > BLOCKS) this.blocks.shift().node.remove();
      }
      const part = lines.slice(start, start + BLOCK - block.count);
      block.node.appendData(`${part.join("\n")}\n`);
      block.count += part.length;
      start += part.length;
    }
  }
}
