"""Row 12: serial ports that output without a pause, a long log, and recordings of many machines."""

import contextlib
import http.client
import json
import pathlib
import time

from figures import Figure, at_least, at_most, percentile
from processes import Host, Otter, Unusable
from screens import Connection, Guests

# How many machines the host has, each with one serial port.
MACHINES = 50
PORT = "ttyS0"
# How fast each port outputs when it must be drained, in bytes per second.
RATE = 1_000_000
# The size of the long log, how fast it grows, and how often it is read.
LONG = 100_000_000
GROWTH = 40_000_000
READS = 50
# Recorded machines: how often a window opens or closes, in seconds, how fast a port outputs, in
# bytes per second, and what otter may use for a recording.
WINDOW = 10
OUTPUT = 1_000
RECORDING_BYTES = 32 << 20
# The lines that the simulated host outputs.
LINE = 64
FILL = b" abcdefghijklmnopqrstuvwxyz+ABCDEFGHIJKLMNOPQR\r\n"


def start(bench):
    """A host whose machines listen for a client of their serial ports."""
    scenario = bench.folder / "serial-ports.toml"
    scenario.write_text(scenario_text(range(1, MACHINES + 1)))
    name, admin = "the host with serial ports", "the admin endpoint of serial ports"
    host = Host(bench, name, scenario=scenario, admin=admin)
    return (bench.programs.enter_context(host),)


def scenario_text(machines):
    """A scenario with machines of these ids, all of them on."""
    datastore = """[[datastores]]
id = "5f2c7a10-0c8e1b2a-7d31-0050569c0001"
name = "datastore1"
capacity_gb = 1_000
free_gb = 1_000
"""
    each = (
        f"""[[machines]]
id = "{machine}"
name = "port-{machine}"
datastore = "datastore1"
power = "on"
shows = "terminal"
serial_ports = [{{ uri = "tcp://:0" }}]
"""
        for machine in machines
    )
    return datastore + "".join(each)


def measure(bench, host, turns, drained, recorded):
    """Each part has an otter of its own, because a port takes one client.

    drained, recorded: for how many seconds the ports output in each turn, and the recordings run.
    """

    def otter(part, settings):
        state = bench.folder / f"serial-ports-{part}"
        return Otter(bench, "otter with serial ports", host, settings=settings, state=state)

    limit = f"[artifacts]\nrecording_bytes = {RECORDING_BYTES}\n"
    with PortGuests(host) as guests:
        with otter("drained", always("port-*", 16 << 20)) as every:
            figures = drain(every, guests, turns, drained)
        with otter("long", always("port-1", 2 * LONG)) as only:
            figures += long_log(only, guests, turns)
        with otter("recorded", limit) as recorder:
            return figures + recordings(recorder, guests, turns, recorded)


def always(machines, log_bytes):
    """Ports that otter drains also while no client reads them."""
    return f"""[serial]
log_bytes = {log_bytes}
[pools.drained]
machines = ["{machines}"]
serial = "always"
"""


def drain(otter, guests, turns, seconds):
    """All ports output at once. The rate is that at which otter got the bytes, to the last one."""
    rates, lost, used = [], [], []
    total = RATE * seconds // LINE * LINE
    expected = output(total)
    with contextlib.ExitStack() as opened:
        ports = [opened.enter_context(Port(otter, m)) for m in range(1, MACHINES + 1)]
        for _ in range(turns):
            for port in ports:
                otter.wait_for("connection to a port", port.is_open)
            before = [port.state() for port in ports]
            processor = otter.processor_seconds()
            started = time.monotonic()
            for port in ports:
                guests.flood(port.machine, RATE, total)
            ends = [state["next_offset"] + total for state in before]
            for port, end in zip(ports, ends):
                port.wait_until(end, seconds)
            duration = time.monotonic() - started
            used.append(1000 * (otter.processor_seconds() - processor) / duration)
            rates.append(len(ports) * total / duration / 1e6)
            lost.append(sum(port.lost(state, expected) for port, state in zip(ports, before)))
    name = f"{MACHINES} ports at {RATE / 1e6:g} MB/s"
    whole = MACHINES * RATE / 1e6
    # The rate of the output includes its begin and its end, which are not at the same time.
    fast = at_least(0.95 * whole, f"≥ {0.95 * whole:g} MB/s", of="value")
    return [
        Figure(12, f"{name}, drained", "MB/s", rates, goal=fast),
        Figure(12, f"{name}, lost", "bytes", lost, goal=at_most(0, "none"), is_timed=False),
        Figure(12, f"{name}, processor time of otter", "ms/s", used),
    ]


def long_log(otter, guests, turns):
    """The first byte of the log from an offset on, on an open connection."""
    with Port(otter, 1) as port:
        otter.wait_for("connection to a port", port.is_open)
        first = port.state()["next_offset"]
        guests.flood(1, GROWTH, LONG)
        port.wait_until(first + LONG, LONG / GROWTH)
        slowest, medians = [], []
        for turn in range(turns):
            times = []
            for read in range(READS):
                # Any offset of the log, also those that are on the disk alone.
                offset = first + LONG * ((read * 7 + turn) % READS) // READS
                times.append(port.time_first_byte(offset, output_at(offset - first)))
            slowest.append(max(times))
            medians.append(percentile(times, 50))
    goal = at_most(20, "≤ 20 ms")
    name = f"since of a log of {LONG / 1e6:g} MB, first byte"
    return [
        Figure(12, f"{name}, slowest of {READS}", "ms", slowest, goal=goal),
        Figure(12, f"{name}, median", "ms", medians, goal=goal),
    ]


