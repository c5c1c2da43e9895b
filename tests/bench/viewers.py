"""Viewers of a screen: WebSockets with RFB that ask for an update, read it, and ask again, as noVNC
does. Their pictures are not decoded, so that their own speed does not count.

It runs in a process of its own. It prints `open` once each viewer has the whole screen. Then it
answers each line of its standard input with a line of JSON: `{"<line>": [<updates>, …]}`, the
number of updates that each viewer has got so far.
"""

import argparse
import asyncio
import base64
import json
import os
import re
import struct
import sys

VERSION = b"RFB 003.008\n"
RAW = 0
TIGHT_PNG = -260
DESKTOP_SIZE = -223
# The types of WebSocket messages (RFC 6455, section 5.2).
BINARY, CLOSE, PING, PONG = 2, 8, 9, 10


class ViewerError(Exception):
    """A sentence: why a viewer cannot go on."""


class Viewer:
    """The RFB client of one viewer, without a connection."""

    def __init__(self):
        self.updates = 0
        self.received = bytearray()
        self.to_send = b""
        self.script = self.talk()
        self.needed = next(self.script)

    def receive(self, data):
        """Takes bytes of the server. Returns the bytes that answer them."""
        self.received += data
        while len(self.received) >= self.needed:
            part = bytes(self.received[: self.needed])
            del self.received[: self.needed]
            self.needed = self.script.send(part)
        answer, self.to_send = self.to_send, b""
        return answer

    def talk(self):
        """The conversation. Each `yield` says how many bytes it needs next."""
        if (version := (yield len(VERSION))) != VERSION:
            raise ViewerError(f"The server's version is {version!r}.")
        self.to_send += VERSION
        types = yield (yield 1)[0]
        if 1 not in types:
            raise ViewerError(f"The server offers no connection without a password: {types!r}.")
        self.to_send += b"\1"
        if any((yield 4)):
            raise ViewerError("The server refuses the viewer.")
        self.to_send += b"\1"
        head = yield 24
        width, height = struct.unpack(">HH", head[:4])
        yield struct.unpack(">I", head[20:])[0]
        self.to_send += struct.pack(">BxHii", 2, 2, TIGHT_PNG, DESKTOP_SIZE)
        self.to_send += request(width, height, incremental=False)
        while True:
            kind, count = struct.unpack(">BxH", (yield 4))
            if kind:
                raise ViewerError(f"The server sent a message of the unknown type {kind}.")
            for _ in range(count):
                size = yield from self.rectangle()
                width, height = size or (width, height)
            self.updates += 1
            self.to_send += request(width, height, incremental=True)

    def rectangle(self):
        """Skips a rectangle. Returns the new size of the screen, if it says one."""
        _, _, width, height, encoding = struct.unpack(">HHHHi", (yield 12))
        if encoding == DESKTOP_SIZE:
            return width, height
        if encoding == TIGHT_PNG:
            yield 1
            length = shift = 0
            while True:
                byte = (yield 1)[0]
                length |= (byte & 0x7F if shift < 14 else byte) << shift
                shift += 7
                if shift > 14 or not byte & 0x80:
                    break
            yield length
        elif encoding == RAW:
            yield width * height * 4
        else:
            raise ViewerError(f"The server used the encoding {encoding}, which was not offered.")
        return None


def request(width, height, incremental):
    """Asks for an update of the whole screen."""
    return struct.pack(">BBHHHH", 3, incremental, 0, 0, width, height)


def frame(kind, payload):
    """A WebSocket message of a client. Its mask is zero, which changes no byte."""
    length = len(payload)
    if length < 126:
        head = struct.pack(">BB", 0x80 | kind, 0x80 | length)
    else:
        head = struct.pack(">BBH", 0x80 | kind, 0x80 | 126, length)
    return head + bytes(4) + payload


def take_frames(received):
    """Takes the complete messages of a server from a bytearray: (their type, their payload)."""
    taken, at = [], 0
    while len(received) >= at + 2:
        kind, length = received[at] & 0x0F, received[at + 1] & 0x7F
        start = at + 2
        if length >= 126:
            size = 2 if length == 126 else 8
            if len(received) < start + size:
                break
            length = int.from_bytes(received[start : start + size], "big")
            start += size
        if len(received) < start + length:
            break
        taken.append((kind, bytes(received[start : start + length])))
        at = start + length
    del received[:at]
    return taken


class Connection(asyncio.Protocol):
    """The WebSocket of one viewer."""

    def __init__(self, server, path, failed):
        self.server, self.path, self.failed = server, path, failed
        self.viewer = Viewer()
        self.received = bytearray()
        self.is_upgraded = False
        self.first_update = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET {self.path} HTTP/1.1\r\nHost: {self.server}\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: binary\r\n\r\n".encode()
        )

    def data_received(self, data):
        self.received += data
        try:
            if self.is_upgraded or self.read_head():
                self.read_frames()
        except ViewerError as error:
            self.fail(error)

    def connection_lost(self, _):
        self.fail(ViewerError("otter ended the connection of a viewer."))

    def read_head(self):
        """Reads the answer to the upgrade. Returns whether it is complete."""
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return False
        head, start = bytes(self.received[:end]), end + 4
        if not head.startswith(b"HTTP/1.1 101 "):
            length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
            if length and len(self.received) < start + int(length[1]):
                return False
            raise ViewerError(f"otter refused a viewer: {bytes(self.received).decode()}")
        del self.received[:start]
        self.is_upgraded = True
        return True

    def read_frames(self):
        for kind, payload in take_frames(self.received):
            if kind == BINARY:
                if answer := self.viewer.receive(payload):
                    self.transport.write(frame(BINARY, answer))
            elif kind == PING:
                self.transport.write(frame(PONG, payload))
            elif kind == CLOSE:
                raise ViewerError(f"otter closed a viewer: {payload!r}")
        if self.viewer.updates and not self.first_update.done():
            self.first_update.set_result(None)

    def fail(self, error):
        if not self.failed.done():
            self.failed.set_exception(error)


async def watch(server, path, count):
    loop = asyncio.get_running_loop()
    failed = loop.create_future()
    host, port = server.split(":")
    connections = []
    for _ in range(count):
        opened = await loop.create_connection(
            lambda: Connection(server, path, failed), host, int(port)
        )
        connections.append(opened[1])
    firsts = asyncio.gather(*(connection.first_update for connection in connections))
    await first_of(firsts, failed)
    print("open", flush=True)
    while line := await first_of(loop.run_in_executor(None, sys.stdin.readline), failed):
        updates = [connection.viewer.updates for connection in connections]
        print(json.dumps({line.strip(): updates}), flush=True)


async def first_of(work, failed):
    """The result of `work`, unless a viewer fails before."""
    await asyncio.wait({asyncio.ensure_future(work), failed}, return_when=asyncio.FIRST_COMPLETED)
    if failed.done():
        failed.result()
    return work.result()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--count", type=int, required=True)
    options = parser.parse_args()
    try:
        asyncio.run(watch(options.server, options.path, options.count))
    except ViewerError as error:
        print(error, file=sys.stderr, flush=True)
        # The thread that reads the standard input would delay the end.
        os._exit(1)


if __name__ == "__main__":
    main()
