-- Who holds a job is explicit, and an attempt counts when work begins, not when it is claimed.

-- Whether a claim holds the job. A due job that is held was abandoned: its last claim ended
-- without a result.
ALTER TABLE jobs ADD COLUMN is_held INTEGER NOT NULL DEFAULT 0;
-- Whether work under the current claim has begun, as far as the database was told.
ALTER TABLE jobs ADD COLUMN is_begun INTEGER NOT NULL DEFAULT 0;
-- The last attempt that was reported as failed and is retried.
ALTER TABLE jobs ADD COLUMN retried INTEGER;

-- The attempt whose report moved the order; NULL if something else did.
ALTER TABLE order_events ADD COLUMN attempt INTEGER;
