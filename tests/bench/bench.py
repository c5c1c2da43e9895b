"""The command line of the benchmark. tests/bench/run installs and builds what it needs, and calls
it.

It exits with 0 if every goal is met, 1 if one is missed, 2 if the machine was too noisy to judge
one, and 3 if the benchmark cannot run.
"""

import argparse
import datetime
import itertools
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys

import changes
import clients
import files
import growth
import memory
import page
import power
import reads
import report
import screens
import serial_ports
import start
import submissions
from noise import Watch
from processes import Bench, Host, Otter, Unusable, unused_machines

HERE = pathlib.Path(__file__).resolve().parent
ROWS = range(1, 15)
QUICK_ROWS = (1, 2, 4, 5, 9)


def main(arguments=None):
    options = parse(arguments)
    # As the interrupt of a terminal does: the programs are stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.show:
            return report.show(json.loads(options.show.read_text()))
        return run(options)
    except Unusable as problem:
        print(f"tests/bench/run: {problem}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("tests/bench/run: interrupted", file=sys.stderr)
        return 3


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="tests/bench/run", description="Measures otter and its yardsticks in turns."
    )
    parser.add_argument(
        "--quick", action="store_true", help="only the rows 1, 2, 4, 5 and 9"
    )
    parser.add_argument(
        "--rows", type=rows, metavar="N,N", help="only these rows of tests/bench/README.md"
    )
    parser.add_argument("--turns", type=at_least_five, help="5 or more (default: 5, quick; 7)")
    parser.add_argument(
        "--ports", type=int, default=18600, metavar="FIRST", help="the first of 21 ports"
    )
    parser.add_argument(
        "--show", type=pathlib.Path, metavar="FILE", help="print the report of an earlier run"
    )
    return parser.parse_args(arguments)


def rows(text):
    numbers = sorted({int(part) for part in text.split(",")})
    if not set(numbers) <= set(ROWS):
        raise argparse.ArgumentTypeError(f"the rows are {ROWS[0]} to {ROWS[-1]}")
    return tuple(numbers)


def at_least_five(text):
    if int(text) < 5:
        raise argparse.ArgumentTypeError("fewer than 5 turns have no spread")
    return int(text)


def run(options):
    target = pathlib.Path(os.environ["OTTER_BENCH_TARGET"])
    bench = Bench(
        binaries=pathlib.Path(os.environ["OTTER_BENCH_BINARIES"]),
        folder=target / "bench" / "work",
        first_port=options.ports,
        python=os.environ["OTTER_BENCH_PYTHON"],
        govmomi=os.environ["OTTER_BENCH_GOVMOMI"],
    )
    bench.yardsticks = HERE / "yardsticks"
    chosen = options.rows or (QUICK_ROWS if options.quick else tuple(ROWS))
    turns = options.turns or (5 if options.quick else 7)
    figures, problem = [], None
    with bench.programs:
        try:
            for judged in Measurement(bench, options.quick, turns).rows(chosen):
                figures += judged
        except Unusable as unusable:
            # The rows that were measured before are kept.
            problem = unusable
    found = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "quick": options.quick,
        "turns": turns,
        "figures": figures,
    }
    file = target / "bench" / ("quick.json" if options.quick else "full.json")
    if figures:
        report.save(found, file)
        print(f"The same as JSON: {file}")
    if problem is not None:
        if figures:
            print(report.table(found))
        raise problem
    return report.show(found)


