-- The change that appended the event, named by the program that asked for it; NULL if it has no
-- name. A program that lost the answer to a commit recognises its own change by it.
ALTER TABLE order_events ADD COLUMN change_id BLOB;
