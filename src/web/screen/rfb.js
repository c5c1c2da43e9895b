// The client side of RFB 3.8 (RFC 6143) as far as otter's own server speaks it: no password, the
// encodings Raw, TightPNG and DesktopSize, and pixels of 4 bytes (blue, green, red, nothing).

const RAW = 0;
const DESKTOP_SIZE = -223;
const TIGHT_PNG = -260;
const TIGHT_CONTROL_PNG = 0xa0;

/** Bytes that arrive in pieces, and are taken in others. */
export class ByteQueue {
  constructor() {
    this.pieces = [];
    this.length = 0;
    this.waiting = null;
    this.error = null;
  }

  push(piece) {
    this.pieces.push(piece);
    this.length += piece.length;
    this.wake();
  }

  fail(error) {
    this.error = error;
    this.wake();
  }

  wake() {
    if (this.waiting && (this.error || this.length >= this.waiting.count)) {
      const { resolve } = this.waiting;
      this.waiting = null;
      resolve();
    }
  }

  /** The next bytes, as soon as so many are there. */
  async take(count) {
    while (this.length < count) {
      if (this.error) throw this.error;
      await new Promise((resolve) => {
        this.waiting = { count, resolve };
      });
    }
    this.length -= count;
    const first = this.pieces[0];
    if (first && first.length >= count) {
      if (first.length === count) this.pieces.shift();
      else this.pieces[0] = first.subarray(count);
      return first.subarray(0, count);
    }
    const taken = new Uint8Array(count);
    let filled = 0;
    while (filled < count) {
      const piece = this.pieces[0];
      const part = piece.subarray(0, count - filled);
      taken.set(part, filled);
      filled += part.length;
      if (part.length === piece.length) this.pieces.shift();
      else this.pieces[0] = piece.subarray(part.length);
    }
    return taken;
  }

  async view(count) {
    const bytes = await this.take(count);
    return new DataView(bytes.buffer, bytes.byteOffset, count);
  }
}

/** The number of bytes of a TightPNG: 7 bits, 7 bits and 8 bits, the lowest first. */
export async function compactLength(queue) {
  const [first] = await queue.take(1);
  if (first < 0x80) return first;
  const [second] = await queue.take(1);
  const low = (first & 0x7f) | ((second & 0x7f) << 7);
  if (second < 0x80) return low;
  const [third] = await queue.take(1);
  return low | (third << 14);
}

/** Turns blue, green, red, nothing into red, green, blue, opaque. */
export function toRgba(pixels) {
  const out = new Uint8ClampedArray(pixels.length);
  for (let index = 0; index < pixels.length; index += 4) {
    out[index] = pixels[index + 2];
    out[index + 1] = pixels[index + 1];
    out[index + 2] = pixels[index];
    out[index + 3] = 255;
  }
  return out;
}

/**
 * Reads what the server sends and shows it.
 *
 * @param queue the bytes of the server
 * @param send sends bytes to it
 * @param screen `{resize(width, height), paint(list)}`; `paint` gets all rectangles of one update,
 *   as `{x, y, image}`, so that a half painted picture is never seen
 */
export async function serve(queue, send, screen) {
  await queue.take(12);
  send(new TextEncoder().encode("RFB 003.008\n"));
  const [types] = await queue.take(1);
  await queue.take(types);
  send(Uint8Array.of(1));
  await queue.take(4);
  send(Uint8Array.of(1));
  const init = await queue.view(24);
  let size = { width: init.getUint16(0), height: init.getUint16(2) };
  await queue.take(init.getUint32(20));
  screen.resize(size.width, size.height);
  send(encodings([TIGHT_PNG, RAW, DESKTOP_SIZE]));
  send(updateRequest(size, false));
  for (;;) {
    const [type] = await queue.take(1);
    if (type === 0) {
      const before = size;
      size = await update(queue, size, screen);
      send(updateRequest(size, before === size));
    } else if (type === 3) {
      const head = await queue.view(7);
      await queue.take(head.getUint32(3));
    } else if (type !== 2) {
      throw new Error(`The server sent a message of the unknown type ${type}.`);
    }
  }
}

async function update(queue, before, screen) {
  let size = before;
  const head = await queue.view(3);
  const images = [];
  for (let left = head.getUint16(1); left > 0; left -= 1) {
    const view = await queue.view(12);
    const [x, y, width, height] = [0, 2, 4, 6].map((offset) => view.getUint16(offset));
    const encoding = view.getInt32(8);
    if (encoding === DESKTOP_SIZE) {
      size = { width, height };
      screen.resize(width, height);
      images.length = 0;
    } else if (encoding === RAW && width * height > 0) {
      const pixels = await queue.take(width * height * 4);
      images.push({ x, y, image: new ImageData(toRgba(pixels), width, height) });
    } else if (encoding === TIGHT_PNG) {
      const [control] = await queue.take(1);
      if (control !== TIGHT_CONTROL_PNG)
        throw new Error(`The server sent the unknown Tight type ${control}.`);
      const png = await queue.take(await compactLength(queue));
      images.push({ x, y, image: await createImageBitmap(new Blob([png], { type: "image/png" })) });
    } else if (encoding !== RAW) {
      throw new Error(`The server sent the unknown encoding ${encoding}.`);
    }
  }
  screen.paint(images);
  return size;
}

export function encodings(list) {
  const view = new DataView(new ArrayBuffer(4 + 4 * list.length));
  view.setUint8(0, 2);
  view.setUint16(2, list.length);
  list.forEach((encoding, index) => view.setInt32(4 + 4 * index, encoding));
  return new Uint8Array(view.buffer);
}

export function updateRequest({ width, height }, incremental) {
  const view = new DataView(new ArrayBuffer(10));
  view.setUint8(0, 3);
  view.setUint8(1, incremental ? 1 : 0);
  view.setUint16(6, width);
  view.setUint16(8, height);
  return new Uint8Array(view.buffer);
}

export function keyEvent(keysym, down) {
  const view = new DataView(new ArrayBuffer(8));
  view.setUint8(0, 4);
  view.setUint8(1, down ? 1 : 0);
  view.setUint32(4, keysym);
  return new Uint8Array(view.buffer);
}

/** `buttons`: 1 left, 2 middle, 4 right, 8 and 16 the wheel. */
export function pointerEvent(buttons, x, y) {
  const view = new DataView(new ArrayBuffer(6));
  view.setUint8(0, 5);
  view.setUint8(1, buttons);
  view.setUint16(2, x);
  view.setUint16(4, y);
  return new Uint8Array(view.buffer);
}
