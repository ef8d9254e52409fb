-- Jobs: the work that an order still needs. The row is deleted when the work is done, so the
-- table stays as small as the backlog.
--
-- The lock on a row here is the mutex of its order: whoever moves an order out of PENDING or
-- PROCESSING holds it first. A row with a finite due_at exists exactly while the order is
-- PENDING or PROCESSING.
CREATE TABLE jobs (
    -- No foreign key: order and job are written by one statement, and checking every row
    -- again would lock the order before its job.
    order_id        uuid        PRIMARY KEY,
    -- Raised by every claim and never reset: the fencing token.
    attempt         integer     NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    -- Claims that do not count against the current round of attempts.
    attempts_before integer     NOT NULL DEFAULT 0 CHECK (attempts_before BETWEEN 0 AND attempt),
    -- May be claimed from then on: the time of creation, of the next retry, or of the end of
    -- the lease. 'infinity' is a buried job, which waits for a redrive and has no valid token.
    due_at          timestamptz NOT NULL,
    -- What went wrong last, for operators.
    last_error      text
) WITH (
    fillfactor = 70,
    -- Dead rows at the front of the due index are read by every claim, so they are cleaned
    -- by number and not by share of a table that is empty most of the time.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);

-- The order in which jobs are claimed; buried jobs sort behind everything.
CREATE INDEX jobs_due_at_idx ON jobs (due_at);
