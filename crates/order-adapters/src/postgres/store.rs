//! Orders and their history.

use std::{collections::BTreeSet, sync::atomic::Ordering};

use async_trait::async_trait;
use jiff::Timestamp;
use order_core::{
    Backlog, CallContext, Change, Committed, Created, DeadLetterGroup, Error, IdempotencyKey,
    KeyOperation, Listing, NewOrder, NewTicket, Order, OrderEvent, OrderId, OrderQuery, OrderReads,
    OrderState, OrderStore, PageTokenKey, RESPONSE_BYTES_MAX, StoredKey, TicketGrant, UserId,
    Version,
};
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use super::{
    PostgresStore,
    errors::Fault,
    key::{self, operation_code, read_stored},
    list, migration,
    pool::Answers,
    row::{self, ORDER_COLUMNS, ids, micros, readable},
};

/// The name of the secret that seals page tokens.
const PAGE_TOKEN_KEY: &str = "page_token_key";

/// The name under which a probe writes, and how many bytes.
const WRITE_PROBE: &str = "write_probe";
const PROBE_LEN: usize = 64 * 1024;

/// The items in the order of their keys, the first of those with equal keys.
pub(super) fn ascending<T, K: Ord>(items: &[T], key: fn(&T) -> K) -> Vec<&T> {
    let mut items: Vec<&T> = items.iter().collect();
    // Stable, and deduplication keeps the first.
    items.sort_by_key(|item| key(item));
    items.dedup_by_key(|item| key(item));
    items
}

/// The row of a statement that always returns one.
pub(super) fn only(rows: &[Row]) -> Result<&Row, Error> {
    rows.first()
        .ok_or_else(|| Error::internal("a statement returned no row"))
}

impl PostgresStore {
    /// The orders among `ids` that exist; an error for each that cannot be read.
    pub(super) async fn find_all(&self, ids: Vec<Uuid>) -> Result<Answers<OrderId, Order>, Error> {
        if ids.is_empty() {
            return Ok(Answers::default());
        }
        let sql = format!("SELECT {ORDER_COLUMNS} FROM orders WHERE id = ANY ($1)");
        let rows = self.requests.query(&sql, &[&ids]).await?;
        let order = |row| {
            let order = row::order(row).map_err(Error::from);
            Ok((row::order_id(row, 0)?, order))
        };
        rows.iter().map(order).collect()
    }
}

impl PostgresStore {
    /// Tries a write if one has failed because the server's disk was full or failing. The row
    /// is several pages of random bytes, which cannot be compressed, so that the table grows.
    async fn check_writes(&self, ctx: &CallContext) -> Result<(), Error> {
        if !self.is_exhausted.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut bytes = vec![0_u8; PROBE_LEN];
        rand::fill(&mut bytes[..]);
        let write = "INSERT INTO secrets (name, value) VALUES ($1, $2) \
            ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        let remove = "DELETE FROM secrets WHERE name = $1";
        let probe = &WRITE_PROBE as &(dyn ToSql + Sync);
        self.readiness.read(ctx, write, &[probe, &bytes]).await?;
        self.readiness.read(ctx, remove, &[probe]).await?;
        self.is_exhausted.store(false, Ordering::Relaxed);
        Ok(())
    }
}

#[async_trait]
impl OrderReads for PostgresStore {
    async fn find(&self, ctx: &CallContext, order_id: OrderId) -> Result<Option<Order>, Error> {
        let sql = format!("SELECT {ORDER_COLUMNS} FROM orders WHERE id = $1");
        let rows = self.requests.read(ctx, &sql, &[order_id.as_uuid()]).await?;
        Ok(rows.first().map(row::order).transpose()?)
    }

    async fn events(
        &self,
        ctx: &CallContext,
        order_id: OrderId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<OrderEvent>, Error> {
        let after = i32::try_from(after).unwrap_or(i32::MAX);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self
            .requests
            .read(
                ctx,
                include_str!("sql/events.sql"),
                &[order_id.as_uuid(), &after, &limit],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(OrderEvent {
                    order_id,
                    version: row::number(row, 0)?,
                    status: row::status(row, 1)?,
                    at: row.try_get(2).map_err(Fault::from)?,
                    user_id: row::user_id(row, 3)?,
                    cause: row::cause(row, 4)?,
                    trace_parent: None,
                })
            })
            .collect()
    }

    async fn states(&self, order_ids: &[OrderId]) -> Result<Vec<OrderState>, Error> {
        if order_ids.is_empty() {
            return Ok(Vec::new());
        }
        let sql = include_str!("sql/states.sql");
        let rows = self.maintenance.query(sql, &[&ids(order_ids)]).await?;
        Ok(readable(&rows, row::state))
    }

    async fn recent_states(
        &self,
        user_ids: &[UserId],
        limit_per_user: usize,
    ) -> Result<Vec<OrderState>, Error> {
        let users: BTreeSet<_> = user_ids.iter().map(UserId::as_str).collect();
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let users = Vec::from_iter(users);
        let limit = i64::try_from(limit_per_user).unwrap_or(i64::MAX);
        let sql = include_str!("sql/recent_states.sql");
        let rows = self.maintenance.query(sql, &[&users, &limit]).await?;
        Ok(readable(&rows, row::state))
    }
}

#[async_trait]
impl OrderStore for PostgresStore {
    async fn create(&self, orders: &[NewOrder]) -> Vec<Result<Created, Error>> {
        self.create_all(orders).await
    }

