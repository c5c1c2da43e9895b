-- Jobs and the idempotency keys that started them. Portable between SQLite and PostgreSQL: text, 64-bit
-- integers, microseconds since 1970 for times. Columns are what is filtered and ordered by; the rest of a job
-- is in its document.

CREATE TABLE jobs (
    id               TEXT PRIMARY KEY,
    arrival          BIGINT NOT NULL UNIQUE,
    state            TEXT NOT NULL
        CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'unknown')),
    kind             TEXT NOT NULL,
    machine          TEXT NOT NULL,
    requested_by     TEXT NOT NULL,
    reference        TEXT,
    created_at       BIGINT NOT NULL,
    ended_at         BIGINT,
    document_version BIGINT NOT NULL,
    document         TEXT NOT NULL,
    CHECK ((ended_at IS NULL) = (state IN ('queued', 'running')))
);

CREATE INDEX jobs_newest ON jobs (created_at, id);
CREATE INDEX jobs_of_machine ON jobs (machine, created_at, id);
CREATE INDEX jobs_of_reference ON jobs (reference, created_at, id);
CREATE INDEX jobs_unfinished ON jobs (arrival) WHERE ended_at IS NULL;
CREATE INDEX jobs_ended ON jobs (ended_at, id);

CREATE TABLE idempotency_keys (
    caller       TEXT NOT NULL,
    method       TEXT NOT NULL,
    path         TEXT NOT NULL,
    key          TEXT NOT NULL,
    -- SHA-256 in hexadecimal.
    fingerprint  TEXT NOT NULL,
    job          TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    created_at   BIGINT NOT NULL,
    PRIMARY KEY (caller, method, path, key)
);

CREATE INDEX idempotency_keys_of_job ON idempotency_keys (job);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
