//! Idempotency keys: what they are known by, and their way to the database and back.

use order_core::{Fingerprint, IdempotencyKey, KeyClaim, KeyOperation, OrderId, StoredKey, UserId};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{errors::Fault, pool::Columns, row::micros};

/// What a key was used for. One that has expired counts until it is removed.
pub(super) const FIND_SQL: &str = "SELECT request_hash, order_id FROM idempotency_keys \
    WHERE owner = $1 AND operation = $2 AND key = $3";

/// What a key is known by.
pub(super) type KeyId<'a> = (&'a UserId, KeyOperation, &'a IdempotencyKey);

/// What the key of a claim is known by.
pub(super) fn key_id(claim: &KeyClaim) -> KeyId<'_> {
    (&claim.owner, claim.operation, &claim.key)
}

/// The code of an operation.
pub(super) fn operation_code(operation: KeyOperation) -> i16 {
    operation.code().into()
}

/// The five columns of claims in a batch, with NULL where there is none.
pub(super) fn key_columns<'a>(
    claims: impl Iterator<Item = Option<&'a KeyClaim>> + Clone,
) -> Columns<'a> {
    let owners = claims.clone().map(|c| c.map(|c| c.owner.as_str()));
    let operations = claims
        .clone()
        .map(|c| c.map(|c| operation_code(c.operation)));
    let keys = claims.clone().map(|c| c.map(|c| c.key.as_str()));
    let fingerprints = claims
        .clone()
        .map(|c| c.map(|c| &c.fingerprint.as_bytes()[..]));
    let retentions = claims.map(|c| c.map(|c| micros(c.retention)));
    vec![
        Box::new(owners.collect::<Vec<_>>()),
        Box::new(operations.collect::<Vec<_>>()),
        Box::new(keys.collect::<Vec<_>>()),
        Box::new(fingerprints.collect::<Vec<_>>()),
        Box::new(retentions.collect::<Vec<_>>()),
    ]
}

/// Reads a stored key from its fingerprint and its order; `None` if they are NULL.
pub(super) fn read_stored(row: &Row, column: usize) -> Result<Option<StoredKey>, Fault> {
    let fingerprint: Option<&[u8]> = row.try_get(column)?;
    let order_id: Option<Uuid> = row.try_get(column + 1)?;
    let (Some(fingerprint), Some(order_id)) = (fingerprint, order_id) else {
        return Ok(None);
    };
    let fingerprint = fingerprint
        .try_into()
        .map_err(|_| Fault::Defect("a stored fingerprint does not have 32 bytes".into()))?;
    Ok(Some(StoredKey {
        fingerprint: Fingerprint::from_bytes(fingerprint),
        order_id: OrderId::from_uuid(order_id),
    }))
}
