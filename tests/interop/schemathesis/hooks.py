"""Facts about otter that schemathesis cannot read in the OpenAPI document, and the findings that
are not errors, each with its reason.
"""

import atexit
import collections
import json
import re

import jsonschema_rs
import schemathesis

# --- Rules that the document has in its descriptions or in `x-extensible-enum`, as schemas.
#
# The document has open enums and plain texts, because with closed enums and patterns generated
# clients refuse the answers of a later otter, or wrap every text in its own type. Here the rules
# are closed, so that otter must accept each value that fits and refuse each value that does not.

DURATION = r"^([0-9]{1,7}|([0-9]{1,4}d)?([0-9]{1,4}h)?([0-9]{1,4}m)?([0-9]{1,4}s)?)$"
DEADLINE = r"^([1-9][0-9]{0,4}s?|[1-9][0-9]{0,3}m|[1-9][0-9]?h([1-9][0-9]?m)?|[1-6]d)$"
OCTET, QUARTET = "[0-9a-fA-F]{1,2}", "[0-9a-fA-F]{1,4}"
SPELLINGS = [f"{OCTET}({by}{OCTET}){{5}}|{QUARTET}({by}{QUARTET}){{2}}" for by in (":", "-", r"\.")]
MAC = "^([0-9a-fA-F]{1,12}|" + "|".join(SPELLINGS) + ")$"
VERSION = r"^[0-9a-f]{12}-(0|[1-9][0-9]{0,17})$"
NOT_EMPTY = ("name", "pool", "machine", "cursor")
NOT_EMPTY_IN_EVENTS = ("job", "lease", "reference")
DATE = "20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"
TIME = {"pattern": f"^{DATE}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z$"}
ID = {"pattern": "^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"}
NOT_EMPTY_TEXT = {"minLength": 1, "maxLength": 255}
REASON = {"pattern": r"\S", "maxLength": 512}
HEADERS = {
    "Idempotency-Key": {"minLength": 1, "maxLength": 255},
    "Otter-Reference": {"maxLength": 512},
    "Otter-Override": REASON,
}
# Longer than a few seconds, and shorter than the longest allowed time.
LEASE_TIME = {"pattern": "^[1-9][0-9]?m$"}
CIDR = r"^10\.[1-9]\.0\.0/16$"
LEASES = {
    "LeaseRequest": {
        "ttl": LEASE_TIME,
        "queue_for": LEASE_TIME,
        "keep_on_failure": LEASE_TIME,
        "holder": NOT_EMPTY_TEXT,
    },
    "RenewRequest": {"ttl": LEASE_TIME},
    # JSON Schema takes 1.0 for an integer, and otter does not.
    "SelectRequest": {"memory_bytes_at_least": {"enum": [1 << 30]}},
    "PrepareRequest": {
        "snapshot": NOT_EMPTY_TEXT,
        "power": {"enum": ["on", "off"]},
        "until": {"enum": ["power_state:on", "ip", "tools"]},
        "cidr": {"pattern": CIDR},
        "settle": LEASE_TIME,
    },
    "ReleaseRequest": {"snapshot": NOT_EMPTY_TEXT, "power": {"enum": ["off", "keep"]}},
    "QuarantineRequest": {"reason": REASON},
}
NOT_EMPTY_IN_BODIES = {
    "KillRequest": ("name",),
    "AnswerRequest": ("question", "choice"),
    "RevertRequest": ("snapshot",),
}
REGION = r"^0,0,[1-9][0-9]?,[1-9][0-9]?$"
# The texts in queries of pictures and texts of screens.
LOOKS = {
    "region": {"pattern": REGION},
    "max_age": {"pattern": DURATION, "minLength": 1},
}
PROPERTIES = [
    "name",
    "summary.runtime",
    "config.version",
    "runtime.powerState",
    "guest.ipAddress",
    "snapshot",
]
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
    audit = {
        "actor": {"minLength": 1},
        "reference": {"minLength": 1},
        "lease": ID,
        "job": ID,
        "since": TIME,
        "until": TIME,
    }
    for path, item in raw_schema["paths"].items():
        for operation in (part for part in item.values() if "responses" in part):
            for parameter in operation.get("parameters", []):
                name, schema = parameter["name"], parameter["schema"]
                words = re.findall("`([^`]+)`", parameter["description"])
                events = path == "/v1/events" and name in NOT_EMPTY_IN_EVENTS
                if parameter["in"] == "query" and (name in NOT_EMPTY or events):
                    schema["minLength"] = 1
                if (
                    path == "/v1/leases"
                    and name in ("holder", "reference")
                    and parameter["in"] == "query"
                ):
                    schema["minLength"] = 1
                if path in ("/v1/jobs", "/v1/events") and name in ("job", "lease"):
                    schema.update(ID)
                schema.update(HEADERS.get(name, {}))
                if "/screen" in path and parameter["in"] == "query":
                    schema.update(LOOKS.get(name, {}))
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
                    schema.update(pattern=CIDR)
                elif name == "path":
                    schema["items"]["enum"] = PROPERTIES
                elif name == "outcome" and path == "/v1/leases/{lease}":
                    schema["enum"] = ["succeeded", "failed"]
                elif name in sets and schema["type"] == "string":
                    known = schemas["LeaseState"]["enum"] if path == "/v1/leases" else sets[name]
                    word = "|".join(map(re.escape, known))
                    schema.update(pattern=f"^({word})(,({word}))*$", minLength=1)
                elif name in ("power_state", "until"):
                    schema["enum"] = words
    for name, schema in schemas.items():
        for field in NOT_EMPTY_IN_BODIES.get(name, ()):
            schema["properties"][field]["minLength"] = 1
        if name == "RenameSnapshotRequest":
            schema["minProperties"] = 1
        if name == "SelectRequest":
            # `exclude` alone selects nothing.
            selecting = [field for field in schema["properties"] if field != "exclude"]
            schema["anyOf"] = [{"required": [field]} for field in selecting]
        for field, rules in LEASES.get(name, {}).items():
            schema["properties"][field].update(rules)
        if name == "SelectRequest":
            for field, rules in schema["properties"].items():
                rules = rules.get("items", rules)
                rules.update({"pattern": MAC} if field == "mac" else NOT_EMPTY_TEXT)
        if name.endswith("Request"):
            for field, rules in schema["properties"].items():
                if field == "force_after":
                    rules.update(pattern=DURATION, minLength=1)
                elif "x-extensible-enum" in rules:
                    rules["enum"] = rules["x-extensible-enum"]


