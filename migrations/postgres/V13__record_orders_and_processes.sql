-- What operators see of an order and of the processes. All new columns may be NULL: programs from
-- before this run beside those that know them.

-- The id of the request that made the order, and the process that took it from the client.
ALTER TABLE orders ADD COLUMN request_id text, ADD COLUMN gateway text;

-- The process whose report moved the order, and when its attempt began.
ALTER TABLE order_events ADD COLUMN worker text, ADD COLUMN begun_at timestamptz;

-- Attempts that ended without an event; the others are in order_events.
CREATE TABLE order_attempts (
    -- No foreign key, as in jobs.
    order_id uuid        NOT NULL,
    attempt  integer     NOT NULL,
    -- The process that ran it.
    worker   text,
    begun_at timestamptz,
    ended_at timestamptz NOT NULL,
    -- 1 the job is retried, 2 the lease ran out. The codes differ from those of orders.status by
    -- which other attempts ended.
    outcome  smallint    NOT NULL CHECK (outcome BETWEEN 1 AND 2),
    error    text,
    -- When the next attempt may begin.
    next_at  timestamptz,
    PRIMARY KEY (order_id, attempt)
);

-- Processes, as they report themselves every few seconds.
CREATE TABLE processes (
    -- Random. The first 64 bits of jobs.claim_id name the process that holds the job.
    id         bigint      PRIMARY KEY,
    program    text        NOT NULL,
    -- host:pid.
    place      text        NOT NULL,
    version    text        NOT NULL,
    started_at timestamptz NOT NULL,
    -- Of the last report. Without an index, so that reports stay heap-only.
    seen_at    timestamptz NOT NULL,
    figures    json        NOT NULL,
    is_paused  boolean     NOT NULL DEFAULT false
) WITH (fillfactor = 50);

-- Whether all processes are paused: at most one row.
CREATE TABLE all_processes (
    is_only   boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    is_paused boolean NOT NULL
);

-- The id of the process that made a claim. The id of a claim of an older program is random
-- throughout, so it names no process.
CREATE FUNCTION process_of_claim(claim_id uuid) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT ('x' || left(replace(claim_id::text, '-', ''), 16))::bit(64)::bigint
$$;
