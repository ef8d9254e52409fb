//! The SQL of stream tickets, and of the secret that seals page tokens.

use jiff::Timestamp;
use order_core::{NewTicket, PageTokenKey, TicketGrant};
use rusqlite::{Connection, OptionalExtension as _, named_params};

use super::rows::{later, read_time, read_user_id, to_limit};

/// A ticket that is there is the same one, stored again by a caller that missed the answer.
const PUT_TICKET: &str = "\
INSERT INTO stream_tickets (digest, user_id, expires_at)
VALUES (:digest, :user_id, :expires_at)
ON CONFLICT (digest) DO UPDATE SET expires_at = :expires_at
RETURNING expires_at";

/// Stores a ticket and returns when it expires.
pub(super) fn put_ticket(
    connection: &Connection,
    now: i64,
    ticket: &NewTicket,
) -> rusqlite::Result<Timestamp> {
    connection.prepare_cached(PUT_TICKET)?.query_row(
        named_params! {
            ":digest": ticket.digest,
            ":user_id": ticket.grant.user_id.as_str(),
            ":expires_at": later(now, ticket.lifetime),
        },
        |row| read_time(row, 0),
    )
}

const TAKE_TICKET: &str = "\
DELETE FROM stream_tickets WHERE digest = :digest RETURNING user_id, expires_at <= :now";

/// Removes a ticket and returns what it allows, unless it has expired.
pub(super) fn take_ticket(
    connection: &Connection,
    now: i64,
    digest: &[u8; 32],
) -> rusqlite::Result<Option<TicketGrant>> {
    let taken = connection
        .prepare_cached(TAKE_TICKET)?
        .query_row(named_params! { ":digest": digest, ":now": now }, |row| {
            let user_id = read_user_id(row, 0)?;
            Ok((TicketGrant { user_id }, row.get(1)?))
        })
        .optional()?;
    Ok(taken.and_then(|(grant, is_expired): (_, bool)| (!is_expired).then_some(grant)))
}

const PRUNE_TICKETS: &str = "\
DELETE FROM stream_tickets WHERE digest IN (
  SELECT digest FROM stream_tickets
  WHERE expires_at <= :now ORDER BY expires_at LIMIT :limit)";

/// Removes tickets that have expired, and returns how many.
pub(super) fn prune_tickets(
    connection: &Connection,
    now: i64,
    limit: usize,
) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(PRUNE_TICKETS)?
        .execute(named_params! { ":now": now, ":limit": to_limit(limit) })
}

/// The update changes nothing: it is there for the row to be returned.
const PAGE_TOKEN_KEY: &str = "\
INSERT INTO secrets (name, value) VALUES ('page_token_key', :random)
ON CONFLICT (name) DO UPDATE SET value = value
RETURNING value";

/// The secret that seals page tokens: `random`, unless there is one already.
pub(super) fn page_token_key(
    connection: &Connection,
    random: [u8; 32],
) -> rusqlite::Result<PageTokenKey> {
    connection
        .prepare_cached(PAGE_TOKEN_KEY)?
        .query_row(named_params! { ":random": random }, |row| {
            row.get(0).map(PageTokenKey::from_bytes)
        })
}
