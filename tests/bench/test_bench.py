"""Tests of the benchmark itself: verdicts, exit codes, the report, and what it says if it cannot run.
They measure nothing.
"""

import contextlib
import datetime
import http.server
import io
import json
import os
import pathlib
import random
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import tomllib
import unittest
from unittest import mock

import bench
import files
import report
import screens
import serial_ports
import viewers
from figures import (
    MET,
    MISSED,
    REPORTED,
    TOO_NOISY,
    Figure,
    at_least,
    at_most,
    percentile,
    verdict,
)
from noise import Watch, used_by_own
from processes import PORTS, Bench, Program, Unusable

HERE = pathlib.Path(__file__).resolve().parent
QUIET, NOISY = 0.01, 0.5


def found(figures, share=QUIET):
    """The report of these figures."""
    return {
        "date": "2026-01-01T00:00:00+00:00",
        "commit": "abc",
        "machine": {"processor": "any", "processors": 2, "kernel": "6"},
        "quick": True,
        "turns": 5,
        "figures": [figure.judged(share) for figure in figures],
    }


def of_ratios(*ratios, goal=at_least(0.8, "≥ 0.8")):
    return Figure(1, "find", "/s", [100 * r for r in ratios], "static", [100] * len(ratios), goal)


class Verdicts(unittest.TestCase):
    def test_a_goal_that_all_quartiles_meet_is_met_whatever_the_noise(self):
        self.assertEqual(verdict(at_least(0.8, ""), [0.81, 0.9, 1.5], NOISY), MET)
        self.assertEqual(verdict(at_most(5, ""), [1, 2, 4], NOISY), MET)

    def test_a_missed_goal_is_missed_only_on_a_quiet_machine_with_steady_samples(self):
        goal = at_least(0.8, "")
        self.assertEqual(verdict(goal, [0.5, 0.51, 0.52], QUIET), MISSED)
        self.assertEqual(verdict(goal, [0.5, 0.51, 0.52], NOISY), TOO_NOISY)
        self.assertEqual(verdict(goal, [0.3, 0.51, 0.8], QUIET), TOO_NOISY)

    def test_the_median_decides_between_the_quartiles(self):
        self.assertEqual(verdict(at_least(0.8, ""), [0.79, 0.79, 0.81, 0.81, 0.81], QUIET), MET)
        self.assertEqual(verdict(at_most(1.1, ""), [1.0, 1.11, 1.12], QUIET), MISSED)

    def test_a_figure_without_a_goal_is_only_reported(self):
        self.assertEqual(verdict(None, [1], NOISY), REPORTED)

    def test_a_goal_applies_to_the_value_the_ratio_or_the_difference(self):
        self.assertEqual(of_ratios(0.9).samples(), [0.9])
        value = Figure(4, "job", "ms", [7], "raw", [3], at_most(5, ""))
        self.assertEqual(value.samples(), [7])
        difference = Figure(4, "job", "ms", [7], "raw", [3], at_most(5, "", of="difference"))
        self.assertEqual(difference.samples(), [4])

    def test_a_figure_of_memory_is_judged_on_a_noisy_machine_too(self):
        figure = Figure(7, "idle", "MB", [21], goal=at_most(20, ""), is_timed=False)
        self.assertEqual(figure.judged(NOISY)["verdict"], MISSED)

    def test_a_percentile_is_one_of_the_samples(self):
        self.assertEqual(percentile(range(1, 201), 99), 198)
        self.assertEqual(percentile([3], 99), 3)


