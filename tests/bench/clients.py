"""Row 3: what a caller gains who used pyvmomi or govc: the list, by MAC and by name, each in a new
process and on an open connection.
"""

import json
import statistics
import time

from figures import Figure, at_least
from processes import output
from reads import BY_MAC, BY_NAME, LIST, MACHINE

NAME = f"qubes-{MACHINE:04}"
MAC = BY_MAC.partition("mac=")[2]
READS = (("list", LIST, "list"), ("by MAC", BY_MAC, MAC), ("by name", BY_NAME, NAME))
# How often the open connection reads each path in a turn.
COUNT = 50


def measure(bench, host, otter, turns):
    open_times = {way: {what: [] for what, _, _ in READS} for way in WAYS}
    process_times = {way: {what: [] for what, _, _ in READS} for way in WAYS}
    for _ in range(turns):
        for way, read in WAYS.items():
            for what, path, wanted in READS:
                found = read(bench, host, otter, path, wanted)
                if found is not None:
                    opened, whole = found
                    open_times[way][what].append(opened)
                    process_times[way][what].append(whole)
    figures = []
    for what, _, _ in READS:
        for way in [way for way in WAYS if way != "otter" and open_times[way][what]]:
            figures += [
                speed(f"{what}, open connection", open_times, way, what),
                speed(f"{what}, new process", process_times, way, what),
            ]
    return figures


def speed(name, times, way, what):
    """How often in a second; the goal is for the original on an open connection."""
    per_second = lambda found: [1e6 / micros for micros in found]
    has_goal = way == "original" and "open" in name
    goal = at_least(1000, "≥ 1,000 × original") if has_goal else None
    ours, theirs = per_second(times["otter"][what]), per_second(times[way][what])
    return Figure(3, name, "/s", ours, way, theirs, goal)


def read_otter(bench, host, otter, path, wanted):
    """On an open connection, and with curl."""
    measured = bench.tool("get", "--server", otter.address, "--path", path, "--count", COUNT)
    started = time.monotonic()
    output(["curl", "-sSf", "-o", "/dev/null", f"http://{otter.address}{path}"])
    whole = (time.monotonic() - started) * 1e6
    return statistics.median(measured[path]["micros"]), whole


def read_pyvmomi(way):
    def read(bench, host, otter, path, wanted):
        script = bench.yardsticks / "pyvmomi_reads.py"
        started = time.monotonic()
        text = output([bench.python, "-B", script, way, host.address, wanted])
        return json.loads(text)["micros"], (time.monotonic() - started) * 1e6

    return read


def read_govmomi(bench, host, otter, path, wanted):
    """`govc ls` for the list, `govc vm.info` by name. govc finds no machine by its MAC."""
    if wanted == MAC:
        return None
    name = [] if wanted == "list" else ["-name", wanted]
    started = time.monotonic()
    text = output([bench.govmomi, "-url", f"https://{host.address}/sdk", *name])
    return json.loads(text)["open"], (time.monotonic() - started) * 1e6


WAYS = {
    "otter": read_otter,
    "original": read_pyvmomi("original"),
    "bulk": read_pyvmomi("bulk"),
    "govmomi": read_govmomi,
}
