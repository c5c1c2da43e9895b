"""The programs of the benchmark: where they listen, how they start and stop, what they use."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time

from noise import TICKS

# Which program listens on which port, counted from the first one (--ports).
PORTS = {
    "the host": 0,
    "otter": 1,
    "the static server": 2,
    "nginx": 3,
    "nginx without sendfile": 4,
    "the proxy in front of the host": 5,
    "otter behind the proxy": 6,
    "the host whose tasks last": 7,
    "otter with held queues": 8,
    "the large host": 9,
    "the large otter": 10,
    "the small host": 11,
    "the small otter": 12,
    "the host with screens": 13,
    "the admin endpoint of screens": 14,
    "otter with screens": 15,
    "the host with serial ports": 16,
    "the admin endpoint of serial ports": 17,
    "otter with serial ports": 18,
    "the host with files": 19,
    "otter with files": 20,
}


class Unusable(Exception):
    """A sentence: why the benchmark cannot run."""


class Bench:
    """The folder of a run, its ports and its programs."""

    def __init__(self, binaries, folder, first_port, python, govmomi):
        self.binaries = binaries
        self.folder = folder
        self.first_port = first_port
        self.python = python
        self.govmomi = govmomi
        self.programs = contextlib.ExitStack()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def port(self, name):
        """The port of a program. Fails if another program has it."""
        port = self.first_port + PORTS[name]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise Unusable(
                    f"Port {port}, on which {name} listens, is taken ({error.strerror}). End the"
                    " program that uses it, or name other ports with --ports."
                ) from error
        return port

    def start(self, name, command, **options):
        """Starts a program that runs until `stop`, at the latest at the end of the benchmark."""
        return self.programs.enter_context(Program(name, command, self.folder, **options))

    def tool(self, *arguments):
        """Runs a subcommand of otter-bench and returns its measurements."""
        return json.loads(output([self.binaries / "otter-bench", *map(str, arguments)]))


class Program:
    """A running program. Its output is in a file of the benchmark's folder."""

    def __init__(self, name, command, folder, stdin=subprocess.DEVNULL, environment=None):
        self.name = name
        self.log = folder / f"{name.replace(' ', '-')}.log"
        clean = {k: v for k, v in os.environ.items() if not k.startswith("OTTER_")}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=stdin,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=clean | (environment or {}),
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()

    def wait_for(self, what, condition, seconds=60, pause=0.02):
        """Waits until `condition` returns something true, and returns it."""
        end = time.monotonic() + seconds
        while True:
            if found := condition():
                return found
            if self.process.poll() is not None:
                raise Unusable(f"{self.name} ended with {self.process.returncode}: {self.text()}")
            if time.monotonic() > end:
                raise Unusable(f"{self.name}: {what} did not happen in {seconds} s: {self.text()}")
            time.sleep(pause)

    def wait_for_line(self, part, seconds=60):
        """Waits for a line of the output with this part, and returns the line."""

        def find():
            lines = self.log.read_text(errors="replace").splitlines()
            return next((line for line in lines if part in line), None)

        return self.wait_for(f"the line {part!r}", find, seconds)

    def text(self):
        """The end of the output."""
        return self.log.read_text(errors="replace").strip()[-2000:]

    def anonymous_bytes(self):
        """The memory that belongs to the process alone (RssAnon)."""
        with open(f"/proc/{self.process.pid}/status") as status:
            line = next(line for line in status if line.startswith("RssAnon:"))
        return int(line.split()[1]) * 1024

    def processor_seconds(self):
        """The time of the processors that the process has used since its start."""
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


class Host(Program):
    """`otter simulate`, with generated machines or with those of a scenario file. `admin` is the
    name of the port of its admin endpoint, and `files` the folder with its datastores.
    """

    def __init__(
        self, bench, name, machines=None, pace=0, scenario=None, admin=None, files=None
    ):
        self.port = bench.port(name)
        command = [bench.binaries / "otter", "simulate", "--listen", f"127.0.0.1:{self.port}"]
        command += ["--scenario", scenario] if scenario else ["--machines", machines]
        command += ["--pace", pace]
        command += ["--files", files] if files else []
        if admin:
            self.admin_port = bench.port(admin)
            command += ["--admin", f"127.0.0.1:{self.admin_port}"]
        super().__init__(name, command, bench.folder)
        self.fingerprint = self.wait_for_line("fingerprint").split()[1]
        self.address = f"127.0.0.1:{self.port}"


class Otter(Program):
    """`otter serve` in front of a host, with a durable store."""

    def __init__(self, bench, name, host, through=None, settings="", state=None):
        self.host = host
        self.port = bench.port(name)
        self.address = f"127.0.0.1:{self.port}"
        self.state = state or bench.folder / f"{name.replace(' ', '-')}-state"
        config = bench.folder / f"{name.replace(' ', '-')}.toml"
        config.write_text(
            f"""[esx]
url = "https://{through or host.address}"
username = "root"
password = "otter"
verify = "{host.fingerprint}"
[http]
listen = "{self.address}"
[state]
dir = "{self.state}"
[log]
level = "warn"
{settings}
"""
        )
        config.chmod(0o600)
        self.started = time.monotonic()
        super().__init__(
            name, [bench.binaries / "otter", "serve", "--config", config], bench.folder
        )
        self.wait_for("readiness", self.is_ready, pause=0.005)
        self.ready_after = time.monotonic() - self.started

    def is_ready(self):
        try:
            return self.request("GET", "/readyz?host=true")[0] == 200
        except OSError:  # it does not listen yet
            return False

    def request(self, method, path, body=None, headers=None):
        """One request on a connection of its own: the status, the headers and the body."""
        return request(self.port, method, path, body, headers)


def request(port, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        headers = dict(headers or {})
        if body is not None:
            body = json.dumps(body)
            headers["Content-Type"] = "application/json"
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()
    finally:
        connection.close()


def output(command, **options):
    """Runs a program and returns its standard output."""
    command = [str(part) for part in command]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        said = (done.stderr + done.stdout).strip()[-2000:]
        raise Unusable(f"{' '.join(command[:3])} failed with {done.returncode}: {said}")
    return done.stdout


def unused_machines():
    """Ids of generated machines that are off and have no guest whose state follows, in order."""
    number = 0
    while True:
        number += 1
        if number % 3 and number % 10:
            yield number
