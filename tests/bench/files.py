"""Row 13: files of datastores. Downloads and uploads through otter, against curl straight to the
host; the memory of otter meanwhile; and reads and jobs while transfers run.
"""

import contextlib
import itertools
import subprocess
import threading
import time

import power
from figures import Figure, at_least, at_most, percentile
from processes import Host, Otter, Unusable, output, unused_machines

DATASTORE = "datastore1"
FOLDER = "iso"
SETTINGS = f'[files]\nroots = ["[{DATASTORE}] {FOLDER}"]\n'
HOST_SCHEME = "https"
MIB = 1 << 20
# The sizes in MiB of the files, all of them sparse: for the speed, for the memory of one transfer,
# and for that of many.
FILE, LARGE, SMALL = 1024, 10 * 1024, 128
# As many as otter accepts: four run, and the others wait.
AT_ONCE = 20
MEMORY = 64
# The transfers during which otter is read and runs jobs, two in each direction, and the speed of
# each in MB/s. Together they fill a network of 1 Gbit/s.
BUSY, RATE = 4, 25
READS = 2_000
JOBS = 20


def start(bench):
    """A host whose files are in a folder, and otter in front of it."""
    store = bench.folder / "datastores"
    folder = store / DATASTORE / FOLDER
    folder.mkdir(parents=True)
    for size in (FILE, LARGE, SMALL):
        sparse(folder / name_of(size), size)
        sparse(local(bench, size), size)
    host = bench.programs.enter_context(Host(bench, "the host with files", 100, files=store))
    otter = Otter(bench, "otter with files", host, settings=SETTINGS)
    return host, bench.programs.enter_context(otter)


def measure(bench, host, otter, turns):
    return [
        *speeds(bench, host, otter, turns),
        *memory_of_one(bench, otter),
        memory_of_many(bench, otter, turns),
        *during_transfers(bench, otter, turns),
    ]


def speeds(bench, host, otter, turns):
    """The same file, through otter and straight to the host, in turns."""
    down, up = {"otter": [], "host": []}, {"otter": [], "host": []}
    peaks = []
    for turn in range(turns):
        sides = {"otter": through(otter), "host": straight(host)}
        for name in list(sides)[:: 1 if turn % 2 == 0 else -1]:
            side = sides[name]
            down[name].append(side.download(name_of(FILE)))
            with Peak(otter) as peak:
                up[name].append(side.upload(local(bench, FILE), f"by-{name}.iso"))
            if name == "otter":
                peaks.append(peak.mebibytes)
    goal = at_least(0.9, "≥ 0.9 × curl to the host")
    return [
        Figure(13, f"download of {FILE} MiB", "MB/s", down["otter"], "host", down["host"], goal),
        Figure(13, f"upload of {FILE} MiB", "MB/s", up["otter"], "host", up["host"], goal),
        memory(f"uploads of {FILE} MiB", peaks),
    ]


def memory_of_one(bench, otter):
    side, figures = through(otter), []
    ways = {
        "a download": lambda: side.download(name_of(LARGE)),
        "an upload": lambda: side.upload(local(bench, LARGE), "large.iso"),
    }
    for way, transfer in ways.items():
        with Peak(otter) as peak:
            transfer()
        figures.append(memory(f"{way} of {LARGE} MiB", [peak.mebibytes]))
    return figures


def memory_of_many(bench, otter, turns):
    """Half of the transfers are downloads."""
    peaks = []
    side = through(otter)
    for _ in range(turns):
        with Peak(otter) as peak:
            transfers = [
                side.start_upload(local(bench, SMALL), f"{number}.iso")
                if number % 2
                else side.start_download(name_of(SMALL))
                for number in range(AT_ONCE)
            ]
            for transfer in transfers:
                finish(transfer)
        peaks.append(peak.mebibytes)
    return memory(f"{AT_ONCE} transfers at once", peaks)


def memory(what, peaks):
    goal = at_most(MEMORY, f"≤ {MEMORY} MiB")
    return Figure(13, f"memory during {what}", "MiB", peaks, goal=goal, is_timed=False)


