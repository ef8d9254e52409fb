-- Lists of orders by status, newest first, without an index on the status itself. A list of
-- PROCESSING orders does not read a backlog that waits, nor one of PENDING orders those that failed.
CREATE INDEX jobs_unclaimed_idx ON jobs (order_id)
    WHERE attempt = 0 AND due_at <> 9223372036854775807;
CREATE INDEX jobs_claimed_idx ON jobs (order_id)
    WHERE attempt > 0 AND due_at <> 9223372036854775807;
-- Only a cancel writes here.
CREATE INDEX order_events_cancelled_idx ON order_events (order_id) WHERE status = 5;
