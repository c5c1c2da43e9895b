"""A crowd of callers that do not do as they should: waits that nobody ends, streams that nobody reads, slow clients.

    python3 crowd.py ADDRESS PORT WAITS STREAMS SLOW

opens them, says `ready` with how many of each hold a connection, and keeps them until it is killed. Only Python's own
library.
"""

import asyncio
import json
import random
import resource
import socket
import sys

# How many connections are being opened at a time: the backlog of a listener is finite.
AT_ONCE = 200


def request(path, *headers):
    return "\r\n".join([f"GET {path} HTTP/1.1", "host: localhost", *headers, "\r\n"]).encode()


async def connect(address, receive_buffer=None):
    made = socket.socket()
    made.setblocking(False)
    if receive_buffer:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(made, address)
    return made


async def send(made, bytes):
    await asyncio.get_running_loop().sock_sendall(made, bytes)


async def head(made):
    """Reads to the end of the head of an answer, a byte at a time at the end, so that nothing behind it is read."""
    read = b""
    while not read.endswith(b"\r\n\r\n"):
        byte = await asyncio.get_running_loop().sock_recv(made, 1)
        if not byte:
            raise ConnectionError(f"closed after {read!r}")
        read += byte
    assert read.startswith(b"HTTP/1.1 200 "), read
    return read


async def waiting(address, number, kept):
    """A wait for what does not come."""
    made = await connect(address)
    await send(made, request(f"/v1/machines/{1 + number % 20}/wait?until=question&wait=10m"))
    kept.append(made)


async def streaming(address, number, kept, readers):
    """Every other stream is read; the others' windows fill up. All ask for everything first."""
    reads = number % 2 == 0
    made = await connect(address, None if reads else 4096)
    await send(made, request("/v1/events?initial=true", "accept: application/x-ndjson"))
    kept.append(made)
    if reads:
        await head(made)
        readers.append(asyncio.ensure_future(reading(made)))


async def reading(made):
    read = 0
    try:
        while piece := await asyncio.get_running_loop().sock_recv(made, 65536):
            read += len(piece)
    except OSError:
        pass
    return read


async def slow(address, number, kept, readers):
    """Of three kinds: headers a byte at a time, a body that stops, an answer of which one byte is read."""
    made = await connect(address, 4096)
    kept.append(made)
    if number % 3 == 0:
        readers.append(asyncio.ensure_future(dripping(made)))
    elif number % 3 == 1:
        head = request("/v1/machines/1/power", "content-type: application/json", "content-length: 1000000")
        await send(made, head.replace(b"GET", b"POST", 1) + b'{"action": "')
    else:
        # Many answers in a row, none of which is taken.
        await send(made, request("/v1/machines") * 50)


async def dripping(made):
    try:
        for byte in request("/v1/machines", "x-padding: " + "x" * 10_000):
            await send(made, bytes([byte]))
            await asyncio.sleep(0.05 + random.random() / 10)
    except OSError:
        pass


async def many(count, open_one):
    """Opens so many, some at a time; gives how many it could not."""
    gate, failed = asyncio.Semaphore(AT_ONCE), []

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
    wanted = waits + streams + slows + 100
    if hard != resource.RLIM_INFINITY and hard < wanted:
        sys.exit(f"{wanted} open files are needed, and the hard limit is {hard}: raise it (ulimit -Hn)")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    address, kept, readers = (host, port), [], []
    opened = {
        "streams": await many(streams, lambda number: streaming(address, number, kept, readers)),
        "waits": await many(waits, lambda number: waiting(address, number, kept)),
        "slow": await many(slows, lambda number: slow(address, number, kept, readers)),
    }
    print("ready", json.dumps(opened), flush=True)
    await asyncio.Event().wait()


host, *numbers = sys.argv[1:]
asyncio.run(main(host, *map(int, numbers)))
