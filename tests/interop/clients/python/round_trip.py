"""A round trip with the client that openapi-python-client generates. The argument is the address of
otter.
"""

import hashlib
import io
import json
import sys

import httpx
from otter_client import AuthenticatedClient
from otter_client.api.events import stream_events
from otter_client.api.files import delete_file, get_file, list_files, put_file
from otter_client.api.jobs import get_job, wait_for_job
from otter_client.api.machines import (
    find_machine,
    get_machine,
    get_machine_properties,
    list_machines,
    power_machine,
)
from otter_client.api.snapshots import list_snapshots, revert_machine
from otter_client.models import (
    Event,
    FileList,
    Job,
    JobState,
    Machine,
    MachineList,
    MachineProperties,
    PowerRequest,
    PowerState,
    Problem,
    RevertRequest,
    SnapshotList,
)
from otter_client.types import File

PATH = "installed/updated/kickstart"


def main(url: str) -> None:
    # The timeout of a call, which includes the time that otter waits.
    client = AuthenticatedClient(base_url=url, token="none", timeout=httpx.Timeout(600))

    machines = list_machines.sync(client=client)
    assert isinstance(machines, MachineList), machines
    staging = next(machine for machine in machines.items if machine.name == "qubes-4.2-sdw-staging")
    mac = staging.network_cards[0].mac_address
    assert mac is not None

    found = find_machine.sync(client=client, mac=mac)
    assert isinstance(found, Machine), found
    assert found.id == staging.id and found.power_state == PowerState.OFF and found.free

    snapshots = list_snapshots.sync(found.id, client=client)
    assert isinstance(snapshots, SnapshotList), snapshots
    [kickstart] = [snapshot for snapshot in snapshots.items if snapshot.path == PATH]

    job = revert_machine.sync(found.id, client=client, body=RevertRequest(snapshot=PATH), wait="5m")
    assert isinstance(job, Job), job
    assert job.state == JobState.SUCCEEDED and job.result is not None
    assert job.result.snapshot == kickstart.id and job.result.power_state == PowerState.OFF

    read = get_job.sync(job.id, client=client)
    assert isinstance(read, Job), read
    assert read == job and read.kind == "snapshot.revert" and read.finished_at is not None
    assert read.finished_at >= read.created_at and read.error is None

    paths = ["config.version", "summary.runtime"]
    properties = get_machine_properties.sync(found.id, client=client, path=paths)
    assert isinstance(properties, MachineProperties), properties
    assert sorted(properties.additional_keys) == paths

    problem = get_machine.sync("none-such", client=client)
    assert isinstance(problem, Problem), problem
    assert (problem.status, problem.code, problem.retry) == (404, "not-found", "no")

    ambiguous = revert_machine.sync(
        found.id, client=client, body=RevertRequest(snapshot="kickstart")
    )
    assert isinstance(ambiguous, Problem), ambiguous
    assert ambiguous.code == "ambiguous-name"
    assert kickstart.id in [candidate.id for candidate in ambiguous.candidates]

    started = power_machine.sync(found.id, client=client, body=PowerRequest(action="on"))
    assert isinstance(started, Job), started
    ended = follow(client, machines.version, started)
    assert ended.state == JobState.SUCCEEDED and ended.result is not None
    assert ended.result.power_state == PowerState.ON and ended.result.changed

    outcome = wait_for_job.sync(started.id, client=client, wait="1m")
    assert outcome == ended, outcome
    after = get_machine.sync(found.id, client=client)
    assert isinstance(after, Machine) and after.power_state == PowerState.ON, after

    # The generated call reads the stream to its end. `wait` ends the stream.
    text = stream_events.sync(client=client, since=machines.version, job=started.id, wait="0s")
    assert isinstance(text, str) and "event: bye" in text, text
    files(client)


def files(client: AuthenticatedClient) -> None:
    """Uploads a file, finds it in the list, downloads it and deletes it."""
    content, store, path = bytes(range(256)) * 1000, "name:isos", "by python.iso"
    body = File(payload=io.BytesIO(content))
    job = put_file.sync(store, client=client, path=path, body=body)
    assert isinstance(job, Job) and job.result is not None, job
    assert job.result.sha256 == hashlib.sha256(content).hexdigest(), job

    listed = list_files.sync(store, client=client)
    assert isinstance(listed, FileList), listed
    assert (path, len(content)) in [(file.name, file.bytes_) for file in listed.items]

    read = get_file.sync(store, client=client, path=path)
    assert isinstance(read, File) and read.payload.read() == content

    job = delete_file.sync(store, client=client, path=path, wait="1m")
    assert isinstance(job, Job) and job.state == JobState.SUCCEEDED, job
    gone = get_file.sync(store, client=client, path=path)
    assert isinstance(gone, Problem) and gone.code == "not-found", gone


def follow(client: AuthenticatedClient, since: str, job: Job) -> Job:
    """Reads the event stream until the job has ended, and returns the job."""
    params = {"since": since, "types": "job.changed", "job": job.id}
    with client.get_httpx_client().stream("GET", "/v1/events", params=params) as stream:
        for line in stream.iter_lines():
            if not line.startswith("data: "):
                continue
            event = Event.from_dict(json.loads(line.removeprefix("data: ")))
            assert event.type_ == "job.changed" and event.object_ is not None, event
            job = Job.from_dict(event.object_.to_dict())
            if job.finished_at is not None:
                return job
    raise AssertionError("the stream ended before the job")


main(sys.argv[1])
