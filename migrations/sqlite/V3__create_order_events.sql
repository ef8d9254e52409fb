-- The history of orders, append-only: one row for each version from 2 on, without gaps.
-- Version 1 is the order row itself: PENDING at created_at.
CREATE TABLE order_events (
    order_id      BLOB    NOT NULL REFERENCES orders (id),
    version       INTEGER NOT NULL CHECK (version >= 2),
    -- The status the order moved to, coded as in orders.
    status        INTEGER NOT NULL CHECK (status BETWEEN 1 AND 5),
    at            INTEGER NOT NULL,
    -- Why, where there is a reason to give.
    cause_code    TEXT,
    cause_message TEXT    CHECK ((cause_code IS NULL) = (cause_message IS NULL)),
    PRIMARY KEY (order_id, version)
) STRICT, WITHOUT ROWID;
