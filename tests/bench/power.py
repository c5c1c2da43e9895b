"""Row 4: power jobs through otter, against the same calls on the host alone and against pyvmomi."""

import itertools
import json
import statistics

from figures import Figure, at_most, percentile
from processes import output, unused_machines

AT_ONCE = 500
ROUNDS = 100
# Rounds at the beginning and at the end that are compared: as many on as off.
COMPARED = 6


def measure(bench, host, otter, turns, jobs, worn, crowds=False):
    """`jobs` is the number of machines of one turn, each changed twice, and `worn` that of the
    machines of a hundred rounds. With `crowds`, the rounds of 500 jobs at once are compared too.
    """
    unused = unused_machines()
    alone = list(itertools.islice(unused, jobs))
    worn = list(itertools.islice(unused, worn))
    crowd = list(itertools.islice(unused, AT_ONCE))
    figures = measure_alone(bench, host, otter, turns, alone)
    figures += measure_rounds(bench, otter, worn)
    if crowds:
        rounds = otter_rounds(bench, otter, crowd, "--rounds", ROUNDS, "--at-once")
        walls = [found["wall"] / AT_ONCE / 1000 for found in rounds]
        figures.append(compared("500 at once, round 100 against 1", walls))
    figures += measure_crowd(bench, host, otter, turns, crowd)
    return figures


def measure_rounds(bench, otter, machines):
    """The same machines, one after the other, a hundred times."""
    rounds = otter_rounds(bench, otter, machines, "--rounds", ROUNDS)
    medians = [statistics.median(found["micros"]) / 1000 for found in rounds]
    return [compared("alone, round 100 against 1", medians)]


def compared(name, rounds):
    first, last = rounds[:COMPARED], rounds[-COMPARED:]
    goal = at_most(1.1, "≤ 1.1 ×", of="ratio")
    return Figure(4, name, "ms", last, "first", first, goal)


def measure_alone(bench, host, otter, turns, machines):
    ours, raw, pyvmomi, all_ours = [], [], [], []
    for _ in range(turns):
        micros = [found["micros"] for found in otter_rounds(bench, otter, machines)]
        all_ours += sum(micros, [])
        ours.append(median_ms(micros))
        raw.append(median_ms([found["micros"] for found in raw_rounds(bench, host, machines)]))
        pyvmomi.append(median_ms([pyvmomi_power(bench, host, machines)]))
    slowest = percentile(all_ours, 99) / 1000 - statistics.median(raw)
    difference = at_most(4.0, "median − host < 4 ms", of="difference")
    return [
        Figure(4, "one job, submit and wait", "ms", ours, "raw", raw, difference),
        Figure(4, "one job, p99 − host", "ms", [slowest], goal=at_most(20.0, "< 20 ms")),
        Figure(
            4,
            "one job, in total",
            "ms",
            ours,
            "pyvmomi",
            pyvmomi,
            at_most(1.0, "≤ 1 × pyvmomi", of="ratio"),
        ),
    ]


def measure_crowd(bench, host, otter, turns, machines):
    ours, raw = [], []
    for _ in range(turns):
        ours += walls(otter_rounds(bench, otter, machines, "--at-once"))
        raw += walls(raw_rounds(bench, host, machines, "--at-once"))
    goal = at_most(1.0, "− host < 1 ms for each", of="difference")
    return [Figure(4, "500 jobs at once, for each", "ms", ours, "raw", raw, goal)]


def walls(rounds):
    return [found["wall"] / AT_ONCE / 1000 for found in rounds]


def otter_rounds(bench, otter, machines, *options):
    arguments = ["--server", otter.address, "--machines", ids(machines), *options]
    return bench.tool("power", *arguments)["rounds"]


def raw_rounds(bench, host, machines, *options):
    arguments = ["--host", host.address, "--machines", ids(machines), *options]
    return bench.tool("raw-power", *arguments)["rounds"]


def pyvmomi_power(bench, host, machines):
    script = bench.yardsticks / "pyvmomi_power.py"
    return json.loads(output([bench.python, "-B", script, host.address, ids(machines)]))


def median_ms(groups):
    return statistics.median(sum(groups, [])) / 1000


def ids(machines):
    return ",".join(map(str, machines))
