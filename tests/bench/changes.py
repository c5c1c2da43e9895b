"""Row 5: how long after the host sent a change otter shows it, in a GET and in a stream."""

import json

from figures import Figure, at_most, percentile
from processes import Otter

MACHINES = (251, 253, 254, 256, 257, 259, 262, 263, 265, 266)


def measure(bench, host, count):
    """The program `changes` is between otter and the host, so it starts first."""
    proxy = f"127.0.0.1:{bench.port('the proxy in front of the host')}"
    server = f"127.0.0.1:{bench.port('otter behind the proxy')}"
    command = [bench.binaries / "otter-bench", "changes", "--host", host.address]
    command += ["--to", host.address, "--proxy", proxy, "--server", server]
    command += ["--machines", ",".join(map(str, MACHINES)), "--count", count]
    changes = bench.start("changes", command)
    changes.wait_for_line("ready")
    with Otter(bench, "otter behind the proxy", host, through=proxy):
        measured = json.loads(changes.wait_for_line('{"get"', seconds=60 + count))
    goal = at_most(5.0, "p99 < 5 ms")
    return [
        Figure(5, name, "ms", [percentile(measured[way], 99) / 1000], goal=goal)
        for name, way in (("change seen by GET, p99", "get"), ("change in a stream, p99", "stream"))
    ]
