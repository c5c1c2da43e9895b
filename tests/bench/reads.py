"""Rows 1 and 2: reads of otter, of the static server and of nginx with the same bytes, under the
same load of wrk.
"""

import json
import os
import re

from figures import Figure, at_least
from processes import Unusable, output, request

MACHINE = 502
ONE = f"/v1/machines/{MACHINE}"
BY_NAME = f"/v1/machines/find?name=qubes-{MACHINE:04}"
BY_MAC = f"/v1/machines/find?mac=00:0c:29:00:{MACHINE >> 8:02x}:{MACHINE & 255:02x}"
LIST = "/v1/machines"

# Headers that the server itself adds to each answer.
OWN_HEADERS = {"content-length", "date", "connection", "keep-alive", "transfer-encoding"}


class Load:
    """One target of wrk: a URL, the headers of its requests, and the rates that were measured."""

    def __init__(self, port, path, headers=()):
        self.url = f"http://127.0.0.1:{port}{path}"
        self.headers = headers
        self.rates = []

    def run(self, seconds):
        headers = [part for header in self.headers for part in ("-H", header)]
        text = output(["wrk", "-t1", "-c32", f"-d{seconds}s", *headers, self.url])
        if "Non-2xx" in text or "Socket errors" in text:
            raise Unusable(f"wrk had errors with {self.url}: {text}")
        self.rates.append(float(re.search(r"Requests/sec:\s+([0-9.]+)", text)[1]))


class Servers:
    """otter's answers in files, and the two other servers, which serve the same bytes."""

    def __init__(self, bench, otter):
        self.otter = otter
        self.answers = store_answers(bench, otter)
        self.static = start_static(bench, self.answers)
        self.nginx, self.nginx_copying = start_nginx(bench, self.answers)

    def tag(self):
        """The tag of the list."""
        return next(v for name, v in self.answers["list"]["headers"] if name == "etag")


def measure(servers, turns, seconds, row):
    otter, static, tag = servers.otter, servers.static, servers.tag()
    unchanged, compressed = (f"If-None-Match: {tag}",), ("Accept-Encoding: gzip",)
    by_row = {
        1: {
            "one": Load(otter.port, ONE),
            "by name": Load(otter.port, BY_NAME),
            "by MAC": Load(otter.port, BY_MAC),
            "static one": Load(static, ONE),
            "static find": Load(static, BY_NAME),
            "nginx one": Load(servers.nginx, ONE),
        },
        2: {
            "list": Load(otter.port, LIST),
            "unchanged": Load(otter.port, LIST, unchanged),
            "compressed": Load(otter.port, LIST, compressed),
            "static list": Load(static, LIST),
            "static unchanged": Load(static, "/unchanged", unchanged),
            "static compressed": Load(static, "/compressed", compressed),
            "nginx list": Load(servers.nginx_copying, LIST),
        },
    }
    loads = by_row[row]
    for turn in range(turns):
        in_turn = list(loads.values())
        for load in in_turn if turn % 2 == 0 else reversed(in_turn):
            load.run(seconds)
    check_unchanged(otter, tag)

    def figure(name, ours, yardstick, theirs, limit):
        goal = at_least(limit, f"≥ {limit} × {yardstick}")
        return Figure(row, name, "/s", loads[ours].rates, yardstick, loads[theirs].rates, goal)

    if row == 1:
        finds = (("find by name", "by name"), ("find by MAC", "by MAC"))
        return [
            figure("GET one machine", "one", "static", "static one", 0.85),
            *(figure(name, ours, "static", "static find", 0.8) for name, ours in finds),
            figure("GET one machine", "one", "nginx", "nginx one", 0.6),
            *(figure(name, ours, "nginx", "nginx one", 0.6) for name, ours in finds),
        ]
    return [
        figure("GET all", "list", "static", "static list", 0.9),
        figure("GET all", "list", "nginx", "nginx list", 0.8),
        figure("GET all, If-None-Match", "unchanged", "static", "static unchanged", 0.8),
        figure("GET all, compressed", "compressed", "static", "static compressed", 0.9),
    ]


def store_answers(bench, otter):
    """Reads the answers of otter and keeps their bodies in files, for the other servers."""
    tag = dict(otter.request("GET", LIST)[1])["etag"]
    requests = {
        "one": (ONE, {}),
        "list": (LIST, {}),
        "unchanged": (LIST, {"If-None-Match": tag}),
        "compressed": (LIST, {"Accept-Encoding": "gzip"}),
    }
    answers = {}
    for name, (path, headers) in requests.items():
        status, answered, body = otter.request("GET", path, headers=headers)
        if status != (304 if name == "unchanged" else 200):
            raise Unusable(f"GET {path} with {headers} was answered with {status}: {body[:500]}")
        kept = [(n.lower(), v) for n, v in answered if n.lower() not in OWN_HEADERS]
        file = bench.folder / f"{name}.answer"
        file.write_bytes(body)
        answers[name] = {"status": status, "headers": kept, "body": str(file)}
    if len(json.loads((bench.folder / "list.answer").read_bytes())["items"]) < 1000:
        raise Unusable("The list has fewer than 1,000 machines.")
    for path in (BY_NAME, BY_MAC):
        if otter.request("GET", path)[2] != (bench.folder / "one.answer").read_bytes():
            raise Unusable(f"GET {path} did not answer with machine {MACHINE}.")
    return answers


def check_unchanged(otter, tag):
    """Checks that nothing changed while otter answered with 304."""
    status, headers, _ = otter.request("GET", LIST, headers={"If-None-Match": tag})
    if status != 304:
        raise Unusable(f"The list changed during the measurement, from {tag} to {dict(headers)}.")


def start_static(bench, answers):
    port = bench.port("the static server")
    paths = {ONE: "one", "/v1/machines/find": "one", LIST: "list"}
    paths |= {f"/{name}": name for name in ("unchanged", "compressed")}
    file = bench.folder / "answers.json"
    file.write_text(json.dumps([{"path": path} | answers[name] for path, name in paths.items()]))
    command = [bench.binaries / "otter-bench", "static", "--listen", f"127.0.0.1:{port}"]
    server = bench.start("the static server", [*command, "--answers", file])
    server.wait_for("an answer", lambda: is_open(port, ONE))
    return port


def start_nginx(bench, answers):
    """Starts nginx. Returns its port, and the port on which it copies files without sendfile."""
    ports = bench.port("nginx"), bench.port("nginx without sendfile")
    folder = bench.folder.resolve()
    locations = "".join(
        f"location = {path} {{ alias {folder}/{name}.answer; }}\n"
        for path, name in ((ONE, "one"), (LIST, "list"))
    )
    servers = "".join(
        f"server {{ listen 127.0.0.1:{port} reuseport; sendfile {way};\n{locations}}}\n"
        for port, way in zip(ports, ("on", "off"))
    )
    temporary = "".join(
        f"{kind}_temp_path {folder}/nginx-{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(
        f"""{user}daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
access_log off;
tcp_nopush on;
tcp_nodelay on;
default_type application/json;
keepalive_requests 1000000000;
open_file_cache max=100 inactive=1h;
open_file_cache_valid 1h;
{temporary}{servers}}}
"""
    )
    server = bench.start("nginx", ["nginx", "-p", folder, "-e", "stderr", "-c", config])
    for port in ports:
        server.wait_for("an answer", lambda port=port: is_open(port, ONE))
    return ports


def is_open(port, path):
    try:
        return request(port, "GET", path)[0] == 200
    except OSError:  # it does not listen yet
        return False
