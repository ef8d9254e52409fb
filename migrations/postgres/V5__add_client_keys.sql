-- What clients name things by (idempotency keys, external ids), tickets for streams, and the
-- secrets that all processes share.

-- No version of the program has written a key so far, so nothing is lost.
DROP TABLE idempotency_keys;

-- Keys by which clients repeat a request safely, written together with what the request
-- changed: a key is there exactly if the request took effect.
CREATE TABLE idempotency_keys (
    -- Whose key it is: two users may choose the same one.
    owner        text        NOT NULL,
    -- What it was used for: 1 to create an order, 2 to cancel one.
    operation    smallint    NOT NULL,
    key          text        NOT NULL,
    -- SHA-256 over what the request asked for. A key that comes back with another one is a
    -- mistake of the client.
    request_hash bytea       NOT NULL CHECK (octet_length(request_hash) = 32),
    order_id     uuid        NOT NULL,
    -- A key counts until it is removed, which is some time after this.
    expires_at   timestamptz NOT NULL,
    PRIMARY KEY (owner, operation, key)
);

-- Removal of expired keys.
CREATE INDEX idempotency_keys_expires_at_idx ON idempotency_keys (expires_at);

-- One order for each external id of a user. The external id comes first, so that a list
-- filtered by nothing else is a range of this index, too. Neither column ever changes, nor
-- does what the predicate says, so status updates stay HOT; and an order without an external
-- id has no entry.
CREATE UNIQUE INDEX orders_external_id_user_id_idx ON orders (external_id, user_id)
    WHERE external_id IS NOT NULL;

-- Tickets that open a stream, removed when they are redeemed.
CREATE TABLE stream_tickets (
    -- SHA-256 of the ticket: who reads the table cannot redeem anything.
    digest     bytea       PRIMARY KEY CHECK (octet_length(digest) = 32),
    -- Whose orders the ticket shows.
    user_id    text        NOT NULL,
    expires_at timestamptz NOT NULL
);

-- Removal of tickets nobody redeemed.
CREATE INDEX stream_tickets_expires_at_idx ON stream_tickets (expires_at);

-- Random bytes that all processes on this database share, made by the first that needs them.
CREATE TABLE secrets (
    name  text  PRIMARY KEY,
    value bytea NOT NULL
);
