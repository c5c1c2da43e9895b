-- The idempotency keys of calls that send input to a machine. A row is committed before the first event of its call,
-- and gets the answer when the call ends. A row without an answer belongs to a call that runs, or that a crash cut.

CREATE TABLE input_keys (
    caller          TEXT NOT NULL,
    method          TEXT NOT NULL,
    path            TEXT NOT NULL,
    key             TEXT NOT NULL,
    -- HMAC-SHA256 of the request in hexadecimal. A plain hash would let a reader guess a short password.
    fingerprint     TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    finished_at     BIGINT,
    sent_events     BIGINT,
    sent_characters BIGINT,
    -- The failure of a call that ended before its last event, as JSON. Never a text that the caller sent.
    interruption    TEXT,
    PRIMARY KEY (caller, method, path, key),
    CHECK ((finished_at IS NULL) = (sent_events IS NULL)),
    CHECK ((finished_at IS NULL) = (sent_characters IS NULL)),
    CHECK (interruption IS NULL OR finished_at IS NOT NULL)
);

CREATE INDEX input_keys_by_age ON input_keys (created_at);
