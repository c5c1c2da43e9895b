"""Many clients that use otter badly: waits without an end, streams that are not read, and slow
clients.

    python3 crowd.py ADDRESS PORT WAITS STREAMS SLOW

It opens the connections, prints `ready` with the number of each kind, and keeps them until it is
killed. It needs only the standard library of Python.
"""

import asyncio
import json
import random
import resource
import socket
import sys

# The number of connections that are opened at a time, because the backlog of a listener is limited.
CONCURRENCY = 200


def request(path, *headers):
    return "\r\n".join([f"GET {path} HTTP/1.1", "host: localhost", *headers, "\r\n"]).encode()


async def connect(address, receive_buffer=None):
    connection = socket.socket()
    connection.setblocking(False)
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(connection, address)
    return connection


async def send(connection, bytes):
    await asyncio.get_running_loop().sock_sendall(connection, bytes)


async def head(connection):
    """Reads the head of an answer byte by byte, so that nothing of the body is read."""
    read = b""
    while not read.endswith(b"\r\n\r\n"):
        byte = await asyncio.get_running_loop().sock_recv(connection, 1)
        if not byte:
            raise ConnectionError(f"closed after {read!r}")
        read += byte
    assert read.startswith(b"HTTP/1.1 200 "), read
    return read


async def open_wait(address, number, connections):
    """Opens a wait for a question that never comes."""
    connection = await connect(address)
    await send(connection, request(f"/v1/machines/{1 + number % 20}/wait?until=question&wait=10m"))
    connections.append(connection)


async def open_stream(address, number, connections, readers):
    """Opens a stream that starts with all objects. Every second stream is read; the receive buffers
    of the others fill up.
    """
    reads = number % 2 == 0
    connection = await connect(address, None if reads else 4096)
    await send(connection, request("/v1/events?initial=true", "accept: application/x-ndjson"))
    connections.append(connection)
    if reads:
        await head(connection)
        readers.append(asyncio.ensure_future(read_to_end(connection)))


async def read_to_end(connection):
    read = 0
    try:
        while piece := await asyncio.get_running_loop().sock_recv(connection, 65536):
            read += len(piece)
    except OSError:
        pass
    return read


async def open_slow_client(address, number, connections, readers):
    """Opens one of three kinds of slow clients: slow headers, an incomplete body, or answers that
    are not read.
    """
    connection = await connect(address, 4096)
    connections.append(connection)
    if number % 3 == 0:
        readers.append(asyncio.ensure_future(send_slowly(connection)))
    elif number % 3 == 1:
        head = request(
            "/v1/machines/1/power", "content-type: application/json", "content-length: 1000000"
        )
        await send(connection, head.replace(b"GET", b"POST", 1) + b'{"action": "')
    else:
        # Many requests, whose answers are not read.
        await send(connection, request("/v1/machines") * 50)


async def send_slowly(connection):
    try:
        for byte in request("/v1/machines", "x-padding: " + "x" * 10_000):
            await send(connection, bytes([byte]))
            await asyncio.sleep(0.05 + random.random() / 10)
    except OSError:
        pass


async def open_many(count, open_one):
    """Opens `count` connections. Returns how open_many succeeded."""
    gate, failed = asyncio.Semaphore(CONCURRENCY), []

    async def one(number):
        async with gate:
            try:
                await open_one(number)
            except OSError as error:
                failed.append(error)

    await asyncio.gather(*(one(number) for number in range(count)))
    if failed:
        print(f"{len(failed)} of {count} failed, such as: {failed[0]!r}", file=sys.stderr)
    return count - len(failed)


async def main(host, port, waits, streams, slows):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = waits + streams + slows + 100
    if hard != resource.RLIM_INFINITY and hard < needed:
        sys.exit(
            f"{needed} open files are needed, and the hard limit is {hard}: raise it (ulimit -Hn)"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    address, connections, readers = (host, port), [], []
    opened = {
        "streams": await open_many(
            streams, lambda number: open_stream(address, number, connections, readers)
        ),
        "waits": await open_many(waits, lambda number: open_wait(address, number, connections)),
        "slow": await open_many(
            slows, lambda number: open_slow_client(address, number, connections, readers)
        ),
    }
    print("ready", json.dumps(opened), flush=True)
    await asyncio.Event().wait()


host, *numbers = sys.argv[1:]
asyncio.run(main(host, *map(int, numbers)))
