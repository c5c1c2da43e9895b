"""Row 9: durable submissions to machines whose queue is held, against commits of SQLite itself.

The tasks of this host last for many minutes, so that the first job of each machine holds its queue.
"""

import itertools
import sqlite3
import time

from figures import Figure, at_least
from processes import Host, Otter, unused_machines

CLIENTS = 64
# A thousand times a tenth of a real host's time.
PACE = 1000
SETTINGS = "[jobs]\nqueue_per_machine = 100000\nqueue_total = 1000000\n"
# About as long as the document of a job.
DOCUMENT = "x" * 1200


def start(bench):
    """A host and an otter with a held queue on each of 65 machines."""
    host = bench.programs.enter_context(Host(bench, "the host whose tasks last", 200, PACE))
    otter = Otter(bench, "otter with held queues", host, settings=SETTINGS)
    bench.programs.enter_context(otter)
    machines = list(itertools.islice(unused_machines(), CLIENTS + 1))
    bench.tool("submit", "--server", otter.address, "--machines", ",".join(map(str, machines)))
    otter.wait_for(
        "the start of all jobs",
        lambda: b'"id"' not in otter.request("GET", "/v1/jobs?state=queued")[2],
    )
    return otter, machines


def measure(bench, otter, machines, turns, jobs):
    """`jobs` is the number of jobs that one client submits alone in a turn."""
    alone, crowd, commits = [], [], []
    for turn in range(turns):
        commits.append(sqlite_commits(bench.folder / f"commits-{turn}.db", jobs))
        alone.append(submit(bench, otter, machines[:1], jobs))
        crowd.append(submit(bench, otter, machines[1:], max(1, jobs // 10)))
    return [
        Figure(9, "submissions, alone", "/s", alone, "SQLite", commits, at_least(0.5, "≥ 0.5")),
        Figure(9, "submissions, 64 at once", "/s", crowd, "SQLite", commits, at_least(3, "≥ 3")),
    ]


def submit(bench, otter, machines, count):
    arguments = ["--server", otter.address, "--machines", ",".join(map(str, machines))]
    measured = bench.tool("submit", *arguments, "--count", count)
    return measured["jobs"] / (measured["wall"] / 1e6)


def sqlite_commits(file, count):
    """Commits of one row each per second, with the settings of otter's store."""
    database = sqlite3.connect(file, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE jobs (id TEXT PRIMARY KEY, document TEXT NOT NULL)")
        started = time.monotonic()
        for number in range(count):
            database.execute("BEGIN IMMEDIATE")
            database.execute("INSERT INTO jobs VALUES (?, ?)", (f"{number:036}", DOCUMENT))
            database.execute("COMMIT")
        return count / (time.monotonic() - started)
    finally:
        database.close()