def recordings(otter, guests, turns, seconds):
    """The processor time of otter while screens and ports of all machines are recorded, and the
    size of the largest recording at the end.
    """
    machines = range(1, MACHINES + 1)
    with Connection(otter.port) as caller:
        leases = [take(caller, machine) for machine in machines]
        for lease in leases:
            otter.wait_for("the recording", lambda: is_recorded(caller, lease))
        for machine in machines:
            guests.flood(machine, OUTPUT, None)
        shares = []
        for _ in range(turns):
            used, started = otter.processor_seconds(), time.monotonic()
            guests.open_and_close_all(machines, seconds / turns)
            duration = time.monotonic() - started
            shares.append(100 * (otter.processor_seconds() - used) / duration)
        for machine in machines:
            guests.flood(machine, 0, None)
        # What has ended cost nothing.
        if not all(is_recorded(caller, lease) for lease in leases):
            raise Unusable("A recording has ended while it was measured.")
        sizes = [size_of(otter.state / "recordings" / lease) / 2**20 for lease in leases]
    name = f"{len(machines)} machines recorded"
    goal = at_most(RECORDING_BYTES / 2**20, f"≤ {RECORDING_BYTES >> 20} MiB")
    return [
        Figure(12, f"{name}, share of a processor", "%", shares, goal=at_most(50, "≤ 50 %")),
        Figure(12, f"{name}, largest recording", "MiB", [max(sizes)], goal=goal, is_timed=False),
    ]


def take(caller, machine):
    """Takes a machine, which is recorded. Returns the id of the lease."""
    # A machine that is on is not free.
    caller.call("POST", f"/v1/machines/{machine}/power?wait=30s", {"action": "off"})
    ask = {
        "select": {"machine": str(machine)},
        "ttl": "1h",
        "prepare": {"power": "on"},
        "record": {"screen": True, "serial": [PORT]},
    }
    return json.loads(caller.call("POST", "/v1/leases", ask, statuses=(201, 202)))["id"]


def is_recorded(caller, lease):
    recording = json.loads(caller.call("GET", f"/v1/leases/{lease}"))["recording"]
    return recording is not None and recording["state"] == "recording"


def size_of(folder):
    """The bytes of the files in a folder."""
    sizes = [file.stat().st_size for file in pathlib.Path(folder).rglob("*") if file.is_file()]
    if not sizes:
        raise Unusable(f"{folder} has no recording.")
    return sum(sizes)


def output(size):
    """The bytes that a port outputs: lines that begin with their number."""
    lines = (b"%016d" % number + FILL for number in range(-(-size // LINE)))
    return b"".join(lines)[:size]


def output_at(position):
    """The byte that a port outputs at this position."""
    return (b"%016d" % (position // LINE) + FILL)[position % LINE]


class PortGuests(Guests):
    """The guests of the simulated host, whose ports output."""

    def __init__(self, host):
        super().__init__(host)
        self.steps = 0

    def flood(self, machine, rate, total):
        """A port outputs from now on. total: how many bytes, None for no end."""
        flood = {"machine": str(machine), "port": PORT, "bytes_per_second": rate, "total": total}
        self.call("POST", "/serial", {"flood": flood})

    def open_and_close_all(self, machines, seconds):
        """A window opens or closes on one machine after the other, at an even pace."""
        started, pause = time.monotonic(), WINDOW / len(machines)
        for number in range(1, round(seconds / pause) + 1):
            turn, at = divmod(self.steps, len(machines))
            self.show(machines[at], ("desktop", "terminal")[turn % 2])
            self.steps += 1
            time.sleep(max(0.0, started + number * pause - time.monotonic()))


class Port(Connection):
    """The serial port of a machine through otter."""

    def __init__(self, otter, machine):
        super().__init__(otter.port)
        self.otter = otter
        self.machine = machine
        self.path = f"/v1/machines/{machine}/serial"

    def state(self):
        return json.loads(self.call("GET", self.path))["ports"][0]

    def is_open(self):
        return self.state()["access"] == "open"

    def wait_until(self, offset, seconds):
        """Waits until otter has the bytes up to this offset, or surely does not get them."""
        what = f"{offset} bytes of machine {self.machine}"
        self.otter.wait_for(what, lambda: self.state()["next_offset"] >= offset, 60 + 10 * seconds)

    def lost(self, before, expected):
        """How many of the expected bytes otter does not have since `before`. Bytes that differ, and
        a new gap, count as the loss of all.
        """
        log = self.call("GET", f"{self.path}/{PORT}/log?since={before['next_offset']}")
        is_whole = self.state()["gaps"] == before["gaps"] and log == expected[: len(log)]
        return len(expected) - len(log) if is_whole else len(expected)

    def time_first_byte(self, offset, expected):
        """Reads the first byte of the log. Returns the duration in milliseconds."""
        connection = http.client.HTTPConnection("127.0.0.1", self.otter.port, timeout=60)
        with contextlib.closing(connection):
            connection.connect()
            started = time.monotonic()
            connection.request("GET", f"{self.path}/{PORT}/log?since={offset}")
            answer = connection.getresponse()
            first = answer.read(1)
            duration = 1000 * (time.monotonic() - started)
        if (answer.status, first) != (200, bytes([expected])):
            raise Unusable(f"{offset} was answered with {answer.status}, and begins with {first}.")
        return duration
