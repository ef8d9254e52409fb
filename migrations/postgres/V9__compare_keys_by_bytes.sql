-- Keys are compared for equality and never shown in an order of their own. By bytes that is
-- cheaper, and the indexes stay right when an update of the operating system changes a collation.
ALTER TABLE orders
    ALTER COLUMN user_id TYPE text COLLATE "C",
    ALTER COLUMN external_id TYPE text COLLATE "C";
-- Made anew to come last again, for the reason given where it was made first.
ALTER TABLE orders DROP CONSTRAINT orders_pkey, ADD CONSTRAINT orders_pkey PRIMARY KEY (id);

ALTER TABLE idempotency_keys
    ALTER COLUMN owner TYPE text COLLATE "C",
    ALTER COLUMN key TYPE text COLLATE "C";

ALTER TABLE secrets ALTER COLUMN name TYPE text COLLATE "C";
