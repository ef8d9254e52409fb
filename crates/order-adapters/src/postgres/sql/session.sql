-- Settings of every connection. Those the server does not know are left out, so that one
-- program runs on all supported versions.
SELECT set_config(wanted.name, wanted.value, false)
FROM (VALUES
    -- Nobody waits longer for an answer, and nothing holds a lock for longer.
    ('statement_timeout', '5s'),
    ('lock_timeout', '1s'),
    ('idle_in_transaction_session_timeout', '10s'),
    ('transaction_timeout', '15s'),
    -- The server notices in seconds, not hours, that this process is gone, and frees its
    -- locks: while it answers, while it runs a statement, and while it waits.
    ('tcp_user_timeout', '10s'),
    ('client_connection_check_interval', '5s'),
    ('tcp_keepalives_idle', '15'),
    ('tcp_keepalives_interval', '5'),
    ('tcp_keepalives_count', '3'),
    -- Every statement reaches its tables through an index, by a list of ids or in the order
    -- of a key, and joins lists of a batch's length. With all else switched off, plans do
    -- not depend on statistics, and one made while the jobs table is empty stays right when
    -- a million jobs wait a second later. So it is made once and kept.
    ('plan_cache_mode', 'force_generic_plan'),
    ('enable_seqscan', 'off'),
    ('enable_bitmapscan', 'off'),
    ('enable_nestloop', 'off'),
    ('enable_mergejoin', 'off'),
    ('jit', 'off')
) AS wanted (name, value)
WHERE EXISTS (SELECT FROM pg_settings known WHERE known.name = wanted.name)
