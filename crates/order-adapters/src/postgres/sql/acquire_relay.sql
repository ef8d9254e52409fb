-- Takes or renews the right to publish for relay $1, for $2 microseconds. No row: another
-- relay has it.
INSERT INTO event_relay (relay, lease_end)
VALUES ($1, now() + $2::bigint * interval '1 microsecond')
ON CONFLICT (is_only) DO UPDATE SET relay = excluded.relay, lease_end = excluded.lease_end
WHERE event_relay.relay = excluded.relay OR event_relay.lease_end <= now()
RETURNING relay