def during_transfers(bench, otter, turns):
    machines = list(itertools.islice(unused_machines(), JOBS))
    ways = {
        "a read": lambda: read_times(bench, otter),
        "a power job": lambda: job_times(bench, otter, machines),
    }
    busy, alone = {way: [] for way in ways}, {way: [] for way in ways}
    for _ in range(turns):
        for way, times in ways.items():
            alone[way].append(percentile(times(), 99) / 1000)
        with Transfers(bench, otter):
            for way, times in ways.items():
                busy[way].append(percentile(times(), 99) / 1000)
    goal = at_most(1.5, "≤ 1.5 × alone", of="ratio")
    figure = lambda way: Figure(
        13, f"{way} during {BUSY} transfers, p99", "ms", busy[way], "alone", alone[way], goal
    )
    return [figure(way) for way in ways]


def read_times(bench, otter):
    path = "/v1/machines/1"
    found = bench.tool("get", "--server", otter.address, "--path", path, "--count", READS)
    return found[path]["micros"]


def job_times(bench, otter, machines):
    rounds = power.otter_rounds(bench, otter, machines)
    return [micros for found in rounds for micros in found["micros"]]


def name_of(size):
    return f"{size}-mib.iso"


def local(bench, size):
    """The file that is uploaded."""
    return bench.folder / name_of(size)


def sparse(path, mebibytes):
    with open(path, "wb") as file:
        file.truncate(mebibytes * MIB)


def through(otter):
    path = f"http://{otter.address}/v1/datastores/name:{DATASTORE}/file?path={FOLDER}/"
    return Side(path, "&replace=true")


def straight(host):
    path = f"{HOST_SCHEME}://{host.address}/folder/{FOLDER}/"
    return Side(path, f"?dcPath=ha-datacenter&dsName={DATASTORE}", ["-k", "-u", "root:otter"])


class Side:
    """Where curl downloads from and uploads to: the address before and after the name of a file."""

    def __init__(self, before, after, options=()):
        self.before = before
        # otter needs it only for uploads.
        self.after = after
        self.options = options

    def download(self, name):
        """Downloads a file. Returns the speed in MB/s."""
        return float(output(self.download_command(name))) / 1e6

    def upload(self, file, name):
        """Uploads a file. Returns the speed in MB/s until the answer is there."""
        return float(output(self.upload_command(file, name))) / 1e6

    def start_download(self, name, *options):
        return start_program([*self.download_command(name), *options])

    def start_upload(self, file, name, *options):
        return start_program([*self.upload_command(file, name), *options])

    def download_command(self, name):
        after = "" if self.after.startswith("&") else self.after
        return self.curl("download", f"{self.before}{name}{after}")

    def upload_command(self, file, name):
        return [*self.curl("upload", f"{self.before}{name}{self.after}"), "-T", file]

    def curl(self, direction, url):
        written = ["-w", "%{speed_" + direction + "}"]
        return ["curl", "-q", "-sSf", "-o", "/dev/null", *written, *self.options, url]


def start_program(command):
    command = [str(part) for part in command]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(program):
    _, said = program.communicate(timeout=600)
    if program.returncode:
        raise Unusable(f"A transfer ended with {program.returncode}: {said.strip()[-2000:]}")


class Transfers:
    """Transfers in the background, at an even speed, which are cut at the end."""

    def __init__(self, bench, otter):
        side, limit = through(otter), ("--limit-rate", f"{RATE}M")
        self.programs = [
            side.start_upload(local(bench, LARGE), f"{number}.iso", *limit)
            if number % 2
            else side.start_download(name_of(LARGE), *limit)
            for number in range(BUSY)
        ]
        # They have begun.
        time.sleep(0.5)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        ended = [program for program in self.programs if program.poll() is not None]
        for program in self.programs:
            program.terminate()
            program.communicate()
        if ended and kind is None:
            raise Unusable(f"{len(ended)} of {BUSY} transfers ended before they were cut.")


class Peak:
    """The most memory of its own that otter has meanwhile."""

    def __init__(self, otter):
        self.otter = otter
        self.ended = threading.Event()
        self.mebibytes = 0.0
        self.watching = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self):
        self.watching.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.watching.join()

    def watch(self):
        with contextlib.suppress(OSError):
            while True:
                self.mebibytes = max(self.mebibytes, self.otter.anonymous_bytes() / MIB)
                if self.ended.wait(0.02):
                    return
