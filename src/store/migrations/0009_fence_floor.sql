-- Every grant gets a fence above this floor, also on a machine without a row in kept_machines. One row; none means 0.

CREATE TABLE fence_floor (
    one   BIGINT PRIMARY KEY CHECK (one = 1),
    fence BIGINT NOT NULL
);
