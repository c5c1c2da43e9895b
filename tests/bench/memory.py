"""Rows 7 and 8: the memory of an idle otter, of each waiter and of each stream; and when many
waiters have their answers.
"""

import json
import subprocess
import time

from figures import Figure, at_most
from processes import Otter, Unusable
from reads import LIST

# How long after its load the memory of otter is read, in seconds.
IDLE = 30
# How long otter has to free what it needed to accept connections, in seconds.
SETTLE = 5
WAITERS = 10_000
STREAMS = 1_000
EVENTS = "/v1/events"
MEGABYTE = 1e6


def measure_idle(bench, hosts):
    """`hosts` are (the number of machines, the name of otter, the host, the goal in MB). Returns
    the figures and the otters.
    """
    with_goal = []
    for machines, name, host, limit in hosts:
        otter = bench.programs.enter_context(Otter(bench, name, host))
        otter.request("GET", LIST)
        with_goal.append((machines, otter, limit))
    time.sleep(IDLE)
    figures = [
        Figure(
            7,
            f"idle, {machines:,} machines",
            "MB",
            [otter.anonymous_bytes() / MEGABYTE],
            goal=at_most(limit, f"< {limit} MB"),
            is_timed=False,
        )
        for machines, otter, limit in with_goal
    ]
    return figures, [otter for _, otter, _ in with_goal]


def measure_each(bench, host, machines, turns):
    """The memory of each waiter and of each stream. Each is measured on an otter that was just
    started, because an otter that had more waiters before keeps their memory for the next ones.
    `host` is one whose tasks last, and no job was started on `machines`.
    """
    waiters, streams = [], []
    for turn in range(turns):
        job = lambda otter: f"/v1/jobs/{start_job(otter, machines[turn])}/wait?wait=10m"
        waiters.append(kilobytes_each(bench, host, turn, job, WAITERS))
        streams.append(kilobytes_each(bench, host, turn, lambda _: EVENTS, STREAMS, "--stream"))
    found = (("each waiter", waiters, 20), ("each stream", streams, 30))
    return [
        Figure(7, name, "kB", samples, goal=at_most(limit, f"< {limit} kB"), is_timed=False)
        for name, samples, limit in found
    ]


def kilobytes_each(bench, host, turn, path, count, *options):
    """What each of the open requests adds to a fresh otter; `path` makes their path."""
    state = bench.folder / f"memory-{turn}-{count}"
    with Otter(bench, "the small otter", host, state=state) as otter:
        with Held(bench, otter, path(otter), count, *options) as held:
            return held.bytes_each / 1000


def measure_answers(bench, otter, machine, turns):
    """Row 8: the time from the request that ends a job until the last waiter has its answer."""
    times = []
    for _ in range(turns):
        job = start_job(otter, machine)
        path = f"/v1/jobs/{job}/wait?wait=10m"
        # A wait for a job that was cancelled is answered with a problem.
        end = ("--end", f"/v1/jobs/{job}/cancel", "--status", 409)
        with Held(bench, otter, path, WAITERS, *end) as held:
            times.append(held.finish()["last"] / 1000)
    return [
        Figure(8, f"{WAITERS:,} waiters answered", "ms", times, goal=at_most(600, "≤ 600 ms"))
    ]


def start_job(otter, machine):
    """A job that lasts, or that waits behind one. Returns its id."""
    status, _, body = otter.request("POST", f"/v1/machines/{machine}/power", {"action": "on"})
    if status != 202:
        raise Unusable(f"A job was not accepted: {status} {body[:500]}")
    return json.loads(body)["id"]


class Held:
    """Many open requests of one path, and how much memory each of them needs."""

    def __init__(self, bench, otter, path, count, *options):
        before = otter.anonymous_bytes()
        command = [bench.binaries / "otter-bench", "hold", "--server", otter.address]
        command += ["--path", path, "--count", count, *options]
        self.log = bench.folder / "hold.log"
        self.log.unlink(missing_ok=True)
        self.program = bench.start("hold", command, stdin=subprocess.PIPE)
        self.program.wait_for_line("held")
        time.sleep(SETTLE)
        self.bytes_each = (otter.anonymous_bytes() - before) / count

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.program.stop()

    def finish(self):
        """Ends the requests. Returns the measurements."""
        self.program.process.stdin.write(b"\n")
        self.program.process.stdin.flush()
        return json.loads(self.program.wait_for_line('"last"', seconds=120))
