-- A job works on a machine, a datastore or the host. Every earlier job worked on a machine.

ALTER TABLE jobs RENAME COLUMN machine TO target;
ALTER TABLE jobs ADD COLUMN target_kind TEXT NOT NULL DEFAULT 'machine'
    CHECK (target_kind IN ('machine', 'datastore', 'host'));

DROP INDEX jobs_of_machine;
CREATE INDEX jobs_of_target ON jobs (target_kind, target, created_at, id);
