-- Who holds a job is explicit, and an attempt counts when work begins, not when it is claimed.
-- Programs from before this do not know the columns; what they read still holds:
-- attempt - attempts_before is the attempt of the round that a claim stands for.
ALTER TABLE jobs
    -- The claim that holds the job; NULL: nobody does. A due job that is held was abandoned: its
    -- last claim ended without a result.
    ADD COLUMN claim_id uuid,
    -- Whether work under the current claim has begun, as far as the database was told.
    ADD COLUMN is_begun boolean NOT NULL DEFAULT false,
    -- The last attempt that was reported as failed and is retried.
    ADD COLUMN retried  integer;

-- The attempt whose report moved the order; NULL if something else did.
ALTER TABLE order_events ADD COLUMN attempt integer;