# --- Requests that would not end, or whose answer would not report the outcome.


@schemathesis.hook
def before_call(context, case, kwargs):
    # A stream without `wait` does not end. A wrong `wait` is not replaced: otter must refuse it.
    if case.operation.path == "/v1/events" and "wait" not in (case.query or {}):
        case.query = {**(case.query or {}), "wait": "0s"}
    # `use_after_free` requires that the object is gone after a DELETE. A DELETE that waits answers
    # 200 after the removal.
    stateful = case.meta is not None and case.meta.phase.name.value == "stateful"
    waits = case.method == "DELETE" and not case.operation.path.endswith("/quarantine")
    if waits and stateful and "wait" not in (case.query or {}):
        case.query = {**(case.query or {}), "wait": "10s"}


# --- Findings that are not errors of otter.

# Refusals of requests that fit the document, by code, with the reason why a schema cannot express
# the rule.
REFUSED_WITH_REASON = {
    # 400, by the code of the error
    "invalid-cursor": "cursors are opaque: only a list returns valid ones",
    "not-a-version": "schemathesis sends headers that do not fit their pattern",
    "not-a-lease": "the secrets of leases are opaque: only an answer returns valid ones",
    "not-an-id": "the ids of jobs are opaque: only an answer returns valid ones",
    "not-reached": "force_after must be before the deadline: a rule about two values",
    "not-applicable": "force_after is only for the action shutdown: `oneOf` breaks generators",
    "not-with-this": "cidr is only for until=ip: no schema describes two parameters together",
    "no-such-pool": "the pools are in the configuration",
    "not-a-choice": "the choices of a question are those of its machine",
    "all-missing": "all=true is required: generators do not support a boolean with one value",
    "control-character": "the XML of the host cannot carry control characters",
    "invisible-character": "names must not hold invisible characters: a pattern is too long",
    "surrounding-space": "names must not start or end with white space of Unicode",
    # Other statuses, by the code of the problem
    "host-rejected": "422: the host refused a job, and the problem has its text",
    "idempotency-mismatch": "422: another request had the same generated key",
    "machine-leased": "423: another holder has the machine",
    "lease-ended": "423: the lease of the caller has ended",
}

# The 5xx answers of a healthy otter, by the code of the problem.
SERVED_WITH_REASON = {
    "wait-timeout": "504: the condition was not true within the wait of the request",
    "deadline-exceeded": "504: the job did not end before its deadline",
    "not-supported": "501: the host does not support the operation: start of a template",
}

