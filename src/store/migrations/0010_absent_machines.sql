-- Since when a machine of which something is kept is absent from the host. NULL: it was there when otter last looked.

ALTER TABLE kept_machines ADD COLUMN absent_since BIGINT;
