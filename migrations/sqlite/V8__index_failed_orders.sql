-- Failed orders are those whose job is buried. Without this a list of them would read all jobs.
CREATE INDEX jobs_buried_idx ON jobs (order_id) WHERE due_at = 9223372036854775807;
