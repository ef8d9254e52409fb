-- Ends in a commit of its own, if commits wait for standbys: it is in the log behind everything
-- that could be read before, so whoever waits for it has waited for that, too.
SELECT CASE WHEN current_setting('synchronous_standby_names') <> ''
    THEN pg_logical_emit_message(true, 'order-system', '')::text END
