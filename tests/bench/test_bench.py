"""Tests of the benchmark itself: verdicts, exit codes, the report, and what it says if it cannot run.
They measure nothing.
"""

import contextlib
import io
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import unittest

import bench
import report
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


class CommandLine(unittest.TestCase):
    def test_help_names_every_option(self):
        done = subprocess.run([HERE / "run", "--help"], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0)
        for option in ("--quick", "--rows", "--turns", "--ports", "--show"):
            self.assertIn(option, done.stdout)

    def test_wrong_options_are_refused(self):
        for wrong in (["--rows", "11"], ["--rows", "a"], ["--turns", "4"], ["--nothing"]):
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
