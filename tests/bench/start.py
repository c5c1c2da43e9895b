"""Row 6: from the start of otter until it is ready, against one fetch of the same properties."""

from figures import Figure, at_most
from processes import Otter

# What a start may take in addition with 1,000 machines, in milliseconds.
ALLOWANCE = 100


def measure(bench, host, large_host, turns):
    small = pairs(bench, "the small otter", host, turns)
    large = pairs(bench, "the large otter", large_host, turns)
    allowed = [1.5 * fetch + ALLOWANCE for fetch in small[1]]
    return [
        Figure(
            6,
            "start until ready, 1,000 machines",
            "ms",
            small[0],
            "1.5 × fetch + 100 ms",
            allowed,
            at_most(1.0, "≤ 1.5 × fetch + 100 ms", of="ratio"),
        ),
        Figure(
            6,
            "start until ready, 10,000 machines",
            "ms",
            large[0],
            "fetch",
            large[1],
            at_most(1.5, "≤ 1.5 × fetch", of="ratio"),
        ),
    ]


def pairs(bench, name, host, turns):
    """The durations of starts and of fetches in milliseconds. The first start makes the store."""
    with Otter(bench, name, host):
        pass
    starts, fetches = [], []
    for _ in range(turns):
        with Otter(bench, name, host) as otter:
            starts.append(otter.ready_after * 1000)
        fetched = bench.tool("raw-fetch", "--host", host.address, "--count", 1)
        fetches.append(fetched["micros"][0] / 1000)
    return starts, fetches
