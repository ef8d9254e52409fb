-- The history of orders, append-only: one row for each version from 2 on, without gaps.
-- Version 1 is the order row itself: PENDING at created_at.
CREATE TABLE order_events (
    order_id uuid        NOT NULL,
    version  integer     NOT NULL CHECK (version >= 2),
    -- The status the order moved to, coded as in orders.
    status   smallint    NOT NULL CHECK (status BETWEEN 1 AND 5),
    at       timestamptz NOT NULL,
    -- Why, where there is a reason to give: {"code": …, "message": …}.
    data     jsonb,
    PRIMARY KEY (order_id, version)
);
