"""How much of the processors other programs used while a row was measured."""

import os
import time

TICKS = os.sysconf("SC_CLK_TCK")


class Watch:
    """Measures from its start. Ended children count as ours once they are reaped."""

    def __init__(self):
        self.started = time.monotonic()
        self.total = used_by_all()
        self.own = used_by_own()

    def share_of_others(self):
        """The part of all processors that others used, from 0 to 1, with stolen time."""
        available = (time.monotonic() - self.started) * os.cpu_count()
        others = (used_by_all() - self.total) - (used_by_own() - self.own)
        return max(0.0, others / available) if available else 0.0


def used_by_all():
    """Seconds of processor time of all programs since the boot, and stolen by other machines.

    The time of interrupts is left out: it serves the network of the measurement too, and belongs to
    no process.
    """
    with open("/proc/stat") as file:
        user, nice, system, _, _, _, _, steal = (int(n) for n in file.readline().split()[1:9])
    return (user + nice + system + steal) / TICKS


def used_by_own():
    """Seconds of processor time of this process, its descendants, and those of them that ended."""
    parents, times = {}, {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:  # the process has ended
            continue
        parents[int(entry)] = int(fields[1])
        times[int(entry)] = sum(int(n) for n in fields[11:15])
    own = {os.getpid()}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in own} - own
        own |= more
        grown = bool(more)
    return sum(times.get(pid, 0) for pid in own) / TICKS
