-- Orders: one row each, as they stand now. The row is version 1 of the order's history, too;
-- later versions are in order_events. Times are microseconds since 1970 in all tables.
CREATE TABLE orders (
    -- The 16 bytes of a UUIDv7 made by the first process that saw the order. They sort by
    -- creation, so rows without a rowid append to the end of the tree.
    id              BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    user_id         TEXT    NOT NULL,
    -- In the minor units of the currency (cents); money is never a floating-point number.
    amount_minor    INTEGER NOT NULL CHECK (amount_minor > 0),
    -- ISO 4217.
    currency        TEXT    NOT NULL CHECK (length(currency) = 3),
    -- 1 PENDING, 2 PROCESSING, 3 PROCESSED, 4 FAILED, 5 CANCELLED.
    status          INTEGER NOT NULL CHECK (status BETWEEN 1 AND 5),
    -- Raised by one with every change.
    version         INTEGER NOT NULL CHECK (version >= 1),
    metadata        TEXT    CHECK (metadata IS NULL OR json_valid(metadata)),
    external_id     TEXT,
    -- Why the order failed, while it is FAILED.
    failure_code    TEXT    CHECK (failure_code IS NULL OR status = 4),
    failure_message TEXT    CHECK ((failure_code IS NULL) = (failure_message IS NULL)),
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Pages of one user's orders, newest first.
CREATE INDEX orders_user_id_id_idx ON orders (user_id, id);
