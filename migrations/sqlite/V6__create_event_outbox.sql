-- Committed events that wait to be published to a system outside. Nothing is written here
-- unless the program was told of one: it then makes triggers on orders and order_events, and
-- drops them again.
CREATE TABLE event_outbox (
    -- The positions of one order rise with its versions. AUTOINCREMENT never gives one out
    -- again: a process that is late in removing what it published removes nothing else.
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    -- What happened is in orders (version 1) and order_events.
    order_id BLOB    NOT NULL REFERENCES orders (id),
    version  INTEGER NOT NULL
) STRICT;

-- Which process publishes: at most one row.
CREATE TABLE event_relay (
    is_only   INTEGER NOT NULL PRIMARY KEY DEFAULT 1 CHECK (is_only = 1),
    -- Made by each process for itself.
    relay     BLOB    NOT NULL CHECK (length(relay) = 16),
    -- Until when.
    lease_end INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
