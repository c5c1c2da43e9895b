-- What a token is restricted to: machines, time, and how much it may ask for. NULL means no restriction.
-- `machines` and `pools` are JSON arrays: patterns of names, and names of pools.

ALTER TABLE tokens ADD COLUMN machines TEXT;
ALTER TABLE tokens ADD COLUMN pools TEXT;
ALTER TABLE tokens ADD COLUMN expires_at BIGINT;
ALTER TABLE tokens ADD COLUMN rotated_at BIGINT;
-- Written at most once a minute.
ALTER TABLE tokens ADD COLUMN last_used_at BIGINT;
ALTER TABLE tokens ADD COLUMN max_leases BIGINT;
ALTER TABLE tokens ADD COLUMN max_queued_leases BIGINT;
ALTER TABLE tokens ADD COLUMN max_queued_jobs BIGINT;
ALTER TABLE tokens ADD COLUMN max_streams BIGINT;
ALTER TABLE tokens ADD COLUMN max_requests_per_second BIGINT;
