-- Orders: one row each, as they stand now. The row is version 1 of the order's history, too;
-- later versions are in order_events.
CREATE TABLE orders (
    -- A UUIDv7 made by the first process that saw the order, so new rows append to the index.
    id              uuid        NOT NULL,
    user_id         text        NOT NULL,
    -- In the minor units of the currency (cents); money is never a floating-point number.
    amount_minor    bigint      NOT NULL CHECK (amount_minor > 0),
    -- ISO 4217.
    currency        char(3)     NOT NULL,
    -- 1 PENDING, 2 PROCESSING, 3 PROCESSED, 4 FAILED, 5 CANCELLED.
    status          smallint    NOT NULL CHECK (status BETWEEN 1 AND 5),
    -- Raised by one with every change.
    version         integer     NOT NULL CHECK (version >= 1),
    metadata        jsonb,
    external_id     text,
    -- Why the order failed, while it is FAILED.
    failure_code    text        CHECK (failure_code IS NULL OR status = 4),
    failure_message text        CHECK ((failure_code IS NULL) = (failure_message IS NULL)),
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL
) WITH (
    -- Half of every page is kept free for the two or three updates in an order's life. With
    -- no index on a column that changes, they stay on the page and touch no index (HOT).
    fillfactor = 50
);

-- Pages of one user's orders, newest first. There is no index on status, version or
-- updated_at, nor a predicate on them, on purpose: it would end HOT updates.
CREATE INDEX orders_user_id_id_idx ON orders (user_id, id);

-- The primary key comes last on purpose. Where two indexes cost the same, as on an empty table,
-- the planner takes the newest, and the program keeps its plans: a lookup by id that was planned
-- on the index above would read all of it.
ALTER TABLE orders ADD CONSTRAINT orders_pkey PRIMARY KEY (id);
