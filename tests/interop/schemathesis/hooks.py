"""Facts about otter that schemathesis cannot read in the OpenAPI document, and the findings that
are not errors, each with its reason.
"""

import atexit
import base64
import collections
import itertools
import json
import re
import struct
import zlib

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
PORT = r"^(\*|(ttyS)?[0-9]{1,9})$"
# A serial port of machine 17.
PORT_WITH_OUTPUT = "9001"
# Names that otter uses itself start with an s or have a dot.
ARTIFACT_NAME = {"pattern": "^[A-RT-Za-rt-z0-9_-][A-Za-z0-9_-]{0,127}$"}
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
    "RecordRequest": {"serial": {"items": {"type": "string", "pattern": PORT}}},
}
NOT_EMPTY_IN_BODIES = {
    "KillRequest": ("name",),
    "AnswerRequest": ("question", "choice"),
    "RevertRequest": ("snapshot",),
}
# In each screen of the simulator.
REGION = r"^0,0,[1-9][0-9]?,[1-9][0-9]?$"
# The texts in queries of screens and serial ports.
LOOKS = {
    "region": {"pattern": REGION},
    "max_age": {"pattern": DURATION, "minLength": 1},
    "mode": {"enum": ["view", "drive"]},
    "format": {"enum": ["raw", "text"]},
}


# --- The bodies of waits for a screen or a serial port, of input, and of console tokens. The fields
# of many objects exclude each other, so each such object is one of several closed ones here.


def object_of(required, **properties):
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": False,
    }


def one_of_these(*objects):
    return {"type": "object", "anyOf": list(objects)}


def text_of(pattern):
    return {"type": "string", "pattern": pattern}


def integer(least, most):
    return {"type": "integer", "minimum": least, "maximum": most}


