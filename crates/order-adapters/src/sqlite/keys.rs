//! The SQL of idempotency keys. Whether a key was expired is asked only when it is removed:
//! as long as it is there, it counts.

use order_core::{Fingerprint, IdempotencyKey, KeyClaim, KeyOperation, OrderId, StoredKey, UserId};
use rusqlite::{Connection, OptionalExtension as _, named_params};

use super::rows::{key, later, read_id, to_limit};

const FIND: &str = "\
SELECT request_hash, order_id FROM idempotency_keys
WHERE owner = :owner AND operation = :operation AND key = :key";

/// Reads what a key was used for.
pub(super) fn find(
    connection: &Connection,
    owner: &UserId,
    operation: KeyOperation,
    key: &IdempotencyKey,
) -> rusqlite::Result<Option<StoredKey>> {
    connection
        .prepare_cached(FIND)?
        .query_row(
            named_params! {
                ":owner": owner.as_str(),
                ":operation": operation.code(),
                ":key": key.as_str(),
            },
            |row| {
                Ok(StoredKey {
                    fingerprint: Fingerprint::from_bytes(row.get(0)?),
                    order_id: read_id(row, 1)?,
                })
            },
        )
        .optional()
}

/// Reads what the key of a request was used for.
pub(super) fn find_claimed(
    connection: &Connection,
    claim: &KeyClaim,
) -> rusqlite::Result<Option<StoredKey>> {
    find(connection, &claim.owner, claim.operation, &claim.key)
}

const INSERT: &str = "\
INSERT INTO idempotency_keys (owner, operation, key, request_hash, order_id, expires_at)
VALUES (:owner, :operation, :key, :request_hash, :order_id, :expires_at)";

/// Stores a key that is not there.
pub(super) fn insert(
    connection: &Connection,
    now: i64,
    claim: &KeyClaim,
    order_id: OrderId,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(INSERT)?
        .execute(named_params! {
            ":owner": claim.owner.as_str(),
            ":operation": claim.operation.code(),
            ":key": claim.key.as_str(),
            ":request_hash": claim.fingerprint.as_bytes(),
            ":order_id": key(order_id),
            ":expires_at": later(now, claim.retention),
        })
        .map(drop)
}

const PRUNE: &str = "\
DELETE FROM idempotency_keys WHERE (owner, operation, key) IN (
  SELECT owner, operation, key FROM idempotency_keys
  WHERE expires_at <= :now ORDER BY expires_at LIMIT :limit)";

/// Removes keys that have expired, and returns how many.
pub(super) fn prune(connection: &Connection, now: i64, limit: usize) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(PRUNE)?
        .execute(named_params! { ":now": now, ":limit": to_limit(limit) })
}
