-- When otter last ran, by the wall clock: what a start goes by to know for how long otter was down. One row.

CREATE TABLE last_seen (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    at  BIGINT NOT NULL
);
