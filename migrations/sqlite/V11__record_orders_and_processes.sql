-- What operators see of an order and of the processes. All new columns may be NULL: programs from
-- before this run beside those that know them.

-- The id of the request that made the order, and the process that took it from the client.
ALTER TABLE orders ADD COLUMN request_id TEXT;
ALTER TABLE orders ADD COLUMN gateway TEXT;

-- The process that made the last claim.
ALTER TABLE jobs ADD COLUMN holder INTEGER;

-- The process whose report moved the order, and when its attempt began.
ALTER TABLE order_events ADD COLUMN worker TEXT;
ALTER TABLE order_events ADD COLUMN begun_at INTEGER;

-- Attempts that ended without an event; the others are in order_events.
CREATE TABLE order_attempts (
    order_id BLOB    NOT NULL REFERENCES orders (id),
    attempt  INTEGER NOT NULL,
    -- The process that ran it.
    worker   TEXT,
    begun_at INTEGER,
    ended_at INTEGER NOT NULL,
    -- 1 the job is retried, 2 the lease ran out. The codes differ from those of orders.status by
    -- which other attempts ended.
    outcome  INTEGER NOT NULL CHECK (outcome BETWEEN 1 AND 2),
    error    TEXT,
    -- When the next attempt may begin.
    next_at  INTEGER,
    PRIMARY KEY (order_id, attempt)
) STRICT, WITHOUT ROWID;

-- Processes, as they report themselves every few seconds.
CREATE TABLE processes (
    -- Random.
    id         INTEGER NOT NULL PRIMARY KEY,
    program    TEXT    NOT NULL,
    -- host:pid.
    place      TEXT    NOT NULL,
    version    TEXT    NOT NULL,
    started_at INTEGER NOT NULL,
    -- Of the last report.
    seen_at    INTEGER NOT NULL,
    figures    TEXT    NOT NULL CHECK (json_valid(figures)),
    is_paused  INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Whether all processes are paused: at most one row.
CREATE TABLE all_processes (
    is_only   INTEGER NOT NULL PRIMARY KEY DEFAULT 1 CHECK (is_only = 1),
    is_paused INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
