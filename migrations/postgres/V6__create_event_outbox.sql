-- Committed events that wait to be published to a system outside. Nothing is written here
-- unless the program was told of one: it then puts the functions below as triggers on orders
-- and order_events, and drops them again. Triggers that are there but disabled would have the
-- server copy every inserted row for them.
CREATE TABLE event_outbox (
    -- Drawn by the transaction that commits the event, while it holds the lock of its order:
    -- the positions of one order rise with its versions. Across orders they say nothing, so
    -- nobody may take "after the last one I have seen" for "new".
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- What happened is in orders (version 1) and order_events. No foreign key, as in jobs.
    order_id uuid    NOT NULL,
    version  integer NOT NULL
) WITH (
    -- As for jobs: rows are deleted at the front of the index, where every read begins.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);

CREATE FUNCTION keep_created_orders() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- However far a row is when it comes, it is version 1 of its history.
    INSERT INTO event_outbox (order_id, version) SELECT id, 1 FROM inserted;
    RETURN NULL;
END
$$;

CREATE FUNCTION keep_order_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- A statement that wrote two versions of one order would get rising positions, too.
    INSERT INTO event_outbox (order_id, version)
    SELECT order_id, version FROM inserted ORDER BY version;
    RETURN NULL;
END
$$;

-- Which process publishes: at most one row.
CREATE TABLE event_relay (
    is_only   boolean     PRIMARY KEY DEFAULT true CHECK (is_only),
    -- Made by each process for itself.
    relay     uuid        NOT NULL,
    -- Until when, by the clock of the database.
    lease_end timestamptz NOT NULL
);
