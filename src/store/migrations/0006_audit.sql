-- Who did what, and how it came out. Rows are added and, once they are old or too many, deleted; never changed.
CREATE TABLE audit (
    -- In the order of the commits, whatever the wall clock does.
    id            BIGINT PRIMARY KEY,
    -- Microseconds since 1970, UTC.
    happened_at   BIGINT NOT NULL,
    action        TEXT NOT NULL,
    actor         TEXT,
    address       TEXT,
    request_id    TEXT,
    machine       TEXT,
    machine_name  TEXT,
    lease         TEXT,
    job           TEXT,
    reference     TEXT,
    outcome       TEXT NOT NULL,
    code          TEXT,
    duration_ms   BIGINT,
    detail        TEXT,
    occurrences   BIGINT NOT NULL,
    -- The bytes of this row and of all before it: the difference of two is what lies between them.
    total_bytes   BIGINT NOT NULL
);

CREATE INDEX audit_by_time ON audit (happened_at);
CREATE INDEX audit_by_actor ON audit (actor, id);
CREATE INDEX audit_by_machine ON audit (machine, id);
CREATE INDEX audit_by_lease ON audit (lease, id);
CREATE INDEX audit_by_job ON audit (job, id);
CREATE INDEX audit_by_reference ON audit (reference, id);
