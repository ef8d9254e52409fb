-- Keys by which clients repeat a request safely, written together with the order.
CREATE TABLE idempotency_keys (
    -- Whose key it is: two clients may choose the same one.
    owner        TEXT    NOT NULL,
    key          TEXT    NOT NULL,
    -- A key that comes back with another request is a mistake of the client.
    request_hash BLOB    NOT NULL,
    order_id     BLOB    NOT NULL REFERENCES orders (id),
    expires_at   INTEGER NOT NULL,
    PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;

-- Removal of expired keys.
CREATE INDEX idempotency_keys_expires_at_idx ON idempotency_keys (expires_at);
