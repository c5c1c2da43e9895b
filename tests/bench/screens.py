"""Row 11: pictures of a screen, its viewers, and keys, on simulated desktops of 1280×1024 with an
open terminal.
"""

import contextlib
import datetime
import http.client
import json
import pathlib
import statistics
import struct
import subprocess
import sys
import time

from figures import Figure, at_least, at_most, percentile
from processes import Host, Otter, Unusable
from reads import Load

# The screen of the first machine is open; those of the others are opened for their first picture.
MACHINE = 1
CLOSED = range(2, 12)
SIZE = (1280, 1024)
SETTINGS = '[screens]\nidle = "1s"\nmax_viewers = 256\n'
# The screen changes between two of these pictures.
PICTURES = 40
KEYS = 100
FEW, MANY = 10, 100
# How long the processor time of each number of viewers is measured, in seconds.
WATCHED = 4
# How often the window opens or closes in a second, and how many keys are typed.
WINDOWS = 10
TYPED = 20


def start(bench):
    """A host whose machines show a desktop, and otter in front of it."""
    scenario = bench.folder / "screens.toml"
    scenario.write_text(scenario_text((MACHINE, *CLOSED)))
    name = "the host with screens"
    host = Host(bench, name, scenario=scenario, admin="the admin endpoint of screens")
    bench.programs.enter_context(host)
    otter = Otter(bench, "otter with screens", host, settings=SETTINGS)
    return host, bench.programs.enter_context(otter)


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
name = "desktop-{machine}"
datastore = "datastore1"
power = "on"
shows = "terminal"
"""
        for machine in machines
    )
    return datastore + "".join(each)


def measure(bench, host, otter, turns):
    with contextlib.ExitStack() as opened:
        guests = opened.enter_context(Guests(host))
        screen = opened.enter_context(Screen(otter, MACHINE))
        closed = [opened.enter_context(Screen(otter, machine)) for machine in CLOSED]
        return [
            first_picture(guests, closed, turns),
            *open_picture(screen, turns),
            *keys(guests, screen, turns),
            *viewers(bench, guests, screen, turns),
        ]


def first_picture(guests, screens, turns):
    """The first picture of a screen to which otter has no connection."""
    slowest = []
    for _ in range(turns):
        times = []
        for screen in screens:
            screen.otter.wait_for("the end of its use", screen.is_closed)
            # Screens become blank after ten minutes without an input.
            guests.show(screen.machine, "terminal")
            times.append(screen.time_picture())
        slowest.append(max(times))
    goal = at_most(300, "≤ 300 ms")
    name = f"first picture of a closed screen, slowest of {len(screens)}"
    return Figure(11, name, "ms", slowest, goal=goal)


def open_picture(screen, turns):
    """Pictures of an open screen. Each is of another screen, so that each is encoded; otter encodes
    the same pixels once. wrk reads a screen that changes only by its clock and its cursor.
    """
    slowest, rates = [], []
    load = Load(screen.otter.port, screen.path("screen.png"))
    for _ in range(turns):
        times = []
        for number in range(PICTURES):
            screen.press("a" if number % 2 == 0 else "backspace")
            times.append(screen.time_picture())
        slowest.append(max(times))
        rates.append(1000 * len(times) / sum(times))
        load.run(3)
    rate = at_least(50, "≥ 50 /s", of="value")
    name = "picture of an open screen"
    return [
        Figure(11, f"{name}, slowest of {PICTURES}", "ms", slowest, goal=at_most(50, "≤ 50 ms")),
        Figure(11, f"{name}, each another", "/s", rates, goal=rate),
        Figure(11, f"{name}, 32 clients", "/s", load.rates, goal=rate),
    ]


def keys(guests, screen, turns):
    """From the beginning of the call until the guest has the key, which the host tells."""
    medians, slow = [], []
    for _ in range(turns):
        times = []
        # It opens the connection to the screen.
        screen.press("shift")
        for _ in range(KEYS):
            # Longer than the time between two keys, for which the call would wait.
            time.sleep(0.02)
            called = time.time()
            screen.press("shift")
            times.append(1000 * (guests.input_after(screen.machine, called) - called))
        medians.append(statistics.median(times))
        slow.append(percentile(times, 99))
    goal = at_most(5, "≤ 5 ms")
    return [
        Figure(11, "a key at the guest, median", "ms", medians, goal=goal),
        Figure(11, "a key at the guest, p99", "ms", slow, goal=goal),
    ]


def viewers(bench, guests, screen, turns):
    """The processor time of otter with many viewers, against that with few. A figure of the updates
    says whether the many got as many as the few.
    """
    ways = {
        "a window opens and closes": lambda: guests.open_and_close(screen.machine),
        "a text is typed": screen.type_text,
    }
    times = {way: {FEW: [], MANY: []} for way in ways}
    updates = {way: {FEW: [], MANY: []} for way in ways}
    for turn in range(turns):
        for count in (FEW, MANY) if turn % 2 == 0 else (MANY, FEW):
            guests.show(screen.machine, "terminal")
            with Watchers(bench, screen, count) as watchers:
                for way, change in ways.items():
                    used, got = watchers.during(change)
                    times[way][count].append(1000 * used / WATCHED)
                    updates[way][count].append(got / WATCHED)
    figures = []
    for way in ways:
        cost = at_most(2, f"< 2 × {FEW} viewers", of="ratio")
        same = at_least(0.9, f"≥ 0.9 × {FEW} viewers")
        few = f"{FEW}"
        figures += [
            Figure(
                11, f"{MANY} viewers, {way}", "ms/s", times[way][MANY], few, times[way][FEW], cost
            ),
            Figure(
                11,
                f"{MANY} viewers, updates of each, {way}",
                "/s",
                updates[way][MANY],
                few,
                updates[way][FEW],
                same,
            ),
        ]
    return figures


class Connection:
    """An open connection to a server on this machine."""

    def __init__(self, port):
        self.http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.close()

    def call(self, method, path, body=None, statuses=(200,)):
        """The body of an answer with one of these statuses."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        self.http.request(method, path, None if body is None else json.dumps(body), headers)
        answer = self.http.getresponse()
        content = answer.read()
        if answer.status not in statuses:
            raise Unusable(f"{method} {path} was answered with {answer.status}: {content[:500]}")
        return content


