#!/usr/bin/env python3
"""Streams files through otter with requests, in both directions, in parts of the bytes.

Usage: stream_files.py URL FILE    URL is that of a datastore: http://127.0.0.1:8080/v1/datastores/…
"""

import hashlib
import pathlib
import sys

import requests

PATH = {"path": "by requests/ä & b.iso"}


def main():
    url, file = sys.argv[1], pathlib.Path(sys.argv[2])
    session = requests.Session()
    session.trust_env = False
    size, sha256 = file.stat().st_size, hash_of(read_parts(file))

    made = session.post(f"{url}/folders?wait=1m", json={"path": "by requests"})
    made.raise_for_status()
    expect(made.json()["state"], "succeeded")

    # A file is streamed with its length, and a generator without one.
    refused = session.put(f"{url}/file", params=PATH, data=read_parts(file))
    expect((refused.status_code, refused.json()["code"]), (411, "length-required"))
    with open(file, "rb") as body:
        job = session.put(f"{url}/file", params=PATH, data=body)
    job.raise_for_status()
    result = job.json()["result"]
    expect((result["bytes"], result["sha256"], result["changed"]), (size, sha256, True))

    listed = session.get(f"{url}/files", params={"path": "by requests"}).json()["items"]
    expect([(item["name"], item["bytes"]) for item in listed], [("ä & b.iso", size)])

    with session.get(f"{url}/file", params=PATH, stream=True) as answer:
        answer.raise_for_status()
        expect(answer.headers["Content-Length"], str(size))
        expect("Content-Encoding" in answer.headers, False)
        expect(hash_of(answer.iter_content(65_536)), sha256)
    part = session.get(f"{url}/file", params=PATH, headers={"Range": f"bytes={size - 7}-"})
    expect(part.status_code, 206)
    expect(part.content, file.read_bytes()[-7:])
    behind = session.get(f"{url}/file", params=PATH, headers={"Range": f"bytes={size}-"})
    expect((behind.status_code, behind.json()["code"]), (416, "offset-out-of-range"))

    # A reader that leaves in the middle costs nothing.
    with session.get(f"{url}/file", params=PATH, stream=True) as answer:
        next(answer.iter_content(1_000))
    gone = session.delete(f"{url}/file", params=PATH | {"wait": "1m"})
    expect(gone.json()["state"], "succeeded")
    expect(session.get(f"{url}/file", params=PATH).status_code, 404)


def read_parts(file):
    with open(file, "rb") as body:
        while part := body.read(65_536):
            yield part


def hash_of(parts):
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def expect(actual, expected):
    if actual != expected:
        raise AssertionError(f"{actual!r} instead of {expected!r}")


main()
