"""What schemathesis must know of otter beyond its document, and what it may not hold against otter. Each with its reason."""

import atexit
import collections
import json
import re

import jsonschema_rs
import schemathesis

# --- What the document says in words, or in `x-extensible-enum`, told as schemas.
#
# The document keeps enums open and texts plain, since closed enums and patterns make generated clients refuse what a
# later otter answers, or wrap every text in a type of its own. Here they are closed, so that what fits is accepted and
# what does not is refused.

DURATION = r"^([0-9]{1,7}|([0-9]{1,4}d)?([0-9]{1,4}h)?([0-9]{1,4}m)?([0-9]{1,4}s)?)$"
DEADLINE = r"^([1-9][0-9]{0,4}s?|[1-9][0-9]{0,3}m|[1-9][0-9]?h([1-9][0-9]?m)?|[1-6]d)$"
OCTET, QUARTET = "[0-9a-fA-F]{1,2}", "[0-9a-fA-F]{1,4}"
SPELLINGS = [f"{OCTET}({by}{OCTET}){{5}}|{QUARTET}({by}{QUARTET}){{2}}" for by in (":", "-", r"\.")]
MAC = "^([0-9a-fA-F]{1,12}|" + "|".join(SPELLINGS) + ")$"
VERSION = r"^[0-9a-f]{12}-(0|[1-9][0-9]{0,17})$"
NOT_EMPTY = ("name", "pool", "machine", "cursor")
NOT_EMPTY_IN_EVENTS = ("job", "lease", "reference")
TIME = {"pattern": r"^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z$"}
ID = {"pattern": "^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"}
FILLED = {"minLength": 1, "maxLength": 255}
REASON = {"pattern": r"\S", "maxLength": 512}
HEADERS = {
    "Idempotency-Key": {"minLength": 1, "maxLength": 255},
    "Otter-Reference": {"maxLength": 512},
    "Otter-Override": REASON,
}
# Longer than a moment, and shorter than the longest that is allowed.
HELD = {"pattern": "^[1-9][0-9]?m$"}
LEASES = {
    "LeaseRequest": {"ttl": HELD, "queue_for": HELD, "holder": FILLED},
    "RenewRequest": {"ttl": HELD},
    "PrepareRequest": {
        "snapshot": FILLED,
        "power": {"enum": ["on", "off"]},
        "until": {"enum": ["power_state:on", "ip", "tools"]},
        "settle": HELD,
    },
    "ReleaseRequest": {"snapshot": FILLED, "power": {"enum": ["off", "keep"]}},
    "QuarantineRequest": {"reason": REASON},
}
NOT_EMPTY_IN_BODIES = {
    "KillRequest": ("name",),
    "AnswerRequest": ("question", "choice"),
    "RevertRequest": ("snapshot",),
}
PROPERTIES = ["name", "summary.runtime", "config.version", "runtime.powerState", "guest.ipAddress", "snapshot"]
OPENAPI = {}


@schemathesis.hook
def before_load_schema(context, raw_schema):
    OPENAPI.update(json.loads(json.dumps(raw_schema)))
    schemas = raw_schema["components"]["schemas"]
    sets = {
        "state": schemas["JobState"]["enum"],
        "kind": schemas["Job"]["properties"]["kind"]["x-extensible-enum"],
        "types": schemas["Event"]["properties"]["type"]["x-extensible-enum"],
        "action": schemas["AuditEntry"]["properties"]["action"]["x-extensible-enum"],
        "outcome": schemas["AuditEntry"]["properties"]["outcome"]["x-extensible-enum"],
    }
    audit = {"actor": {"minLength": 1}, "reference": {"minLength": 1}, "lease": ID, "job": ID, "since": TIME, "until": TIME}
    for path, item in raw_schema["paths"].items():
        for operation in (part for part in item.values() if "responses" in part):
            for parameter in operation.get("parameters", []):
                name, schema = parameter["name"], parameter["schema"]
                words = re.findall("`([^`]+)`", parameter["description"])
                events = path == "/v1/events" and name in NOT_EMPTY_IN_EVENTS
                if parameter["in"] == "query" and (name in NOT_EMPTY or events):
                    schema["minLength"] = 1
                if path == "/v1/leases" and name in ("holder", "reference") and parameter["in"] == "query":
                    schema["minLength"] = 1
                if path in ("/v1/jobs", "/v1/events") and name in ("job", "lease"):
                    schema.update(ID)
                schema.update(HEADERS.get(name, {}))
                if path == "/v1/audit" and name in audit:
                    schema.update(audit[name])
                    continue
                if name == "reason":
                    schema.update(minLength=1, maxLength=512)
                if name == "wait":
                    schema.update(pattern=DURATION, minLength=1)
                elif name == "deadline":
                    schema.update(pattern=DEADLINE, minLength=1)
                elif name in ("since", "Last-Event-ID"):
                    schema.update(pattern=VERSION)
                elif name == "mac":
                    schema.update(pattern=MAC)
                elif name == "cidr":
                    schema.update(pattern=r"^10\.[1-9]\.0\.0/16$")
                elif name == "path":
                    schema["items"]["enum"] = PROPERTIES
                elif name in sets and schema["type"] == "string":
                    known = schemas["LeaseState"]["enum"] if path == "/v1/leases" else sets[name]
                    word = "|".join(map(re.escape, known))
                    schema.update(pattern=f"^({word})(,({word}))*$", minLength=1)
                elif name in ("power_state", "until"):
                    schema["enum"] = words
    for name, schema in schemas.items():
        for field in NOT_EMPTY_IN_BODIES.get(name, ()):
            schema["properties"][field]["minLength"] = 1
        if name in ("RenameSnapshotRequest", "SelectRequest"):
            schema["minProperties"] = 1
        for field, told in LEASES.get(name, {}).items():
            schema["properties"][field].update(told)
        if name == "SelectRequest":
            for field, told in schema["properties"].items():
                told.update({"pattern": MAC} if field == "mac" else FILLED)
        if name.endswith("Request"):
            for field, told in schema["properties"].items():
                if field == "force_after":
                    told.update(pattern=DURATION, minLength=1)
                elif "x-extensible-enum" in told:
                    told["enum"] = told["x-extensible-enum"]


