-- Keys by which clients repeat a request safely, written together with the order.
CREATE TABLE idempotency_keys (
    -- Whose key it is: two clients may choose the same one.
    owner        text        NOT NULL,
    key          text        NOT NULL,
    -- A key that comes back with another request is a mistake of the client.
    request_hash bytea       NOT NULL,
    order_id     uuid        NOT NULL,
    expires_at   timestamptz NOT NULL,
    PRIMARY KEY (owner, key)
);

-- Removal of expired keys.
CREATE INDEX idempotency_keys_expires_at_idx ON idempotency_keys (expires_at);