ACCEPTED = collections.Counter()


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Returns False if the finding is not an error. The accepted findings are counted and printed
    at the end.
    """
    reason = accepted_reason(failure, problem_of(response), case, response)
    if reason is not None:
        ACCEPTED[type(failure).__name__, reason] += 1
    return reason is None


@atexit.register
def print_accepted():
    for (kind, reason), count in sorted(ACCEPTED.items()):
        print(f"accepted {count:4} {kind}: {reason}")


def accepted_reason(failure, problem, case, response):
    kind = type(failure).__name__
    if kind == "AcceptedNegativeData" and any(map(short_or_long, lease_times(case.body))):
        return "otter accepts shorter and longer times than the pattern here"
    if kind == "RejectedPositiveData" and problem is not None:
        codes = [code_of(error) for error in problem["errors"]] or [problem["code"]]
        return ", ".join(codes) if all(code in REFUSED_WITH_REASON for code in codes) else None
    if kind == "ServerError" and problem is not None:
        return problem["code"] if problem["code"] in SERVED_WITH_REASON else None
    if kind == "JsonSchemaError" and response.headers["content-type"] == ["text/event-stream"]:
        # OpenAPI 3.1 cannot describe server-sent events. schemathesis applies the schema to `{id,
        # event, data}`, but the document means `data`, as client generators assume. `every_event`
        # checks the data.
        return "the schema is that of the data of an event"
    if kind == "UseAfterFree" and failure.free.split("?")[0].endswith("/snapshots"):
        # DELETE …/snapshots removes all snapshots, but the list remains, and is empty.
        return "the empty list of snapshots"
    return None


def lease_times(body):
    """Yields the values in a body of the fields that have the pattern `LEASE_TIME` here."""
    if isinstance(body, dict):
        for field, value in body.items():
            if any(rules.get(field) is LEASE_TIME for rules in LEASES.values()):
                yield value
            yield from lease_times(value)


def short_or_long(time):
    return (
        isinstance(time, str)
        and re.search(DURATION, time)
        and not re.search(LEASE_TIME["pattern"], time)
    )


def code_of(error):
    """The code of an error; a code of its own if the code is accepted only for this parameter or
    pointer.
    """
    return {
        ("all", "missing"): "all-missing",
        ("/choice", "not-one-of"): "not-a-choice",
        ("pool", "not-one-of"): "no-such-pool",
    }.get((error["parameter"] or error["pointer"], error["code"]), error["code"])


# --- Additional checks.


@schemathesis.check
def problem_codes(ctx, response, case):
    """Each problem is one that the operation lists, with the status and the request id of the
    answer.
    """
    problem = problem_of(response)
    if problem is None:
        assert response.status_code < 400, "an error that is not problem+json"
        return
    listed = case.operation.definition.raw["x-otter-problems"]
    known = [*listed, "not-found", "method-not-allowed"]
    assert problem["code"] in known, f"{problem['code']} is not among the operation's problems"
    assert problem["status"] == response.status_code, "the problem has another status"
    assert problem["type"] == f"/problems/{problem['code']}", "the problem has another type"
    assert response.headers["x-request-id"] == [problem["request_id"]], (
        "the problem has another request id"
    )


@schemathesis.check
def common_headers(ctx, response, case):
    """Each answer has an id. Each success below /v1 has a version, and an ETag unless it is a
    stream.
    """
    assert "x-request-id" in response.headers, "no X-Request-Id"
    if (
        response.status_code < 300
        and case.operation.path.startswith("/v1/")
        and case.method != "HEAD"
    ):
        assert "otter-version" in response.headers, "no Otter-Version"
        assert case.operation.path == "/v1/events" or "etag" in response.headers, "no ETag"
    if response.status_code == 202:
        assert "location" in response.headers or case.operation.path.endswith("/cancel"), (
            "no Location"
        )


@schemathesis.check
def every_event(ctx, response, case):
    """Each event of a stream fits the schema, and the stream ends with `bye`."""
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
    assert events[-1]["type"] == "bye", "the stream does not end with bye"


@schemathesis.deserializer("application/x-ndjson")
def ndjson(ctx, response):
    # The schema of the document describes one event. `every_event` checks all of them.
    events = [json.loads(line) for line in response.content.decode().splitlines()]
    return next(event for event in events if event["type"] != "bookmark")


def problem_of(response):
    if response is None or response.headers.get("content-type") != ["application/problem+json"]:
        return None
    return response.json()
