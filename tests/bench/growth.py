"""Row 10: whether answers get slower with the number of machines, of ended jobs, and of queued
leases.
"""

import shutil
import sqlite3
import statistics
import time
import uuid

from figures import Figure, at_most
from processes import Otter, Unusable, unused_machines

ONE = "/v1/machines/52"
FIND = "/v1/machines/find?name=qubes-0052"
FIND_BY_MAC = "/v1/machines/find?mac=00:0c:29:00:00:34"
LIST = "/v1/machines"
JOBS = "/v1/jobs"
# As many as the store with the fewest jobs has.
JOBS_OF_MACHINE = "/v1/jobs?machine=52&limit=10"
# What counts as flat, and as growing with the size of the answer alone.
FLAT = 1.5
SAMPLES = 100
LEASES = (10, 1_000, 10_000)
# The time of one ask beyond which the queue is not filled further, in seconds.
TOO_SLOW = 1.0
SETTINGS = '[leases]\nabandon_after = "24h"\n'


def measure_machines(bench, otters, turns):
    """`otters` are those with 100, 1,000 and 10,000 machines."""
    paths = {"one machine": ONE, "find by name": FIND, "find by MAC": FIND_BY_MAC, "jobs": JOBS}
    times = {name: {machines: [] for machines in otters} for name in [*paths, "list"]}
    for _ in range(turns):
        for machines, otter in otters.items():
            for name, path in paths.items():
                times[name][machines].append(median_of(bench, otter, path)[0])
            micros, size = median_of(bench, otter, LIST, SAMPLES // 10)
            times["list"][machines].append(micros / size * 1e3)
    figures = []
    small, *larger = otters
    for name, found in times.items():
        unit = "µs/kB" if name == "list" else "µs"
        what = "the list, for each kB" if name == "list" else name
        for machines in larger:
            goal = at_most(FLAT, f"≤ {FLAT} × with {small}", of="ratio")
            title = f"{what}, {machines:,} machines"
            figures.append(
                Figure(10, title, unit, found[machines], f"{small}", found[small], goal)
            )
    return figures


def measure_jobs(bench, host, turns, counts=(1_000, 1_000_000)):
    """The list of jobs, one job and one machine with few and with many ended jobs."""
    paths = {"jobs": JOBS, "jobs of a machine": JOBS_OF_MACHINE, "one machine": ONE}
    times = {}
    state = bench.folder / "the-small-otter-state"
    for count in counts:
        fill_jobs(bench, host, count)
        with Otter(bench, "the small otter", host, state=state) as otter:
            times[count] = {
                name: [median_of(bench, otter, path)[0] for _ in range(turns)]
                for name, path in paths.items()
            }
    # It is larger than a gigabyte.
    shutil.rmtree(state)
    few, many = counts
    goal = at_most(FLAT, f"≤ {FLAT} × with {few:,}", of="ratio")
    return [
        Figure(
            10, f"{name}, {many:,} ended jobs", "µs", times[many][name], f"{few:,}",
            times[few][name], goal,
        )
        for name in paths
    ]


def fill_jobs(bench, host, count):
    """Copies an ended job in the store of the small otter until it has this many."""
    state = bench.folder / "the-small-otter-state"
    with Otter(bench, "the small otter", host, state=state) as otter:
        status, _, body = otter.request("POST", "/v1/machines/52/power?wait=1m", {"action": "off"})
        if status != 200:
            raise Unusable(f"A job did not end: {status} {body[:500]}")
    database = sqlite3.connect(state / "otter.db", isolation_level=None)
    columns = [row[1] for row in database.execute("PRAGMA table_info(jobs)")]
    database.row_factory = sqlite3.Row
    row = dict(database.execute("SELECT * FROM jobs ORDER BY arrival LIMIT 1").fetchone())
    present, arrival = database.execute("SELECT COUNT(*), MAX(arrival) FROM jobs").fetchone()
    places = ", ".join("?" for _ in columns)
    copies = (
        tuple(copy_of(row, arrival + 1 + number)[column] for column in columns)
        for number in range(count - present)
    )
    database.execute("BEGIN")
    database.executemany(f"INSERT INTO jobs ({', '.join(columns)}) VALUES ({places})", copies)
    database.execute("COMMIT")
    database.close()


def copy_of(row, arrival):
    """A job of another machine that was accepted and ended a little earlier."""
    machine = str(arrival % 97 + 1)
    earlier = 2_000_000 * arrival % 1_000_000_000_000
    created = row["created_at"] - earlier
    # A UUID of version 7 begins with the milliseconds since 1970.
    id = uuid.UUID(int=(created // 1000 << 80) | 7 << 76 | 2 << 62 | arrival)
    ended = row["ended_at"] - earlier
    document = row["document"].replace(row["id"], str(id))
    changes = {"id": str(id), "arrival": arrival, "target": machine, "document": document}
    return row | changes | {"created_at": created, "ended_at": ended}


def measure_leases(bench, host, counts=LEASES):
    """How long it takes to ask for a lease when many others wait for the same machine."""
    figures = []
    state = bench.folder / "leases"
    with Otter(bench, "the small otter", host, settings=SETTINGS, state=state) as otter:
        machine = str(next(unused_machines()))
        ask(otter, machine)
        queued, samples = 0, []
        for count in counts:
            while queued < count and (not samples or samples[-1] < TOO_SLOW * 1000):
                samples.append(ask(otter, machine))
                queued += 1
            name = f"asking for a lease, {queued:,} queued"
            goal = at_most(20.0, "< 20 ms") if count == counts[-1] else None
            figures.append(Figure(10, name, "ms", samples[-10:], goal=goal))
    return figures


def ask(otter, machine):
    """Asks for a lease of the machine. Returns the duration in milliseconds."""
    body = {"select": {"machine": machine}, "ttl": "10h", "queue_for": "10h"}
    started = time.monotonic()
    status, _, answer = otter.request("POST", "/v1/leases", body)
    if status not in (201, 202):
        raise Unusable(f"A lease was refused: {status} {answer[:500]}")
    return (time.monotonic() - started) * 1000


def median_of(bench, otter, path, count=SAMPLES):
    """The median duration of a GET in microseconds, and the size of its answer in bytes."""
    measured = bench.tool("get", "--server", otter.address, "--path", path, "--count", count)[path]
    return statistics.median(measured["micros"]), measured["bytes"]
