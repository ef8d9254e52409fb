-- Stores ticket $1 of user $2 for $3 microseconds. Nobody has two equal tickets, so one that is
-- there is this very one, put a moment ago on a connection that broke.
INSERT INTO stream_tickets (digest, user_id, expires_at)
VALUES ($1, $2, now() + $3::bigint * interval '1 microsecond')
ON CONFLICT (digest) DO UPDATE SET expires_at = excluded.expires_at
RETURNING expires_at
