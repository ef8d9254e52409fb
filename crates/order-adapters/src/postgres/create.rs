//! New orders, with and without idempotency keys.
//!
//! What is in the way of an order is found by its insert, and told apart by reads after it:
//! an order without trouble costs one statement. Orders without keys have a statement of
//! their own, which knows nothing of keys.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use order_core::{
    Created, Error, ExternalId, Insertion, Money, NewOrder, Order, OrderId, OrderStatus, RequestId,
    StoredKey, TraceParent, UserId,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    CONFIRM, PostgresStore,
    errors::Fault,
    key::{KeyId, key_columns, key_id, read_stored},
    pool::{Answers, BatchStatement, Columns},
    row::{self, ids, metadata_text, micros},
};

/// The most orders of a statement with keys. Each key is a lock in the server's table of
/// locks, which by default has room for 6,400.
const KEYED_LEN_MAX: usize = 128;

/// How often the next of several orders with the same id or key in one slice has its turn,
/// because the one before it was refused.
const ROUNDS_MAX: usize = 3;

/// What became of an order that was sent to the database.
#[derive(Clone, Copy)]
enum Outcome {
    /// It is stored, with its job and its key.
    Inserted(Timestamp),
    /// Its key was there before.
    Known(StoredKey),
    /// Another transaction is storing its key.
    InProgress,
    /// Its id or its external id is taken.
    Taken,
}

/// An order that is sent to the database.
struct Sent<'a> {
    order: &'a NewOrder,
    /// The claim that holds its job, if that is born leased.
    claim_id: Uuid,
}

fn create<'a>() -> BatchStatement<Sent<'a>, OrderId, Outcome> {
    BatchStatement {
        sql: include_str!("sql/create.sql"),
        columns: order_columns,
        key: |sent| sent.order.id,
        read_key: |row| row::order_id(row, 0),
        read: |row| Ok(Outcome::Inserted(row.try_get(1)?)),
    }
}

fn create_keyed<'a>() -> BatchStatement<Sent<'a>, OrderId, Outcome> {
    BatchStatement {
        sql: include_str!("sql/create_keyed.sql"),
        columns: |sent| {
            let mut columns = order_columns(sent);
            columns.extend(key_columns(sent.iter().map(|sent| sent.order.key.as_ref())));
            columns
        },
        key: |sent| sent.order.id,
        read_key: |row| row::order_id(row, 0),
        read: |row| {
            let created_at: Option<Timestamp> = row.try_get(1)?;
            let is_free: Option<bool> = row.try_get(4)?;
            Ok(match (created_at, read_stored(row, 2)?) {
                (Some(created_at), _) => Outcome::Inserted(created_at),
                (None, Some(stored)) => Outcome::Known(stored),
                (None, None) if is_free == Some(false) => Outcome::InProgress,
                (None, None) => Outcome::Taken,
            })
        },
    }
}

