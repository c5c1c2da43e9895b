-- The tokens that callers are told apart by. Of a token's text the SHA-256 alone is kept, in hexadecimal. A token
-- that was revoked stays, so that who asked for what is known, and so that otter goes on asking for tokens.

CREATE TABLE tokens (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    role       TEXT NOT NULL CHECK (role IN ('viewer', 'runner', 'operator', 'admin')),
    digest     TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT
);

CREATE UNIQUE INDEX tokens_in_force ON tokens (name) WHERE revoked_at IS NULL;
