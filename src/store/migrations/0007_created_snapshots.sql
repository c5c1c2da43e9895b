-- Which lease each snapshot was made under. A machine is known by its instance UUID, else its path, and
-- never by its moid, which hosts use again.

CREATE TABLE created_snapshots (
    machine    TEXT NOT NULL,
    snapshot   TEXT NOT NULL,
    lease      TEXT NOT NULL,
    PRIMARY KEY (machine, snapshot)
);

CREATE INDEX created_snapshots_of_lease ON created_snapshots (lease);