fn order_columns<'a>(sent: &'a [Sent<'_>]) -> Columns<'a> {
    let orders = || sent.iter().map(|sent| sent.order);
    let users = orders().map(|order| order.user_id.as_str());
    let money = || orders().map(|order| &order.money);
    let metadata = orders().map(|order| metadata_text(&order.metadata));
    let external_ids = orders().map(|order| &order.external_id);
    let external_ids = external_ids.map(|id| id.as_ref().map(ExternalId::as_str));
    let leases = orders().map(|order| order.lease.map(micros));
    let traces = orders().map(|order| order.trace_parent.as_ref());
    let request_ids = orders().map(|order| order.request_id.as_ref());
    let gateways = orders().map(|order| order.gateway.as_deref());
    vec![
        Box::new(ids(orders().map(|order| &order.id))),
        Box::new(users.collect::<Vec<_>>()),
        Box::new(money().map(Money::minor_units).collect::<Vec<_>>()),
        Box::new(money().map(Money::currency).collect::<Vec<_>>()),
        Box::new(metadata.collect::<Vec<_>>()),
        Box::new(external_ids.collect::<Vec<_>>()),
        Box::new(leases.collect::<Vec<_>>()),
        Box::new(sent.iter().map(|sent| sent.claim_id).collect::<Vec<_>>()),
        Box::new(
            traces
                .map(|trace| trace.map(TraceParent::as_str))
                .collect::<Vec<_>>(),
        ),
        Box::new(
            request_ids
                .map(|id| id.map(RequestId::as_str))
                .collect::<Vec<_>>(),
        ),
        Box::new(gateways.collect::<Vec<_>>()),
    ]
}

/// The orders that are sent to the database: of those with the same id or the same key the
/// first. They are in the order in which concurrent batches, too, meet at what they share:
/// an external id, or else an id. Of two with the same external id the first stays first.
fn firsts<'a>(orders: &[&'a NewOrder]) -> Vec<&'a NewOrder> {
    let (mut ids, mut keys) = (BTreeSet::new(), BTreeSet::new());
    let mut firsts: Vec<&NewOrder> = orders
        .iter()
        .copied()
        .filter(|order| {
            let key = order.key.as_ref().map(key_id);
            ids.insert(order.id) && key.is_none_or(|key| keys.insert(key))
        })
        .collect();
    firsts.sort_by(|a, b| shared(a).cmp(&shared(b)));
    firsts
}

fn shared(order: &NewOrder) -> (Option<Name<'_>>, Option<OrderId>) {
    let name = name(order);
    (name, name.is_none().then_some(order.id))
}

/// An external id is unique among the orders of a user.
type Name<'a> = (&'a ExternalId, &'a UserId);

fn name(order: &NewOrder) -> Option<Name<'_>> {
    let external_id = order.external_id.as_ref()?;
    Some((external_id, &order.user_id))
}

/// What is known of the keys in a slice once it was sent: their order, or that somebody else
/// is storing it. A key that is missing was not stored, because its order was not.
type Keys<'a> = BTreeMap<KeyId<'a>, Option<StoredKey>>;

fn keys_after<'a>(sent: &[&'a NewOrder], outcomes: &Answers<OrderId, Outcome>) -> Keys<'a> {
    let stored = sent.iter().filter_map(|order| {
        let claim = order.key.as_ref()?;
        let stored = match outcomes.get(&order.id)?.as_ref().ok()? {
            Outcome::Inserted(_) => Some(StoredKey {
                fingerprint: claim.fingerprint,
                order_id: order.id,
            }),
            Outcome::Known(stored) => Some(*stored),
            Outcome::InProgress => None,
            Outcome::Taken => return None,
        };
        Some((key_id(claim), stored))
    });
    stored.collect()
}

/// What is left to do for an order after it was sent.
enum Rest {
    Answer(Result<Created, Error>),
    /// Answer with the order that its key belongs to.
    Replay(StoredKey),
    /// Look at what is in its way.
    Look,
}

/// What is stored of what was asked for.
struct Existing<'a> {
    orders: Answers<OrderId, Order>,
    names: BTreeMap<Name<'a>, OrderId>,
}

impl PostgresStore {
    /// See [`OrderStore::create`](order_core::OrderStore::create).
    pub(super) async fn create_all(&self, orders: &[NewOrder]) -> Vec<Result<Created, Error>> {
        let mut answers = Vec::new();
        answers.resize_with(orders.len(), || None);
        for _ in 0..ROUNDS_MAX {
            let mut open: Vec<(&NewOrder, &mut Option<_>)> = orders
                .iter()
                .zip(&mut answers)
                .filter(|(_, answer)| answer.is_none())
                .collect();
            if open.is_empty() {
                break;
            }
            let new: Vec<&NewOrder> = open.iter().map(|(new, _)| *new).collect();
            let round = self.create_firsts(&new).await;
            for ((_, slot), answer) in open.iter_mut().zip(round) {
                **slot = answer;
            }
        }
        let unanswered = || Error::store_unavailable("the order was neither inserted nor found");
        let answers = answers.into_iter();
        answers
            .map(|answer| answer.unwrap_or_else(|| Err(unanswered())))
            .collect()
    }

