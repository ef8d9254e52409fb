-- Jobs: the work that an order still needs. The row is deleted when the work is done, so the
-- table stays as small as the backlog. A row with a due_at below the largest integer exists
-- exactly while the order is PENDING or PROCESSING.
CREATE TABLE jobs (
    order_id        BLOB    NOT NULL PRIMARY KEY REFERENCES orders (id),
    -- Raised by every claim and never reset: the fencing token.
    attempt         INTEGER NOT NULL CHECK (attempt >= 0),
    -- Claims that do not count against the current round of attempts.
    attempts_before INTEGER NOT NULL CHECK (attempts_before BETWEEN 0 AND attempt),
    -- May be claimed from then on: the time of creation, of the next retry, or of the end of
    -- the lease. The largest integer is a buried job, which waits for a redrive and has no
    -- valid token.
    due_at          INTEGER NOT NULL,
    -- What went wrong last, for operators.
    last_error      TEXT
) STRICT, WITHOUT ROWID;

-- The order in which jobs are claimed; buried jobs sort behind everything.
CREATE INDEX jobs_due_at_idx ON jobs (due_at);
