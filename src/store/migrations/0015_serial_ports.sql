-- The numbers of the bytes that serial ports output. The bytes are in files in the folder serial of
-- the state directory.

CREATE TABLE serial_ports (
    -- The key of the machine: "uuid:<instance uuid>", "path:<vmx>" or "id:<moid>".
    machine     TEXT NOT NULL,
    port        BIGINT NOT NULL,
    -- Bytes may have the offsets below this one.
    reserved    BIGINT NOT NULL,
    -- The offset of the next byte. NULL while otter may give out offsets up to `reserved`.
    next        BIGINT,
    -- A JSON array of the last gaps.
    gaps        TEXT NOT NULL,
    -- The end of the output when the last host call of a preparation began, and that job.
    mark_job    TEXT,
    mark_offset BIGINT,
    updated_at  BIGINT NOT NULL,
    PRIMARY KEY (machine, port),
    CHECK ((mark_job IS NULL) = (mark_offset IS NULL))
);

-- What a call found that sent input to a serial port and then waited, as JSON.
ALTER TABLE input_keys ADD COLUMN result TEXT;