    async fn commit(&self, changes: &[Change]) -> Vec<Result<Committed, Error>> {
        self.commit_all(changes).await
    }

    async fn has_change(
        &self,
        ctx: &CallContext,
        order_id: OrderId,
        change_id: Uuid,
    ) -> Result<bool, Error> {
        let sql = "SELECT FROM order_events WHERE order_id = $1 AND change_id = $2";
        let params: [&(dyn ToSql + Sync); 2] = [order_id.as_uuid(), &change_id];
        Ok(!self.requests.read(ctx, sql, &params).await?.is_empty())
    }

    async fn find_key(
        &self,
        ctx: &CallContext,
        owner: &UserId,
        operation: KeyOperation,
        key: &IdempotencyKey,
    ) -> Result<Option<StoredKey>, Error> {
        let params: [&(dyn ToSql + Sync); 3] =
            [&owner.as_str(), &operation_code(operation), &key.as_str()];
        let rows = self.requests.read(ctx, key::FIND_SQL, &params).await?;
        let stored = rows.first().map(|row| read_stored(row, 0));
        Ok(stored.transpose()?.flatten())
    }

    async fn list(&self, ctx: &CallContext, query: &OrderQuery) -> Result<Vec<Order>, Error> {
        let (mut query, mut listing) = (query.clone(), Listing::new(query));
        while listing.n_missing() > 0 {
            query.limit = listing.n_missing();
            let rows = {
                let page = list::page(&query);
                let params: Vec<_> = page.params.iter().map(|param| &**param as _).collect();
                self.lists.read(ctx, &page.sql, &params).await?
            };
            for order in readable(&rows, row::order) {
                listing.push(order);
            }
            // A page that is not full is the last one, so rows that cannot be read are made up
            // for by those behind them.
            let n_bytes: usize = rows.iter().map(Row::raw_size_bytes).sum();
            let has_more = rows.len() == query.limit || n_bytes > RESPONSE_BYTES_MAX;
            let Some(last) = rows.last().filter(|_| has_more) else {
                break;
            };
            query.before = Some(row::order_id(last, 0)?);
        }
        Ok(listing.into_orders())
    }

    async fn put_ticket(&self, ticket: &NewTicket) -> Result<Timestamp, Error> {
        let digest = &ticket.digest[..];
        let user_id = ticket.grant.user_id.as_str();
        let lifetime = micros(ticket.lifetime);
        let sql = include_str!("sql/put_ticket.sql");
        let rows = self
            .requests
            .query(sql, &[&digest, &user_id, &lifetime])
            .await?;
        let expires_at = only(&rows)?.try_get(0).map_err(Fault::from)?;
        Ok(expires_at)
    }

    async fn take_ticket(&self, digest: &[u8; 32]) -> Result<Option<TicketGrant>, Error> {
        // Repeated after a broken connection it may not find what it took itself; then the
        // client asks for another ticket.
        let sql = "DELETE FROM stream_tickets WHERE digest = $1 AND expires_at > now() \
            RETURNING user_id";
        let rows = self.requests.query(sql, &[&&digest[..]]).await?;
        let grant = |row| row::user_id(row, 0).map(|user_id| TicketGrant { user_id });
        Ok(rows.first().map(grant).transpose()?)
    }

    async fn page_token_key(&self) -> Result<PageTokenKey, Error> {
        let offered: [u8; 32] = rand::random();
        let offer = "INSERT INTO secrets (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        self.requests
            .query(offer, &[&PAGE_TOKEN_KEY, &&offered[..]])
            .await?;
        // A statement of its own sees whichever process was first.
        let read = "SELECT value FROM secrets WHERE name = $1";
        let rows = self.requests.query(read, &[&PAGE_TOKEN_KEY]).await?;
        let value: &[u8] = only(&rows)?.try_get(0).map_err(Fault::from)?;
        let value = value
            .try_into()
            .map_err(|_| Error::internal("the stored page token key does not have 32 bytes"))?;
        Ok(PageTokenKey::from_bytes(value))
    }

    async fn prune(&self, limit: usize) -> Result<usize, Error> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = include_str!("sql/prune.sql");
        let rows = self.maintenance.query(sql, &[&limit]).await?;
        let n_pruned: i64 = only(&rows)?.try_get(0).map_err(Fault::from)?;
        usize::try_from(n_pruned).map_err(Error::internal)
    }

    async fn dead_letters(&self, ctx: &CallContext) -> Result<Vec<DeadLetterGroup>, Error> {
        self.count_dead_letters(ctx).await
    }

    async fn backlog(&self) -> Result<Backlog, Error> {
        self.read_backlog().await
    }

    async fn confirm(&self, ctx: &CallContext) -> Result<(), Error> {
        let confirmed = self.requests.read(ctx, super::CONFIRM, &[]).await;
        confirmed.map(drop)
    }

    async fn check(&self, ctx: &CallContext) -> Result<(), Error> {
        let needed = &migration::VERSION_NEEDED;
        let rows = self
            .readiness
            .read(ctx, migration::CHECK_SQL, &[needed])
            .await?;
        let row = rows.first().map(|row| -> Result<_, Fault> {
            let (has_schema, is_writable): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
            Ok((has_schema, is_writable))
        });
        match row.transpose()? {
            Some((true, true)) => self.check_writes(ctx).await,
            Some((true, false)) => Err(Error::store_unavailable("the database is read-only")),
            _ => Err(Error::store_unavailable(
                "the schema of the database is older than this program needs",
            )),
        }
    }
}
