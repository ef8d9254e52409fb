-- Cancelled orders are found by their events. Only a cancel writes here.
CREATE INDEX order_events_cancelled_idx ON order_events (order_id) WHERE status = 5;