# --- Requests that would not end, or not say what became of them.


@schemathesis.hook
def before_call(context, case, kwargs):
    # A stream without a `wait` goes on for ever. With one that is wrong it stays as it is: it must be refused.
    if case.operation.path == "/v1/events" and "wait" not in (case.query or {}):
        case.query = {**(case.query or {}), "wait": "0s"}
    # A DELETE starts a job (202): only its outcome (200) says that the thing is gone, which `use_after_free` is about.
    stateful = case.meta is not None and case.meta.phase.name.value == "stateful"
    waits = case.method == "DELETE" and not case.operation.path.endswith("/quarantine")
    if waits and stateful and "wait" not in (case.query or {}):
        case.query = {**(case.query or {}), "wait": "10s"}


# --- What is no fault of otter's.

# Refusals of requests that fit the document: by what, and why no document can say it.
REFUSED_WITH_REASON = {
    # 400, by the code of the place that is pointed at
    "invalid-cursor": "cursors are opaque: only what a list gave is one",
    "not-a-version": "schemathesis fills headers with what does not fit their pattern",
    "not-a-lease": "the secrets of leases are opaque: only what an answer gave is one",
    "not-an-id": "the ids of jobs are opaque: only what an answer gave is one",
    "not-reached": "a force_after beyond the deadline would never come: two values, of which one is a default",
    "not-applicable": "force_after goes with the action shutdown alone: a schema would need `oneOf`, which breaks generators",
    "not-with-this": "cidr goes with until=ip alone: query parameters have no schema for two of them together",
    "no-such-pool": "which pools exist only the configuration and the machines say",
    "not-a-choice": "which answers there are to a question only its machine says",
    "all-missing": "DELETE …/snapshots wants all=true, of both; generators make nothing good of a boolean of one value",
    "control-character": "the host's XML cannot carry control characters, nor can names on a screen",
    "invisible-character": "names of snapshots hold no character that nobody sees: a pattern of all of them is no help",
    "surrounding-space": "names of snapshots have no white space around them, of whatever kind Unicode knows",
    # Other statuses, by the problem's code
    "host-rejected": "422: the host refused a job, in its own words",
    "idempotency-mismatch": "422: the same made-up key came with another request before",
    "machine-leased": "423: what another holds",
    "lease-ended": "423: what the caller held",
}

# The 5xx of a healthy otter, by the problem's code.
SERVED_WITH_REASON = {
    "wait-timeout": "504: it did not come in the time that the caller gave for the call",
    "deadline-exceeded": "504: it was not done in the time that the caller gave for the job",
    "not-supported": "501: the host cannot do it at all, such as to start a template",
}

ACCEPTED = collections.Counter()


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """False where it is no fault; how often that was is said at the end."""
    why = no_fault(failure, problem_of(response), case, response)
    if why is not None:
        ACCEPTED[type(failure).__name__, why] += 1
    return why is None


