-- What otter knows about the artifacts of leases. The bytes of an artifact are in the file <id> of
-- the folder artifacts in the state directory. A lease may be deleted before its artifacts, so the
-- table does not refer to leases.

CREATE TABLE artifacts (
    id            TEXT PRIMARY KEY,
    name          TEXT NOT NULL,
    lease         TEXT NOT NULL,
    -- The moid, the instance UUID and the path of the machine of the lease.
    machine       TEXT,
    instance_uuid TEXT,
    machine_path  TEXT,
    machine_name  TEXT,
    pool          TEXT,
    reference     TEXT,
    requested_by  TEXT NOT NULL,
    content_type  TEXT NOT NULL,
    bytes         BIGINT NOT NULL,
    -- The SHA-256 of the bytes in hexadecimal.
    sha256        TEXT NOT NULL,
    created_at    BIGINT NOT NULL,
    source        TEXT NOT NULL,
    UNIQUE (lease, name)
);

CREATE INDEX artifacts_by_reference ON artifacts (reference, id);
CREATE INDEX artifacts_by_machine ON artifacts (machine, id);
