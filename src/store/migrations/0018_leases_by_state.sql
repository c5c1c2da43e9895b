-- An index for lists of leases by their state, which are read newest first.

CREATE INDEX leases_by_state ON leases (state, created_at, id);