def png():
    """A picture of one pixel, which is in each region."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    pixel = chunk(b"IDAT", zlib.compress(bytes([0, 32, 64, 96])))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + header + pixel + chunk(b"IEND", b""))


# A wait lasts at least as long as the time for which the screen must be still.
STILL_TIME = r"^0{0,2}([1-9][0-9]{0,2}ms|1s?)$"
INTERVAL = r"^0{0,2}(([5-9]|[1-9][0-9]{1,2}|1[0-9]{3}|2000)ms|[12]s?)$"
# At most `http.max_wait`, which is 50 ms in this test.
PAUSE = r"^(0{0,2}([0-9]|[1-4][0-9]|50)ms|0{1,3}[dhms]?)$"
UNTIL_WAIT = r"^0{0,2}([1-9]|[1-4][0-9]|50)ms$"
# A part of the names, and the keys whose name is their character.
KEY = r"[A-Za-z0-9]|[\[\]=\\;'`,./]|f[1-9]|enter|esc|tab|space|delete|pageup|left|kp0|minus"
MODIFIER = "shift|ctrl|alt|altgr|super"
STROKES = f"^(({MODIFIER})-)?({KEY})$"
HELD_KEY = text_of(f"^({KEY}|{MODIFIER})$")
PIXELS = integer(0, 0xFFFF)
POINT = {"x": PIXELS, "y": PIXELS}
OFFSET = integer(-(1 << 31), (1 << 31) - 1)
SHARE = {"type": "number", "minimum": 0, "maximum": 1}
FLAG = {"type": "boolean"}
NOT_EMPTY_TEXT_FIELD = {"type": "string", **NOT_EMPTY_TEXT}
PLACE = {
    "name": {"type": "string", "minLength": 1, "maxLength": 64},
    "region": text_of(REGION),
    "absent": FLAG,
}
IMAGE = {"image": {"enum": [png().decode()]}, "similarity": SHARE}
CONDITION = one_of_these(
    object_of("text", text={**text_of(r"\S"), "maxLength": 1024}, **PLACE),
    object_of("regex", regex={"type": "string", "minLength": 1, "maxLength": 1024}, **PLACE),
    object_of("image", **IMAGE, **PLACE),
    object_of("image region margin", margin=integer(0, 8192), **IMAGE, **PLACE),
)
CONDITIONS = {
    "type": "array",
    "items": {"$ref": "#/components/schemas/ScreenCondition"},
    "minItems": 1,
    "maxItems": 16,
}
STILL = text_of(STILL_TIME)
BUTTONS = {"button": {"enum": ["left", "middle", "right"]}, "count": integer(1, 5)}
UNTIL = {"still": STILL, "any": CONDITIONS, "wait": text_of(UNTIL_WAIT)}
SCREENS = {
    "ScreenCondition": CONDITION,
    "ScreenWaitRequest": one_of_these(
        object_of(
            "still",
            any=CONDITIONS,
            still=STILL,
            tolerance=SHARE,
            region=text_of(REGION),
            wake=FLAG,
        ),
        object_of("any", any=CONDITIONS, wake=FLAG),
    ),
    "InputPoint": object_of("x y", **POINT),
    "InputClick": one_of_these(
        object_of("x y", **POINT, **BUTTONS, last_match={"enum": [False]}),
        object_of("last_match", **BUTTONS, last_match={"enum": [True]}, dx=OFFSET, dy=OFFSET),
    ),
    "InputDrag": object_of("x y to_x to_y", **POINT, to_x=PIXELS, to_y=PIXELS),
    "InputScroll": object_of(
        "x y amount", **POINT, amount={"anyOf": [integer(-100, -1), integer(1, 100)]}
    ),
    "InputUntil": one_of_these(object_of("any wait", **UNTIL), object_of("still wait", **UNTIL)),
    "InputEvent": one_of_these(
        object_of("text", text=text_of(r"^[\t\n -~]+$")),
        object_of("keys", keys={"type": "array", "items": text_of(STROKES), "minItems": 1}),
        object_of("hold", hold=HELD_KEY),
        object_of("release", release=HELD_KEY),
        object_of("pause", pause=text_of(PAUSE)),
        *(
            object_of(field, **{field: {"$ref": f"#/components/schemas/{schema}"}})
            for field, schema in (
                ("move", "InputPoint"),
                ("click", "InputClick"),
                ("drag", "InputDrag"),
                ("scroll", "InputScroll"),
                ("until", "InputUntil"),
            )
        ),
    ),
    "InputRequest": object_of(
        "events",
        events={
            "type": "array",
            "items": {"$ref": "#/components/schemas/InputEvent"},
            "minItems": 1,
            "maxItems": 1000,
        },
        interval=text_of(INTERVAL),
        layout={"enum": ["us", "de"]},
        secret=FLAG,
    ),
    "ConsoleTokenRequest": one_of_these(
        *(
            object_of(f"{required} mode", **console, mode={"enum": [mode]}, force=force)
            for required, console in (
                ("kind", {"kind": {"enum": ["screen"]}}),
                ("kind port", {"kind": {"enum": ["serial"]}, "port": NOT_EMPTY_TEXT_FIELD}),
            )
            for mode, force in (("drive", FLAG), ("view", {"enum": [False]}))
        )
    ),
}
# An offset, or a number of bytes before the end.
SINCE = (-(1 << 63), (1 << 63) - 1)
NAME = {"name": PLACE["name"]}
OUTPUT = {
    "type": "array",
    "items": {"$ref": "#/components/schemas/SerialCondition"},
    "minItems": 1,
    "maxItems": 16,
}
PACE = r"^0{0,2}(([1-9]|[1-9][0-9]{1,2}|1[0-9]{3}|2000)ms|[12]s?)$"
DIGIT = "[A-Za-z0-9+/]"
BASE64 = f"^({DIGIT}{{4}})*({DIGIT}[AQgw]==|{DIGIT}{{2}}[AEIMQUYcgkosw048]=|{DIGIT}{{4}})$"
# What both kinds of input may have. The texts are much shorter than the limit.
AFTER_INPUT = {
    "pace": text_of(PACE),
    "secret": {"type": "boolean"},
    "wait_for": {"$ref": "#/components/schemas/SerialWaitFor"},
}
SERIAL = {
    "SerialCondition": one_of_these(
        object_of("text", text={"type": "string", "minLength": 1, "maxLength": 1024}, **NAME),
        object_of("regex", regex={"type": "string", "minLength": 1, "maxLength": 1024}, **NAME),
    ),
    "SerialWaitRequest": object_of("any", any=OUTPUT, since=integer(*SINCE)),
    "SerialWaitFor": object_of("any wait", any=OUTPUT, wait=text_of(UNTIL_WAIT)),
    "SerialInputRequest": one_of_these(
        object_of("text", text={"type": "string", "minLength": 1}, **AFTER_INPUT),
        object_of("base64", base64=text_of(BASE64), **AFTER_INPUT),
    ),
}

SEGMENT = "[A-Za-z0-9][A-Za-z0-9_-]{0,20}"
FILE_PATH = f"^{SEGMENT}(/{SEGMENT}){{0,3}}$"
FOLDER_PATH = f"^({SEGMENT}(/{SEGMENT}){{0,3}})?$"
ISO = {"pattern": rf"^\[isos\] {SEGMENT}(/{SEGMENT}){{0,3}}$"}
FILES = {
    "FolderRequest": {"path": {"pattern": FILE_PATH}},
    "CdromRequest": {"iso": ISO},
    "PrepareRequest": {"iso": ISO},
    "BootRequest": {
        "order": {
            "items": {"type": "string", "enum": ["cdrom", "disk", "network"]},
            "uniqueItems": True,
        },
        "delay": {"pattern": r"^([0-9]|[1-9][0-9])s$"},
    },
}

REFUSED_BEFORE_BODY = (
    "/screen/wait",
    "/screen/input",
    "/serial/{port}/wait",
    "/serial/{port}/input",
)
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
            if path.endswith(REFUSED_BEFORE_BODY):
                # A generated lease is refused before the body is checked. Other operations have it.
                operation["parameters"] = [
                    parameter
                    for parameter in operation["parameters"]
                    if parameter["name"] != "Otter-Lease"
                ]
            for parameter in operation.get("parameters", []):
                name, schema = parameter["name"], parameter["schema"]
                words = re.findall("`([^`]+)`", parameter["description"])
                events = path == "/v1/events" and name in NOT_EMPTY_IN_EVENTS
                if parameter["in"] == "query" and (name in NOT_EMPTY or events):
                    schema["minLength"] = 1
                if (
                    path in ("/v1/leases", "/v1/artifacts")
                    and name in ("holder", "reference")
                    and parameter["in"] == "query"
                ):
                    schema["minLength"] = 1
                if path in ("/v1/jobs", "/v1/events", "/v1/artifacts") and name in ("job", "lease"):
                    schema.update(ID)
                if path == "/v1/leases/{lease}/artifacts/{name}" and name == "name":
                    schema.update(ARTIFACT_NAME)
                schema.update(HEADERS.get(name, {}))
                if ("/screen" in path or "/serial" in path) and parameter["in"] == "query":
                    schema.update(LOOKS.get(name, {}))
                if "/serial" in path and name == "since":
                    schema.update(minimum=SINCE[0], maximum=SINCE[1])
                    continue
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
                elif name == "path" and path.startswith("/v1/datastores"):
                    # The top folder has the empty path.
                    is_list = path.endswith("/files")
                    schema.update(pattern=FOLDER_PATH if is_list else FILE_PATH)
                elif name == "path":
                    schema["items"]["enum"] = PROPERTIES
                elif name == "outcome" and path == "/v1/leases/{lease}":
                    schema["enum"] = ["succeeded", "failed"]
                elif name in sets and schema["type"] == "string":
                    known = schemas["LeaseState"]["enum"] if path == "/v1/leases" else sets[name]
                    word = "|".join(map(re.escape, known))
                    schema.update(pattern=f"^({word})(,({word}))*$", minLength=1)
                elif name in ("power_state", "until"):
                    schema["enum"] = [word.replace("<port>", PORT_WITH_OUTPUT) for word in words]
    for name, schema in schemas.items():
        for field in NOT_EMPTY_IN_BODIES.get(name, ()):
            schema["properties"][field]["minLength"] = 1
        if name in FILES:
            for field, rules in FILES[name].items():
                schema["properties"][field].update(rules)
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
    schemas.update(json.loads(json.dumps({**SCREENS, **SERIAL})))


# --- Requests that would not end, whose answer would not report the outcome, or that would be
# refused before the operation does anything.


SCREEN = "/v1/machines/{machine}/screen"
SERIAL_PORTS = "/v1/machines/{machine}/serial"
WAITLESS = ("/quarantine", "/artifacts/{artifact}")
READS_TEXT = ("/screen/text", "/screen/wait")
TEXTS = itertools.count()


@schemathesis.hook
def before_call(context, case, kwargs):
    # A stream without `wait` does not end. A wrong `wait` is not replaced: otter must refuse it.
    if case.operation.path == "/v1/events" and "wait" not in (case.query or {}):
        case.query = {**(case.query or {}), "wait": "0s"}
    # `use_after_free` requires that the object is gone after a DELETE. A DELETE that waits answers
    # 200 after the removal.
    stateful = case.meta is not None and case.meta.phase.name.value == "stateful"
    waits = case.method == "DELETE" and not case.operation.path.endswith(WAITLESS)
    if waits and stateful and "wait" not in (case.query or {}):
        case.query = {**(case.query or {}), "wait": "10s"}
    # What follows a port without `wait` does not end, either.
    follows = str((case.query or {}).get("follow")).lower() == "true"
    if case.operation.path.startswith(SERIAL_PORTS) and follows and "wait" not in case.query:
        case.query = {**case.query, "wait": "0s"}
    if case.operation.path.startswith((SCREEN, SERIAL_PORTS)):
        # JSON Schema takes 1.0 for an integer, and otter does not.
        if isinstance(case.body, dict):
            case.body = with_integers(case.body)
        # Few generated machines exist, but machine 17 has a screen and serial ports. Of the
        # requests that read texts, one in five goes there, because they take long.
        fuzzing = case.meta is not None and case.meta.phase.name.value == "fuzzing"
        if fuzzing and (not case.operation.path.endswith(READS_TEXT) or next(TEXTS) % 5 == 0):
            case.path_parameters = {**case.path_parameters, "machine": "17"}
            if "port" in case.path_parameters:
                case.path_parameters["port"] = PORT_WITH_OUTPUT


def with_integers(value):
    if isinstance(value, dict):
        return {name: with_integers(part) for name, part in value.items()}
    if isinstance(value, list):
        return [with_integers(part) for part in value]
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53
    return int(value) if is_whole else value


# --- Findings that are not errors of otter.

# Refusals of requests that fit the document, by code, with the reason why a schema cannot express
# the rule.
REFUSED_WITH_REASON = {
    # 400, by the code of the error
    "invalid-cursor": "cursors are opaque: only a list returns valid ones",
    "not-a-version": "schemathesis sends headers that do not fit their pattern",
    "not-a-lease": "the secrets of leases are opaque: only an answer returns valid ones",
    "not-an-id": "the ids of jobs and pictures are opaque: only an answer returns valid ones",
    "not-reached": "force_after must be before the deadline: a rule about two values",
    "not-applicable": "force_after is only for the action shutdown: `oneOf` breaks generators",
    "cidr-not-with-this": "only for until=ip: no schema describes two parameters together",
    "force-not-with-this": "only for mode=drive: no schema describes two parameters together",
    "pools-not-with-this": "a lease has pool or pools: `oneOf` breaks generators",
    "no-such-pool": "the pools are in the configuration",
    "not-a-choice": "the choices of a question are those of its machine",
    "all-missing": "all=true is required: generators do not support a boolean with one value",
    "control-character": "the XML of the host cannot carry control characters",
    "invisible-character": "names must not hold invisible characters: a pattern is too long",
    "surrounding-space": "names must not start or end with white space of Unicode",
    "not-a-regex": "the syntax of regular expressions is no schema",
    "no-key": "the layout de has no key for <, > and |: a rule about two values",
    "key-not-with-this": "a key is held once, and released after that: a rule about two events",
    "nothing-matched": "last_match needs an earlier condition that found something",
    "too-many-images": "four images in all conditions together: a rule about all of them",
    "not-on-screen": "the machine has the size of the screen",
    "no-character": "which characters count as white space is no schema",
    "too-long": "all events, or all bytes, together take at most http.max_wait",
    "follow-not-with-this": "only for format=raw: no schema describes two parameters together",
    "not-kept": "which offsets otter keeps depends on the serial port",
    # Other statuses, by the code of the problem
    "host-rejected": "422: the host refused a job, and the problem has its text",
    "idempotency-mismatch": "422: another request had the same generated key",
    "machine-leased": "423: another holder has the machine",
    "lease-ended": "423: the lease of the caller has ended",
    "upgrade-required": "426: a WebSocket, and schemathesis makes plain requests",
}

# The 5xx answers of a healthy otter, by the code of the problem.
SERVED_WITH_REASON = {
    "wait-timeout": "504: the condition was not true within the wait of the request",
    "deadline-exceeded": "504: the job did not end before its deadline",
    "not-supported": "501: the host does not support the operation: start of a template",
    "console-unavailable": "503: the machine starts or stops, or its text took too long to read",
    "too-many-consoles": "503: a caller has at most 16 console tokens that can still be used",
}

# The codes that are accepted only for some parameters or pointers.
EVENT = "/events/[0-9]+"
OWN_CODES = [
    ("all", "missing", "all-missing"),
    ("/choice", "not-one-of", "not-a-choice"),
    ("pool", "not-one-of", "no-such-pool"),
    ("cidr", "not-with-this", "cidr-not-with-this"),
    ("force", "not-with-this", "force-not-with-this"),
    ("/select/pools", "not-with-this", "pools-not-with-this"),
    (f"{EVENT}/(hold|release)", "not-with-this", "key-not-with-this"),
    (f"{EVENT}/click/last_match", "not-with-this", "nothing-matched"),
    (f"({EVENT}/until)?/any", "out-of-range", "too-many-images"),
    (f"{EVENT}/(move|click|drag|scroll)", "out-of-range", "not-on-screen"),
    (f"({EVENT}/until)?/any/[0-9]+/text", "empty", "no-character"),
    # Too many images in all events have the same pointer and code.
    ("/events|/text|/base64", "out-of-range", "too-long"),
    ("follow", "not-with-this", "follow-not-with-this"),
    ("/?since", "out-of-range", "not-kept"),
]

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
    if kind == "AcceptedNegativeData" and any(map(short_or_long, limited_times(case.body))):
        return "otter accepts shorter and longer times than the pattern here"
    if kind == "RejectedPositiveData" and problem is not None:
        codes = [code_of(error) for error in problem["errors"]] or [problem["code"]]
        return ", ".join(codes) if all(code in REFUSED_WITH_REASON for code in codes) else None
    if kind == "UnsupportedMethodResponse" and problem is not None:
        # otter checks the type of a body before it looks for the operation, so that no form of a
        # web page reaches one.
        code = problem["code"]
        return code if code == "unsupported-media-type" else None
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


def limited_times(body):
    """Yields the values in a body of the fields that have the pattern `LEASE_TIME`, `STILL_TIME` or
    `PACE` here, with the pattern.
    """
    if isinstance(body, dict):
        for field, value in body.items():
            if any(rules.get(field) is LEASE_TIME for rules in LEASES.values()):
                yield value, LEASE_TIME["pattern"]
            if field == "still":
                yield value, STILL_TIME
            if field == "pace":
                yield value, PACE
            yield from limited_times(value)
    if isinstance(body, list):
        for value in body:
            yield from limited_times(value)


def short_or_long(limited):
    time, pattern = limited
    return (
        isinstance(time, str)
        and re.search(f"{DURATION}|^[0-9]+ms$", time)
        and not re.search(pattern, time)
    )


def code_of(error):
    """The code of an error; a code of its own if the code is accepted only for this parameter or
    pointer.
    """
    place = error["parameter"] or error["pointer"] or ""
    for pattern, code, own in OWN_CODES:
        if code == error["code"] and re.fullmatch(pattern, place):
            return own
    return error["code"]


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
    stream or the output of a serial port.
    """
    assert "x-request-id" in response.headers, "no X-Request-Id"
    if (
        200 <= response.status_code < 300
        and case.operation.path.startswith("/v1/")
        and case.method != "HEAD"
    ):
        assert "otter-version" in response.headers, "no Otter-Version"
        tagged = "etag" in response.headers or "otter-serial-first" in response.headers
        assert case.operation.path == "/v1/events" or tagged, "no ETag"
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
