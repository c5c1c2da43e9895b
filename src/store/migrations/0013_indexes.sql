-- Indexes without the rows that no query finds by them, so that a new job changes fewer pages, and indexes for lists of
-- jobs by caller, and by end and kind.

DROP INDEX jobs_of_reference;
CREATE INDEX jobs_of_reference ON jobs (reference, created_at, id) WHERE reference IS NOT NULL;
DROP INDEX jobs_of_lease;
CREATE INDEX jobs_of_lease ON jobs (lease, created_at, id) WHERE lease IS NOT NULL;
DROP INDEX jobs_ended;
CREATE INDEX jobs_ended ON jobs (ended_at, id) WHERE ended_at IS NOT NULL;
CREATE INDEX jobs_of_caller ON jobs (requested_by, created_at, id);
CREATE INDEX jobs_by_end ON jobs (state, kind, created_at, id) WHERE ended_at IS NOT NULL;

DROP INDEX audit_by_lease;
CREATE INDEX audit_by_lease ON audit (lease, id) WHERE lease IS NOT NULL;
DROP INDEX audit_by_reference;
CREATE INDEX audit_by_reference ON audit (reference, id) WHERE reference IS NOT NULL;
