-- What otter put on datastores. The target of a job can also be a file: such a job has the
-- target_kind 'datastore', and its target is the moid of the datastore in brackets and the path.

-- The part files of uploads that may be left on a datastore. A row is removed when its part file is
-- proven to be gone.
CREATE TABLE upload_parts (
    job       TEXT PRIMARY KEY,
    datastore TEXT NOT NULL,
    path      TEXT NOT NULL
);

-- The last upload to each path.
CREATE TABLE uploads (
    datastore   TEXT NOT NULL,
    path        TEXT NOT NULL,
    bytes       BIGINT NOT NULL,
    -- The SHA-256 of the bytes in hexadecimal.
    sha256      TEXT NOT NULL,
    -- The time that the host listed for the file, in microseconds since 1970.
    modified_at BIGINT,
    -- A number that grows with each upload.
    arrival     BIGINT NOT NULL UNIQUE,
    PRIMARY KEY (datastore, path)
);
