-- Gives back what claims hold whose outcome their process never learnt: they may have been
-- committed, and nobody works on their jobs. $1 claim_ids; their leases end between $2 and $3
-- microseconds from now. Returns the claim of each job that was given back.
WITH found AS (
    SELECT order_id, claim_id FROM jobs
    WHERE due_at BETWEEN now() + $2::bigint * interval '1 microsecond'
            AND now() + $3::bigint * interval '1 microsecond'
        AND claim_id = ANY ($1)
    FOR UPDATE SKIP LOCKED
),
given_back AS (
    UPDATE jobs
    SET due_at = now(), attempts_before = attempts_before + 1, claim_id = NULL, is_begun = false
    WHERE order_id = ANY (ARRAY(SELECT order_id FROM found))
    RETURNING order_id
)
SELECT found.claim_id FROM found JOIN given_back ON given_back.order_id = found.order_id