class Reports(unittest.TestCase):
    def shown(self, document):
        """The exit code and the text of `tests/bench/run --show`."""
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "quick.json"
            report.save(document, file)
            done = subprocess.run(
                [HERE / "run", "--show", file], capture_output=True, text=True, check=False
            )
        return done.returncode, done.stdout

    def test_the_exit_code_says_whether_a_goal_is_missed_or_cannot_be_judged(self):
        met, missed = of_ratios(0.9, 0.9), of_ratios(0.5, 0.5)
        self.assertEqual(self.shown(found([met]))[0], 0)
        self.assertEqual(self.shown(found([met, missed]))[0], 1)
        self.assertEqual(self.shown(found([met, missed], NOISY))[0], 2)
        # A missed goal counts more than one that cannot be judged.
        both = found([missed, of_ratios(0.2, 0.7, 1.2)])
        self.assertEqual(self.shown(both)[0], 1)

    def test_the_last_line_is_the_outcome(self):
        code, text = self.shown(found([of_ratios(0.9), of_ratios(0.5)]))
        self.assertEqual(text.splitlines()[-1], "1 of 2 goals are met; missed: 1 find")
        _, text = self.shown(found([of_ratios(0.5)], NOISY))
        self.assertIn("the machine was noisy", text.splitlines()[-2])
        self.assertEqual(text.splitlines()[-1], "0 of 1 goals are met; too noisy: 1 find")

    def test_the_table_has_what_the_json_has(self):
        document = found([of_ratios(0.9, 0.91, 0.92), Figure(7, "idle", "MB", [17.5])])
        _, text = self.shown(document)
        header, _, *lines = text.splitlines()[1:5]
        self.assertEqual(tuple(header.split()), report.COLUMNS)
        for line, figure in zip(lines, document["figures"], strict=True):
            self.assertTrue(line.startswith(str(figure["row"])), line)
            self.assertTrue(line.endswith(figure["verdict"]), line)
            for part in (figure["figure"], figure["goal"], f"{figure['spread']:.0%}"):
                self.assertIn(part, line)
            self.assertIn(report.number(figure["measured"]), line)
            if figure["ratio"] is not None:
                self.assertIn(report.number(figure["ratio"]), line)

    def test_the_json_keeps_every_sample(self):
        figure = of_ratios(0.9, 0.8)
        kept = json.loads(json.dumps(found([figure])))["figures"][0]["samples"]
        self.assertEqual(kept, {"otter": figure.otter, "yardstick": figure.yardstick})