@atexit.register
def tell():
    for (kind, why), count in sorted(ACCEPTED.items()):
        print(f"accepted {count:4} {kind}: {why}")


def no_fault(failure, problem, case, response):
    kind = type(failure).__name__
    if kind == "AcceptedNegativeData" and any(map(short_or_long, times(case.body))):
        return "otter takes shorter and longer times than the pattern here, which is for leases that last"
    if kind == "RejectedPositiveData" and problem is not None:
        codes = [told_apart(error) for error in problem["errors"]] or [problem["code"]]
        return ", ".join(codes) if all(code in REFUSED_WITH_REASON for code in codes) else None
    if kind == "ServerError" and problem is not None:
        return problem["code"] if problem["code"] in SERVED_WITH_REASON else None
    if kind == "JsonSchemaError" and response.headers["content-type"] == ["text/event-stream"]:
        # OpenAPI 3.1 cannot describe server-sent events; schemathesis takes the schema for that of `{id, event, data}`,
        # where generators of clients take it, as it is meant, for that of `data`. `every_event` holds them to it.
        return "the schema is of the data of an event"
    if kind == "UseAfterFree" and failure.free.split("?")[0].endswith("/snapshots"):
        # DELETE …/snapshots removes all snapshots, and the list of none is still there to be read.
        return "the list of no snapshots"
    return None


def times(body):
    """Whatever a body says of times that have the pattern `HELD` here."""
    if isinstance(body, dict):
        for field, value in body.items():
            if any(told.get(field) is HELD for told in LEASES.values()):
                yield value
            yield from times(value)


def short_or_long(time):
    return isinstance(time, str) and re.search(DURATION, time) and not re.search(HELD["pattern"], time)


def told_apart(error):
    """The code of a refused place; one of its own where the same code is no fault at that place alone."""
    return {
        ("all", "missing"): "all-missing",
        ("/choice", "not-one-of"): "not-a-choice",
        ("pool", "not-one-of"): "no-such-pool",
    }.get((error["parameter"] or error["pointer"], error["code"]), error["code"])


# --- More to hold it to.


@schemathesis.check
def problem_codes(ctx, response, case):
    """A problem is one of those that the operation lists, of its own status, with the id of its request."""
    problem = problem_of(response)
    if problem is None:
        assert response.status_code < 400, "an error that is no problem+json"
        return
    listed = case.operation.definition.raw["x-otter-problems"]
    known = [*listed, "not-found", "method-not-allowed"]
    assert problem["code"] in known, f"{problem['code']} is not among the operation's problems"
    assert problem["status"] == response.status_code, "the status of the problem is another"
    assert problem["type"] == f"/problems/{problem['code']}", "the type of the problem is another"
    assert response.headers["x-request-id"] == [problem["request_id"]], "the id of the request is another"


@schemathesis.check
def common_headers(ctx, response, case):
    """Every answer has an id; what shows inventory or jobs has a version, and a tag unless it is a stream."""
    assert "x-request-id" in response.headers, "no X-Request-Id"
    if response.status_code < 300 and case.operation.path.startswith("/v1/") and case.method != "HEAD":
        assert "otter-version" in response.headers, "no Otter-Version"
        assert case.operation.path == "/v1/events" or "etag" in response.headers, "no ETag"
    if response.status_code == 202:
        assert "location" in response.headers or case.operation.path.endswith("/cancel"), "no Location"


@schemathesis.check
def every_event(ctx, response, case):
    """Each event of a stream fits, not the first alone, and the stream ends in `bye` (or `reset` to a slow reader)."""
    if case.operation.path != "/v1/events" or response.status_code != 200 or not response.content:
        return
    text = response.content.decode()
    if response.headers["content-type"] == ["application/x-ndjson"]:
        events = [json.loads(line) for line in text.splitlines()]
    else:
        data = re.findall(r"^data: (.*)$", text, re.MULTILINE)
        events = [json.loads(line) for line in data]
    events = [event for event in events if event["type"] != "bookmark"]
    schema = {"$ref": "#/components/schemas/Event", "components": OPENAPI["components"]}
    validator = jsonschema_rs.Draft202012Validator(schema)
    for event in events:
        validator.validate(event)
    assert events[-1]["type"] == "bye", "the stream does not end in bye"


@schemathesis.deserializer("application/x-ndjson")
def ndjson(ctx, response):
    # `every_event` looks at all of them; the document's schema is that of one.
    events = [json.loads(line) for line in response.content.decode().splitlines()]
    return next(event for event in events if event["type"] != "bookmark")


def problem_of(response):
    if response is None or response.headers.get("content-type") != ["application/problem+json"]:
        return None
    return response.json()