class Measurement:
    """Measures rows, each with the share of the processors that other programs used meanwhile."""

    def __init__(self, bench, quick, turns):
        self.bench = bench
        self.quick = quick
        self.turns = turns
        self.pair = None
        self.servers = None
        self.held = None
        self.large = None

    def rows(self, chosen):
        """Yields the judged figures of each row."""
        for row in chosen:
            print(f"row {row} …", file=sys.stderr, flush=True)
            measure = getattr(self, f"row_{row}")
            setup, work = measure()
            prepared = setup() if setup else ()
            watch = Watch()
            found = work(*prepared)
            share = watch.share_of_others()
            yield [figure.judged(share) for figure in found]

    def host_and_otter(self):
        """The host with 1,000 machines, and otter in front of it. Both are started once."""
        if self.pair is None:
            enter = self.bench.programs.enter_context
            host = enter(Host(self.bench, "the host", 1000))
            self.pair = host, enter(Otter(self.bench, "otter", host))
        return self.pair

    def read_servers(self):
        if self.servers is None:
            _, otter = self.host_and_otter()
            self.servers = reads.Servers(self.bench, otter)
        return (self.servers,)

    def large_host(self):
        if self.large is None:
            host = Host(self.bench, "the large host", 10_000)
            self.large = self.bench.programs.enter_context(host)
        return self.large

    def held_queues(self):
        if self.held is None:
            self.held = submissions.start(self.bench)
        return self.held

    def row_1(self):
        return self.reads(1)

    def row_2(self):
        return self.reads(2)

    def reads(self, row):
        seconds = 1 if self.quick else 3
        work = lambda servers: reads.measure(servers, self.turns, seconds, row)
        return self.read_servers, work

    def row_3(self):
        work = lambda host, otter: clients.measure(self.bench, host, otter, self.turns)
        return self.host_and_otter, work

    def row_4(self):
        jobs, worn = (20, 4) if self.quick else (40, 20)
        work = lambda host, otter: power.measure(
            self.bench, host, otter, self.turns, jobs, worn, crowds=not self.quick
        )
        return self.host_and_otter, work

    def row_5(self):
        count = 240 if self.quick else 2000
        return self.host_and_otter, lambda host, _: changes.measure(self.bench, host, count)

    def row_6(self):
        hosts = lambda: (self.host_and_otter()[0], self.large_host())
        work = lambda host, large: start.measure(self.bench, host, large, self.turns)
        return hosts, work

    def row_7(self):
        def idle_and_each(host, large, otter, machines):
            small = self.bench.programs.enter_context(Host(self.bench, "the small host", 12))
            hosts = (
                (12, "the small otter", small, 20),
                (1_000, "otter behind the proxy", host, 35),
                (10_000, "the large otter", large, 120),
            )
            figures, started = memory.measure_idle(self.bench, hosts)
            for program in (small, *started):
                program.stop()
            unused = list(itertools.islice(unused_machines(), len(machines) + self.turns))
            return figures + memory.measure_each(
                self.bench, otter.host, unused[len(machines) :], self.turns
            )

        hosts = lambda: (self.host_and_otter()[0], self.large_host(), *self.held_queues())
        return hosts, idle_and_each

    def row_8(self):
        work = lambda otter, machines: memory.measure_answers(
            self.bench, otter, machines[0], self.turns
        )
        return self.held_queues, work

    def row_9(self):
        jobs = 150 if self.quick else 500
        work = lambda otter, machines: submissions.measure(
            self.bench, otter, machines, self.turns, jobs
        )
        return self.held_queues, work

    def row_10(self):
        def grow(host, otter, large):
            with Host(self.bench, "the small host", 100) as small:
                with Otter(self.bench, "the small otter", small) as few:
                    with Otter(self.bench, "the large otter", large) as many:
                        otters = {100: few, 1_000: otter, 10_000: many}
                        figures = growth.measure_machines(self.bench, otters, self.turns)
                figures += growth.measure_jobs(self.bench, small, self.turns)
                return figures + growth.measure_leases(self.bench, small)

        return lambda: (*self.host_and_otter(), self.large_host()), grow

    def row_11(self):
        work = lambda host, otter: screens.measure(self.bench, host, otter, self.turns)
        return lambda: screens.start(self.bench), work

    def row_12(self):
        drained, recorded = (3, 30) if self.quick else (10, 600)
        work = lambda host: serial_ports.measure(self.bench, host, self.turns, drained, recorded)
        return lambda: serial_ports.start(self.bench), work

    def row_13(self):
        work = lambda host, otter: files.measure(self.bench, host, otter, self.turns)
        return lambda: files.start(self.bench), work

    def row_14(self):
        return self.host_and_otter, lambda _, otter: page.measure(self.bench, otter, self.turns)


def commit():
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or "of no commit"


def machine():
    processor = platform.machine()
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
    return {
        "processor": processor,
        "processors": os.cpu_count(),
        "kernel": platform.release(),
    }


if __name__ == "__main__":
    sys.exit(main())
