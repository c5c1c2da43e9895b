-- Leases get a column for the order in which they arrived, as jobs have one. Until now that order was the rowid, which
-- VACUUM may change. SQLite adds no NOT NULL column to a filled table, so the table is built again; foreign keys are
-- off meanwhile, or dropping the old table would delete the keys that refer to it.

CREATE TABLE leases_with_arrival (
    id               TEXT PRIMARY KEY,
    arrival          BIGINT NOT NULL UNIQUE,
    state            TEXT NOT NULL CHECK (state IN
        ('queued', 'preparing', 'active', 'releasing', 'released', 'expired', 'revoked', 'failed')),
    machine          TEXT,
    pool             TEXT,
    holder           TEXT NOT NULL,
    reference        TEXT,
    created_at       BIGINT NOT NULL,
    ended_at         BIGINT,
    -- The key of the machine that the lease holds, if it holds one: two leases never hold the same machine.
    held             TEXT UNIQUE,
    document_version BIGINT NOT NULL,
    document         TEXT NOT NULL,
    CHECK ((ended_at IS NULL) = (state IN ('queued', 'preparing', 'active', 'releasing'))),
    CHECK ((held IS NOT NULL) = (state IN ('preparing', 'active', 'releasing')))
);

INSERT INTO leases_with_arrival (id, arrival, state, machine, pool, holder, reference, created_at, ended_at, held,
    document_version, document)
SELECT id, rowid, state, machine, pool, holder, reference, created_at, ended_at, held, document_version, document
FROM leases ORDER BY rowid;

DROP TABLE leases;
ALTER TABLE leases_with_arrival RENAME TO leases;

CREATE INDEX leases_newest ON leases (created_at, id);
CREATE INDEX leases_open ON leases (arrival) WHERE ended_at IS NULL;
CREATE INDEX leases_ended ON leases (ended_at, id);