    /// Inserts the orders that come first with their id and their key, and answers the
    /// others by them; `None` if the first was refused, which makes another the first.
    async fn create_firsts(&self, orders: &[&NewOrder]) -> Vec<Option<Result<Created, Error>>> {
        let sent = firsts(orders);
        let mut outcomes = self.insert(&sent).await;
        let keys = keys_after(&sent, &outcomes);
        let rests: Vec<Rest> = orders
            .iter()
            .map(|new| rest(new, outcomes.remove(&new.id), &keys))
            .collect();
        let existing = self.look(orders, &rests).await;
        orders
            .iter()
            .zip(rests)
            .map(|(new, rest)| match (rest, &existing) {
                (Rest::Answer(answer), _) => Some(answer),
                (_, Err(error)) => Some(Err(error.without_source())),
                (Rest::Replay(stored), Ok(existing)) => Some(replay(new, stored, existing)),
                (Rest::Look, Ok(existing)) => taken(new, existing),
            })
            .collect()
    }

    async fn insert(&self, orders: &[&NewOrder]) -> Answers<OrderId, Outcome> {
        if orders.iter().all(|order| order.key.is_none()) {
            return self.insert_by(create(), orders).await;
        }
        let mut outcomes = Answers::default();
        for part in orders.chunks(KEYED_LEN_MAX) {
            outcomes.extend(self.insert_by(create_keyed(), part).await);
        }
        outcomes
    }

    async fn insert_by<'a>(
        &self,
        statement: BatchStatement<Sent<'a>, OrderId, Outcome>,
        orders: &[&'a NewOrder],
    ) -> Answers<OrderId, Outcome> {
        let sent_at = Instant::now();
        let sent = orders.iter().map(|order| Sent {
            order,
            claim_id: self.new_claim_id(),
        });
        let sent: Vec<_> = sent.collect();
        let n_broken = self.requests.n_broken();
        let outcomes = self.requests.query_batch(statement, &sent).await;
        // One that is there already may have been inserted by the first run of this statement,
        // before its connection broke.
        let may_have_run = self.requests.n_broken() != n_broken;
        for Sent { order, claim_id } in sent {
            let is_unsure = match outcomes.get(&order.id) {
                Some(Err(Error::StoreUnavailable { .. })) | None => true,
                Some(Ok(Outcome::Taken)) => may_have_run,
                Some(Ok(Outcome::Known(stored))) => may_have_run && stored.order_id == order.id,
                Some(Ok(Outcome::Inserted(_) | Outcome::InProgress) | Err(_)) => false,
            };
            if let Some(lease) = order.lease.filter(|_| is_unsure) {
                self.unsure.keep(claim_id, sent_at, lease);
            }
        }
        outcomes
    }