class Screen(Connection):
    """The screen of a machine through otter."""

    def __init__(self, otter, machine):
        super().__init__(otter.port)
        self.otter = otter
        self.machine = machine

    def path(self, below):
        return f"/v1/machines/{self.machine}/{below}"

    def is_closed(self):
        state = json.loads(self.call("GET", self.path("screen")))
        return state["connection"] == "closed"

    def time_picture(self):
        """Reads a picture. Returns the duration in milliseconds."""
        started = time.monotonic()
        png = self.call("GET", self.path("screen.png"))
        duration = 1000 * (time.monotonic() - started)
        if (size := size_of(png)) != SIZE:
            raise Unusable(f"The picture of machine {self.machine} has {size} pixels, not {SIZE}.")
        return duration

    def press(self, key):
        self.send({"events": [{"keys": [key]}], "interval": "5ms"})

    def type_text(self):
        """Types a line for as long as viewers are measured, and removes it."""
        text = ("otter " * WATCHED * TYPED)[: WATCHED * TYPED]
        interval = f"{1000 // TYPED}ms"
        self.send({"events": [{"text": text}, {"keys": ["ctrl-u"]}], "interval": interval})

    def send(self, body):
        self.call("POST", self.path("screen/input"), body)


def size_of(png):
    """The width and the height of a PNG."""
    return struct.unpack(">II", png[16:24])


class Guests(Connection):
    """The guests of the simulated host, by its admin endpoint."""

    def __init__(self, host):
        super().__init__(host.admin_port)

    def show(self, machine, stage):
        self.call("POST", "/show-screen", {"machine": str(machine), "stage": stage})

    def open_and_close(self, machine):
        """The terminal closes and opens at an even pace. It is open at the end."""
        started = time.monotonic()
        for number in range(WATCHED * WINDOWS):
            self.show(machine, ("desktop", "terminal")[number % 2])
            due = started + (number + 1) / WINDOWS
            time.sleep(max(0.0, due - time.monotonic()))

    def input_after(self, machine, earliest):
        """Waits until the guest has got an input after this time, and returns its time."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            state = json.loads(self.call("GET", f"/screens/{machine}"))
            at = datetime.datetime.fromisoformat(state["last_input_at"]).timestamp()
            if at > earliest:
                return at
        raise Unusable(f"The guest of machine {machine} did not get a key.")


class Watchers:
    """Viewers of one screen, in a process of their own."""

    def __init__(self, bench, screen, count):
        self.otter = screen.otter
        self.asked = 0
        script = pathlib.Path(__file__).with_name("viewers.py")
        command = [sys.executable, "-B", script, "--server", self.otter.address]
        command += ["--path", screen.path("screen/rfb"), "--count", count]
        bench.folder.joinpath("viewers.log").unlink(missing_ok=True)
        self.program = bench.start("viewers", command, stdin=subprocess.PIPE)
        self.program.wait_for_line("open")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.program.stop()

    def during(self, change):
        """Makes changes for a while. Returns the seconds of processor time that otter used
        meanwhile, and the number of updates that a viewer got, on average.
        """
        before, used = self.updates(), self.otter.processor_seconds()
        change()
        used = self.otter.processor_seconds() - used
        return used, self.updates() - before

    def updates(self):
        """The number of updates that a viewer has got so far, on average."""
        self.asked += 1
        label = f"question {self.asked}"
        self.program.process.stdin.write(f"{label}\n".encode())
        self.program.process.stdin.flush()
        return statistics.mean(json.loads(self.program.wait_for_line(f'"{label}"'))[label])
