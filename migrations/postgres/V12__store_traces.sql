-- Where the request that made the order is in a distributed trace, as a W3C `traceparent`, if that
-- trace is recorded. A worker continues the trace with it, however much later.
ALTER TABLE orders ADD COLUMN trace_parent text;
