// Opens the WebSocket of a console: first a token for it, whose problem can be shown, then the
// socket, which offers the token as a subprotocol.

import { call, path, socketAddress } from "./api.js";

const CLOSED = {
  1000: "It was closed.",
  1001: "The page was left.",
  1006: "The connection was lost.",
  4401: "The token is not valid any more.",
  4403: "You may not look or type any more.",
  4409: "Somebody took over.",
  4423: "The lease ended.",
  4503: "otter stops.",
};

/**
 * Asks for a console token.
 *
 * @param asked `{machine, kind, port, mode, force}`
 * @param authority `{lease, override}` as for other calls
 * @returns `{token, url}`
 */
export function consoleToken({ machine, kind, port, mode, force }, authority) {
  const body = {
    kind,
    mode,
    ...(port === undefined ? {} : { port: String(port) }),
    ...(force ? { force } : {}),
  };
  return call("POST", path("machines", machine, "console-tokens"), { ...authority, body });
}

/**
 * Opens the WebSocket of a console token.
 *
 * @param events `{open(), bytes(piece), text(message), close(sentence)}`
 */
export function openConsole({ token, url }, query, events) {
  const socket = new WebSocket(socketAddress(url, query), ["binary", `otter.token.${token}`]);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => events.open();
  socket.onmessage = ({ data }) => {
    if (typeof data === "string") events.text?.(data);
    else events.bytes(new Uint8Array(data));
  };
  socket.onclose = ({ code, reason }) =>
    events.close(reason || CLOSED[code] || `It was closed (${code}).`);
  return socket;
}

/** Sends, unless the socket is closed. */
export function sendTo(socket, bytes) {
  if (socket.readyState === WebSocket.OPEN) socket.send(bytes);
}
