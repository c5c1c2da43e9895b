-- Leases, what is kept of machines beside them, and the idempotency keys of the calls that asked for leases. A
-- machine is known by who it is (its instance UUID, else its path), never by its moid, which hosts use again.

CREATE TABLE leases (
    id               TEXT PRIMARY KEY,
    state            TEXT NOT NULL CHECK (state IN
        ('queued', 'preparing', 'active', 'releasing', 'released', 'expired', 'revoked', 'failed')),
    machine          TEXT,
    pool             TEXT,
    holder           TEXT NOT NULL,
    reference        TEXT,
    created_at       BIGINT NOT NULL,
    ended_at         BIGINT,
    -- Who holds it, where it holds one: never two.
    held             TEXT UNIQUE,
    document_version BIGINT NOT NULL,
    document         TEXT NOT NULL,
    CHECK ((ended_at IS NULL) = (state IN ('queued', 'preparing', 'active', 'releasing'))),
    CHECK ((held IS NOT NULL) = (state IN ('preparing', 'active', 'releasing')))
);

CREATE INDEX leases_newest ON leases (created_at, id);
CREATE INDEX leases_open ON leases (created_at, id) WHERE ended_at IS NULL;
CREATE INDEX leases_ended ON leases (ended_at, id);

CREATE TABLE kept_machines (
    machine         TEXT PRIMARY KEY,
    fence           BIGINT NOT NULL,
    last_lease_end  BIGINT,
    -- What an operator or otter said of it, as JSON; none where it is not set aside.
    quarantine      TEXT
);

CREATE TABLE lease_keys (
    caller       TEXT NOT NULL,
    method       TEXT NOT NULL,
    path         TEXT NOT NULL,
    key          TEXT NOT NULL,
    fingerprint  TEXT NOT NULL,
    lease        TEXT NOT NULL REFERENCES leases (id) ON DELETE CASCADE,
    created_at   BIGINT NOT NULL,
    PRIMARY KEY (caller, method, path, key)
);

CREATE INDEX lease_keys_of_lease ON lease_keys (lease);
CREATE INDEX lease_keys_by_age ON lease_keys (created_at);

ALTER TABLE jobs ADD COLUMN lease TEXT;
CREATE INDEX jobs_of_lease ON jobs (lease, created_at, id);
