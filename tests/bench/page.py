"""Row 14: the page in Chromium, with 1,000 machines and 100 changes a second. A frame waits for the
longest task of the page's thread in Chromium's trace.
"""

import json
import os
import pathlib

from figures import Figure, at_most
from processes import Unusable, output

HERE = pathlib.Path(__file__).resolve().parent
# How long each view is open, in seconds.
OPEN = 5
RATE = 100
LONGEST = 50


def measure(bench, otter, turns):
    rounds = [one_round(bench, otter) for _ in range(turns)]
    for found in rounds:
        for view, figures in found.items():
            if figures["events"] < 0.9 * RATE * OPEN:
                raise Unusable(
                    f"otter made {figures['events']} changes in {OPEN} s while the view {view} was"
                    f" open, not {RATE} in a second."
                )
    goal = at_most(LONGEST, f"≤ {LONGEST} ms")
    longest = lambda view: [found[view]["longest"] for found in rounds]
    figure = lambda view: Figure(14, f"longest task, {view}", "ms", longest(view), goal=goal)
    return [figure(view) for view in rounds[0]]


def one_round(bench, otter):
    """Opens the page in a new browser."""
    environment = os.environ | {
        "OTTER_BINARY": str(bench.binaries / "otter"),
        "OTTER_PICTURES": str(bench.folder),
    }
    command = ["node", HERE / "page.mjs", f"http://{otter.address}", OPEN]
    return json.loads(output(command, env=environment))