class Failures(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def bench(self, first_port):
        return Bench(self.folder, self.folder / "work", first_port, sys.executable, "")

    def test_a_port_that_is_taken_is_named_with_what_to_do(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            first = taken.getsockname()[1] - PORTS["nginx"]
            with self.assertRaises(Unusable) as failure:
                self.bench(first).port("nginx")
        text = str(failure.exception)
        self.assertIn(f"Port {first + PORTS['nginx']}, on which nginx listens, is taken", text)
        self.assertIn("--ports", text)

    def test_a_run_that_cannot_go_on_says_why_and_exits_with_3(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            environment = {
                "OTTER_BENCH_TARGET": str(self.folder),
                "OTTER_BENCH_BINARIES": str(self.folder),
                "OTTER_BENCH_PYTHON": sys.executable,
                "OTTER_BENCH_GOVMOMI": "",
            }
            command = [sys.executable, "-B", HERE / "bench.py", "--quick", "--ports", str(port)]
            done = subprocess.run(
                command, env=os.environ | environment, capture_output=True, text=True, check=False
            )
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn(f"Port {port}, on which the host listens, is taken", done.stderr)
        self.assertNotIn("Traceback", done.stderr)

    def test_a_program_that_ends_early_is_shown_with_its_words(self):
        self.folder.joinpath("work").mkdir()
        command = [sys.executable, "-c", "import sys; sys.exit('no such host')"]
        with Program("the host", command, self.folder) as program:
            with self.assertRaises(Unusable) as failure:
                program.wait_for_line("fingerprint")
        self.assertIn("the host ended with 1: no such host", str(failure.exception))

    def test_a_tool_that_cannot_be_installed_is_named(self):
        # Everything is found except wrk, and apt-get fails.
        programs = self.folder / "bin"
        programs.mkdir()
        for name in ("bash", "dirname", "mkdir", "id", "cat"):
            programs.joinpath(name).symlink_to(find(name))
        for name in ("cargo", "nginx", "curl", "go", "cc", "sudo"):
            self.program(programs / name, "exit 0")
        self.program(programs / "python3", "exit 0")
        self.program(programs / "apt-get", "exit 100")
        done = self.run_with(programs)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("tests/bench/run: apt-get", done.stderr)
        self.assertIn("Install the programs of these Debian packages", done.stderr)
        self.assertIn("wrk", done.stderr)
        programs.joinpath("apt-get").unlink()
        done = self.run_with(programs)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("tests/bench/run: apt-get is missing. Install", done.stderr)

    def program(self, path, script):
        path.write_text(f"#!{find('bash')}\n{script}\n")
        path.chmod(0o755)

    def run_with(self, programs):
        environment = {"PATH": str(programs), "CARGO_TARGET_DIR": str(self.folder / "target")}
        command = [find("bash"), HERE / "run", "--quick"]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )


class Viewers(unittest.TestCase):
    def test_a_viewer_asks_for_the_next_update_when_it_has_one_however_the_bytes_are_cut(self):
        whole = struct.pack(">BBHHHH", 3, 0, 0, 0, 720, 400)
        resized = struct.pack(">BBHHHH", 3, 1, 0, 0, 1280, 1024)
        encodings = struct.pack(">BxHii", 2, 2, -260, -223)
        expected = b"RFB 003.008\n\1\1" + encodings + whole + 2 * resized
        sent = HANDSHAKE + update(rectangle(1280, 1024, -223))
        # A length has one, two or three bytes.
        sent += update(*(png_rectangle(length) for length in (127, 128, 16_383, 16_384, 70_000)))
        for seed in range(20):
            cuts = random.Random(seed)
            viewer, answered, rest = viewers.Viewer(), b"", sent
            while rest:
                size = cuts.choice((1, 3, 50, 5000))
                answered += viewer.receive(rest[:size])
                rest = rest[size:]
            self.assertEqual((viewer.updates, answered), (2, expected))

    def test_a_viewer_refuses_what_it_did_not_ask_for(self):
        for wrong, words in (
            (b"HTTP/1.1 400", "version"),
            (b"RFB 003.008\n\1\2", "password"),
            (HANDSHAKE + b"\2\0\0\0", "unknown type 2"),
            (HANDSHAKE + update(rectangle(8, 8, 5)), "encoding 5"),
        ):
            with self.assertRaises(viewers.ViewerError) as failure:
                viewers.Viewer().receive(wrong)
            self.assertIn(words, str(failure.exception))

    def test_messages_are_taken_when_they_are_complete(self):
        messages = [(2, b"a"), (9, b""), (2, bytes(126)), (2, bytes(70_000))]
        sent, received, taken = b"".join(server_frame(*m) for m in messages), bytearray(), []
        for at in range(0, len(sent), 97):
            received += sent[at : at + 97]
            taken += viewers.take_frames(received)
        self.assertEqual((taken, received), (messages, bytearray()))
        self.assertEqual(viewers.frame(2, b"ab"), b"\x82\x82\0\0\0\0ab")
        self.assertEqual(viewers.frame(2, bytes(200))[:4], b"\x82\xfe\x00\xc8")

    def test_a_viewer_that_is_refused_says_why(self):
        with FakeOtter() as otter:
            command = [sys.executable, "-B", HERE / "viewers.py", "--server", otter.address]
            command += ["--path", "/refused", "--count", "2"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("otter refused a viewer", done.stderr)
        self.assertIn("console-busy", done.stderr)
        self.assertNotIn("Traceback", done.stderr)


class Screens(unittest.TestCase):
    def test_the_scenario_has_running_machines_with_a_terminal(self):
        scenario = tomllib.loads(screens.scenario_text((1, 2)))
        of_machines = [(m["id"], m["power"], m["shows"]) for m in scenario["machines"]]
        self.assertEqual(of_machines, [("1", "on", "terminal"), ("2", "on", "terminal")])
        self.assertEqual(scenario["machines"][0]["datastore"], scenario["datastores"][0]["name"])

    def test_each_figure_has_a_sample_of_each_turn(self):
        small = {"KEYS": 2, "PICTURES": 2, "FEW": 1, "MANY": 3, "WATCHED": 1, "WINDOWS": 4}
        small |= {"TYPED": 4, "CLOSED": range(2, 4), "Load": FakeLoad}
        with tempfile.TemporaryDirectory() as folder, FakeOtter() as otter:
            of_run = Bench(folder, pathlib.Path(folder) / "work", 1, sys.executable, "")
            with of_run.programs, mock.patch.multiple(screens, **small):
                figures = screens.measure(of_run, otter, otter, 2)
        for figure in figures:
            self.assertEqual((figure.row, len(figure.samples())), (11, 2), figure)
            self.assertIsNotNone(figure.goal)
            self.assertTrue(all(sample > 0 for sample in figure.samples()), figure)
        by_name = {figure.name: figure for figure in figures}
        cost = by_name["3 viewers, a text is typed"]
        self.assertEqual((cost.otter, cost.yardstick), ([500, 500], [500, 500]))
        got = by_name["3 viewers, updates of each, a window opens and closes"]
        self.assertEqual((got.otter, got.yardstick), ([4, 4], [4, 4]))
        self.assertIn("ctrl-u", json.dumps(otter.inputs))

    def test_a_picture_of_another_size_ends_the_run(self):
        with FakeOtter(size=(800, 600)) as otter, screens.Screen(otter, 1) as screen:
            with self.assertRaises(Unusable) as failure:
                screen.time_picture()
        self.assertIn("(800, 600) pixels, not (1280, 1024)", str(failure.exception))

    def test_a_refused_call_ends_the_run_with_its_words(self):
        with FakeOtter() as otter, screens.Connection(otter.port) as connection:
            with self.assertRaises(Unusable) as failure:
                connection.call("GET", "/refused")
        self.assertIn("GET /refused was answered with 409", str(failure.exception))
        self.assertIn("console-busy", str(failure.exception))


class SerialPorts(unittest.TestCase):
    def setUp(self):
        small = {"MACHINES": 2, "RATE": 64_000, "LONG": 6_400, "READS": 3, "WINDOW": 0.1}
        patched = mock.patch.multiple(serial_ports, **small)
        patched.start()
        self.addCleanup(patched.stop)
        self.otter = FakePorts()

    def test_the_scenario_has_running_machines_that_listen(self):
        scenario = tomllib.loads(serial_ports.scenario_text((1, 2)))
        of_machines = [(m["id"], m["power"]) for m in scenario["machines"]]
        self.assertEqual(of_machines, [("1", "on"), ("2", "on")])
        self.assertEqual(scenario["machines"][1]["serial_ports"], [{"uri": "tcp://:0"}])

    def test_each_byte_of_the_output_is_known(self):
        output = serial_ports.output(200)
        self.assertTrue(output.startswith(b"0000000000000000 abc"), output)
        self.assertEqual(output[64:82], b"0000000000000001 a")
        self.assertEqual([serial_ports.output_at(at) for at in range(200)], list(output))

    def test_ports_that_are_drained_lose_nothing(self):
        for figure in self.drained():
            self.assertEqual((figure.row, len(figure.samples())), (12, 2), figure)
        _, lost, used = self.drained()
        self.assertEqual((lost.name, lost.otter), ("2 ports at 0.064 MB/s, lost", [0, 0]))
        self.assertGreater(min(used.otter), 0)

    def test_bytes_that_are_missing_and_bytes_that_differ_are_lost(self):
        total = 64_000
        for change, expected in (
            (lambda log: log[:-100], 2 * 100),
            (lambda log: log[:50] + b"?" + log[51:], 2 * total),
        ):
            self.otter.change = change
            self.assertEqual(self.drained()[1].otter, [expected, expected])
        self.otter.change, self.otter.has_gaps = lambda log: log, True
        self.assertEqual(self.drained()[1].otter, [2 * total, 2 * total])

    def test_the_first_byte_of_a_long_log_is_the_right_one(self):
        figures = serial_ports.long_log(self.otter, self.otter, 2)
        self.assertEqual([len(figure.otter) for figure in figures], [2, 2])
        self.otter.change = lambda log: b"?" + log[1:]
        with self.assertRaises(Unusable) as failure:
            serial_ports.long_log(self.otter, self.otter, 1)
        self.assertIn("begins with b'?'", str(failure.exception))

    def test_a_recording_that_ends_is_not_measured(self):
        with tempfile.TemporaryDirectory() as folder:
            self.otter.state = pathlib.Path(folder)
            for lease in ("lease-1", "lease-2"):
                file = self.otter.state / "recordings" / lease / "ttyS0.rec"
                file.parent.mkdir(parents=True)
                file.write_bytes(bytes(2**20))
            shares, largest = self.recorded()
            self.assertEqual((len(shares.otter), largest.otter), (2, [1.0]))
            with mock.patch.object(serial_ports, "is_recorded", side_effect=[1, 1, 1, 0]):
                with self.assertRaises(Unusable) as failure:
                    self.recorded()
        self.assertIn("has ended", str(failure.exception))

    def drained(self):
        return serial_ports.drain(self.otter, self.otter, 2, 1)

    def recorded(self):
        return serial_ports.recordings(self.otter, self.otter, 2, 0.1)


class Files(unittest.TestCase):
    def test_each_figure_has_its_samples_and_every_byte_is_transferred(self):
        small = {"HOST_SCHEME": "http", "FILE": 2, "LARGE": 64, "SMALL": 1, "AT_ONCE": 4, "RATE": 1}
        with tempfile.TemporaryDirectory() as folder, FakeStore() as store:
            of_run = Bench(folder, pathlib.Path(folder) / "work", 1, sys.executable, "")
            of_run.tool = fake_tool
            with of_run.programs, mock.patch.multiple(files, **small):
                for size in (1, 2, 64):
                    files.sparse(files.local(of_run, size), size)
                figures = files.measure(of_run, store, store, 2)
        lengths = {figure.name: len(figure.samples()) for figure in figures}
        for way in ("a download", "an upload"):
            self.assertEqual(lengths.pop(f"memory during {way} of 64 MiB"), 1)
        self.assertEqual(set(lengths.values()), {2}, lengths)
        for figure in figures:
            self.assertEqual(figure.row, 13)
            self.assertIsNotNone(figure.goal)
            self.assertTrue(all(sample > 0 for sample in figure.samples()), figure)
        by_name = {figure.name: figure for figure in figures}
        self.assertEqual(by_name["a read during 4 transfers, p99"].otter, [0.3, 0.3])
        self.assertEqual(by_name["memory during 4 transfers at once"].otter, [32, 32])
        straight = "/folder/iso/by-host.iso?dcPath=ha-datacenter&dsName=datastore1"
        through = "/v1/datastores/name:datastore1/file?path=iso/by-otter.iso&replace=true"
        for path in (straight, through):
            self.assertEqual(store.uploads.count((path, 2 * files.MIB)), 2, store.uploads)

    def test_a_transfer_that_is_refused_ends_the_run_with_its_words(self):
        with FakeStore() as store, self.assertRaises(Unusable) as failure:
            files.finish(files.through(store).start_download("none"))
        self.assertIn("A transfer ended with 22", str(failure.exception))


def fake_tool(name, *arguments):
    """In place of otter-bench."""
    micros = [100.0, 300.0]
    if name == "get":
        return {"/v1/machines/1": {"micros": micros}}
    return {"rounds": [{"micros": micros}]}


class FakeStore(http.server.ThreadingHTTPServer):
    """Serves files as otter and as the host do. A name says how many MiB the file has."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), FakeStoreHandler)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        # The paths of the uploads, and how many bytes came.
        self.uploads = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        """A client has gone."""

    def anonymous_bytes(self):
        return 32 * files.MIB


class FakeStoreHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        size = self.path.partition("iso/")[2].partition("-mib.iso")[0]
        if not size.isdecimal():
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(int(size) * files.MIB))
        self.end_headers()
        for _ in range(int(size)):
            self.wfile.write(bytes(files.MIB))

    def do_PUT(self):
        left = int(self.headers["Content-Length"])
        while left and (part := self.rfile.read(min(left, 65_536))):
            left -= len(part)
        self.server.uploads.append((self.path, int(self.headers["Content-Length"]) - left))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


HANDSHAKE = (
    b"RFB 003.008\n\1\1\0\0\0\0" + struct.pack(">HH16xI", 720, 400, 4) + b"name"
)


def update(*rectangles):
    return struct.pack(">BxH", 0, len(rectangles)) + b"".join(rectangles)


def rectangle(width, height, encoding):
    return struct.pack(">HHHHi", 0, 0, width, height, encoding)


def png_rectangle(length):
    """A rectangle whose PNG has this many bytes."""
    parts = [length & 0x7F, length >> 7 & 0x7F, length >> 14]
    while len(parts) > 1 and not parts[-1]:
        parts.pop()
    size = bytes(part | 0x80 for part in parts[:-1]) + bytes(parts[-1:])
    return rectangle(64, 64, -260) + b"\xa0" + size + bytes(length)


def server_frame(kind, payload):
    length = len(payload)
    if length < 126:
        size = bytes([length])
    elif length < 65_536:
        size = struct.pack(">BH", 126, length)
    else:
        size = struct.pack(">BQ", 127, length)
    return bytes([0x80 | kind]) + size + payload


class FakeLoad:
    """In place of wrk."""

    def __init__(self, port, path):
        self.rates = []

    def run(self, seconds):
        self.rates.append(100.0)


class FakeOtter(http.server.ThreadingHTTPServer):
    """Answers as otter and as the admin endpoint of the host do. Each POST changes the only screen,
    and is answered when each viewer has the update.
    """

    daemon_threads = True

    def __init__(self, size=(1280, 1024)):
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.port = self.admin_port = self.server_address[1]
        self.address = f"127.0.0.1:{self.port}"
        self.size = size
        self.inputs = []
        self.used = 0.0
        self.changes = 0
        # The changes of which each viewer has the update.
        self.seen = {}
        self.changed = threading.Condition()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        """A client has gone."""

    def wait_for(self, what, condition):
        assert condition(), what

    def processor_seconds(self):
        self.used += 0.5
        return self.used


class FakePorts:
    """Answers as otter does for serial ports and leases, and outputs as guests do."""

    def __init__(self):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakePortsHandler)
        server.ports = self
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        self.port = server.server_address[1]
        # The bytes before the output of each machine, and the output.
        self.outputs = {}
        self.change = lambda log: log
        self.has_gaps = False
        self.used = 0.0

    def wait_for(self, what, condition, seconds=60):
        assert condition(), what

    def processor_seconds(self):
        self.used += 0.001
        return self.used

    def flood(self, machine, rate, total):
        if rate and total:
            before, output = self.outputs.get(machine, (0, b""))
            self.outputs[machine] = before + len(output), serial_ports.output(total)

    def open_and_close_all(self, machines, seconds):
        """Nothing is shown."""


class FakePortsHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        ports = self.server.ports
        parts = self.path.split("/")
        if parts[2] == "leases":
            return self.answer(200, {"recording": {"state": "recording"}})
        before, output = ports.outputs.get(int(parts[3]), (0, b""))
        if parts[-1] == "serial":
            end = before + len(output)
            gaps = [{"offset": end}] if ports.has_gaps else []
            port = {"access": "open", "next_offset": end, "gaps": gaps}
            return self.answer(200, {"ports": [port]})
        since = int(self.path.partition("since=")[2])
        self.answer(200, ports.change(output[since - before :]))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/leases":
            return self.answer(201, {"id": f"lease-{body['select']['machine']}"})
        self.answer(200, {})

    def answer(self, status, body):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content)


class FakeHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path.endswith("/rfb"):
            return self.show_screen()
        now = datetime.datetime.now(datetime.timezone.utc).isoformat()
        answers = {
            "/v1/machines/": b'{"connection": "closed"}',
            "/screens/": json.dumps({"last_input_at": now.replace("+00:00", "Z")}).encode(),
        }
        found = [body for path, body in answers.items() if self.path.startswith(path)]
        if self.path.endswith(".png"):
            found = [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", *self.server.size)]
        self.answer(*(200, found[0]) if found else (409, b'{"code": "console-busy"}'))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/input"):
            self.server.inputs.append(body)
        server = self.server
        with server.changed:
            server.changes += 1
            server.changed.notify_all()
            is_seen = lambda: all(seen >= server.changes for seen in server.seen.values())
            server.changed.wait_for(is_seen, timeout=20)
        self.answer(200, b"{}")

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def show_screen(self):
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        self.wfile.write(server_frame(9, b"") + server_frame(2, HANDSHAKE))
        server, sent = self.server, None
        with contextlib.suppress(OSError):
            while head := self.rfile.read(2):
                payload = self.rfile.read(4 + (head[1] & 0x7F))[4:]
                # Each request for an update is the last one of its message.
                if payload[-10:-8] not in (b"\3\0", b"\3\1"):
                    continue
                with server.changed:
                    if sent is not None:
                        server.seen[self] = sent
                        server.changed.notify_all()
                        server.changed.wait_for(lambda: server.changes > sent)
                    sent = server.changes
                self.wfile.write(server_frame(2, update(png_rectangle(300))))
        with server.changed:
            server.seen.pop(self, None)
            server.changed.notify_all()


class CommandLine(unittest.TestCase):
    def test_help_names_every_option(self):
        done = subprocess.run([HERE / "run", "--help"], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0)
        for option in ("--quick", "--rows", "--turns", "--ports", "--show"):
            self.assertIn(option, done.stdout)

    def test_wrong_options_are_refused(self):
        for wrong in (["--rows", "15"], ["--rows", "a"], ["--turns", "4"], ["--nothing"]):
            with contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit):
                bench.parse(wrong)


class Noise(unittest.TestCase):
    def test_the_time_of_our_own_programs_is_not_noise(self):
        before = used_by_own()
        watch = Watch()
        command = [sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"]
        subprocess.run(command, check=True)
        self.assertGreaterEqual(used_by_own() - before, 0.25)
        self.assertLessEqual(watch.share_of_others(), 1.0)


def find(name):
    """The path of a program."""
    for folder in os.environ["PATH"].split(":"):
        if os.access(path := pathlib.Path(folder) / name, os.X_OK):
            return path.resolve() if name != "python3" else path
    raise FileNotFoundError(name)


if __name__ == "__main__":
    unittest.main()