    /// Reads what the answers still need; nothing, if every order was inserted.
    async fn look<'a>(
        &self,
        orders: &[&'a NewOrder],
        rests: &[Rest],
    ) -> Result<Existing<'a>, Error> {
        let wanted = orders
            .iter()
            .zip(rests)
            .filter_map(|(new, rest)| match rest {
                Rest::Answer(_) => None,
                Rest::Replay(stored) => Some(*stored.order_id.as_uuid()),
                Rest::Look => Some(*new.id.as_uuid()),
            });
        let found = self.find_all(wanted.collect()).await?;
        let is_unexplained = |(new, rest): &(&&NewOrder, &Rest)| {
            matches!(rest, Rest::Look) && !found.contains_key(&new.id)
        };
        let names = orders.iter().zip(rests).filter(is_unexplained);
        let names = names.filter_map(|(new, _)| name(new)).collect();
        let existing = Existing {
            names: self.find_names(names).await?,
            orders: found,
        };
        if !existing.orders.is_empty() {
            // A success that is answered from a row needs it to be where commits are.
            self.requests.query(CONFIRM, &[]).await?;
        }
        Ok(existing)
    }

    /// The orders that have these names.
    async fn find_names<'a>(
        &self,
        names: BTreeSet<Name<'a>>,
    ) -> Result<BTreeMap<Name<'a>, OrderId>, Error> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let external_ids: Vec<_> = names.iter().map(|(id, _)| id.as_str()).collect();
        let users: Vec<_> = names.iter().map(|(_, user)| user.as_str()).collect();
        // One answer for each name, in their order.
        let sql = "SELECT (SELECT o.id FROM orders o \
                WHERE o.external_id = n.external_id AND o.user_id = n.user_id) \
            FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS n (external_id, user_id, place) \
            ORDER BY n.place";
        let rows = self.requests.query(sql, &[&external_ids, &users]).await?;
        let mut found = BTreeMap::new();
        for (name, row) in names.into_iter().zip(&rows) {
            let id: Option<Uuid> = row.try_get(0).map_err(Fault::from)?;
            found.extend(id.map(|id| (name, OrderId::from_uuid(id))));
        }
        Ok(found)
    }
}

fn rest(new: &NewOrder, outcome: Option<Result<Outcome, Error>>, keys: &Keys<'_>) -> Rest {
    match outcome {
        Some(Ok(Outcome::Inserted(created_at))) => Rest::Answer(Ok(Created {
            order: stored(new, created_at),
            insertion: Insertion::New,
        })),
        Some(Err(error)) => Rest::Answer(Err(error)),
        // Not inserted, or not sent because an earlier one has its id or key.
        Some(Ok(_)) | None => {
            let key = new.key.as_ref().map(key_id);
            match key.and_then(|key| keys.get(&key)) {
                Some(Some(stored)) => Rest::Replay(*stored),
                Some(None) => Rest::Answer(Err(Error::request_in_progress())),
                None => Rest::Look,
            }
        }
    }
}

/// What a new order is once it is stored.
fn stored(new: &NewOrder, created_at: Timestamp) -> Order {
    Order {
        id: new.id,
        user_id: new.user_id.clone(),
        money: new.money,
        status: OrderStatus::Pending,
        version: 1,
        metadata: new.metadata.clone(),
        external_id: new.external_id.clone(),
        failure: None,
        created_at,
        updated_at: created_at,
    }
}

/// The answer to a new order whose key is stored.
fn replay(new: &NewOrder, key: StoredKey, existing: &Existing<'_>) -> Result<Created, Error> {
    if let Some(claim) = &new.key {
        key.check(claim.fingerprint)?;
    }
    let order = match existing.orders.get(&key.order_id) {
        Some(Ok(order)) => order,
        Some(Err(error)) => return Err(error.without_source()),
        None => {
            let id = key.order_id;
            return Err(Error::internal(format!("the order {id} of a key is gone")));
        }
    };
    Ok(Created {
        order: order.as_created(),
        insertion: if order.id == new.id {
            Insertion::SameId
        } else {
            Insertion::SameKey
        },
    })
}

/// The answer to a new order whose id or external id is taken; `None` if neither is.
fn taken(new: &NewOrder, existing: &Existing<'_>) -> Option<Result<Created, Error>> {
    if let Some(order) = existing.orders.get(&new.id) {
        return Some(match order {
            Ok(order) if order.is_same_request(new) => Ok(Created {
                order: order.clone(),
                insertion: Insertion::SameId,
            }),
            Ok(_) => Err(Error::OrderAlreadyExists { order_id: new.id }),
            Err(error) => Err(error.without_source()),
        });
    }
    let name = name(new)?;
    let order_id = existing.names.get(&name)?;
    Some(Err(Error::ExternalIdTaken {
        external_id: name.0.clone(),
        order_id: *order_id,
    }))
}
