-- The release of a machine that no lease holds any more, as JSON. NULL: the machine has no such release to come.

ALTER TABLE kept_machines ADD COLUMN recovery TEXT;
