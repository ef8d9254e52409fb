//! A system with orders, processes and dead letters that are made up: ordinary ones, none, or such
//! as an attacker would send.

mod cluster;
mod record;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use order_core::{
    AdminApi, CallContext, CancelOrder, Cause, Clock, ClusterState, CreateOrder, DeadLetterGroup,
    Directive, Error, EventPage, ExternalId, IfMatch, ListEvents, ListOrders, Metadata, Money,
    Order, OrderApi, OrderEvent, OrderEventStream, OrderId, OrderPage, OrderRecord, OrderStatus,
    ProcessId, ProcessReport, Receipt, Redrive, RedriveEnd, RedriveProgress, RedriveStream,
    RetryOrder, StreamTicket, TicketGrant, UpdateStatus, UserId, Version, WatchOrder,
};
use tokio::sync::watch;
use uuid::Uuid;

/// What the system holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Ordinary,
    Nothing,
    Hostile,
    Unreachable,
}

/// Text that is worth trying.
pub(crate) const HOSTILE: &str =
    "<script>alert(1)</script>\u{202e}evil\u{2066}\u{1b}[2J'\"&amp;<img src=x onerror=alert(2)>";

/// The system.
pub(crate) struct FakeSystem {
    clock: Arc<dyn Clock>,
    content: Mutex<Content>,
    started_at: Timestamp,
    is_paused: Mutex<bool>,
    /// How often the cluster was read.
    pub(crate) n_reads: AtomicU32,
    /// How often a record was read.
    pub(crate) n_records: AtomicU32,
    /// Orders created by their key, with their metadata.
    pub(crate) created: Mutex<BTreeMap<String, (OrderId, Metadata)>>,
    /// Redrives that are under way: each holds a part.
    pub(crate) redrives: Arc<()>,
    /// What the one order that moves has become.
    pub(crate) moved: watch::Sender<Version>,
}

/// An order by its number: those of the list are 1 to 12.
pub(crate) fn id(n: u128) -> OrderId {
    OrderId::from_uuid(Uuid::from_u128(
        0x0198_c5a0_5d5c_7abc_8def_0000_0000_0000 + n,
    ))
}

/// The order that moves.
pub(crate) const MOVING: u128 = 1;
/// An order that failed twice, and waits for its third attempt.
pub(crate) const RETRIED: u128 = 2;
/// A dead letter.
pub(crate) const DEAD: u128 = 3;

impl FakeSystem {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            started_at: clock.now(),
            clock,
            content: Mutex::new(Content::Ordinary),
            is_paused: Mutex::new(false),
            n_reads: AtomicU32::new(0),
            n_records: AtomicU32::new(0),
            created: Mutex::default(),
            redrives: Arc::default(),
            moved: watch::Sender::new(1),
        })
    }

    pub(crate) fn set(&self, content: Content) {
        *self.content.lock().expect("no panic") = content;
    }

    fn content(&self) -> Content {
        *self.content.lock().expect("no panic")
    }

    fn reach(&self) -> Result<Content, Error> {
        match self.content() {
            Content::Unreachable => Err(Error::store_unavailable("a secret")),
            content => Ok(content),
        }
    }

    fn ago(&self, seconds: f64) -> Timestamp {
        let past = SignedDuration::from_secs_f64(seconds);
        self.clock.now().checked_sub(past).expect("a time")
    }

    fn text<'a>(&self, ordinary: &'a str) -> &'a str {
        if self.content() == Content::Hostile {
            HOSTILE
        } else {
            ordinary
        }
    }

    pub(crate) fn order(&self, n: u128) -> Order {
        let statuses = [
            OrderStatus::Processed,
            OrderStatus::Processed,
            OrderStatus::Processing,
        ];
        let status = match n {
            MOVING if *self.moved.borrow() == 1 => OrderStatus::Pending,
            MOVING => OrderStatus::Processed,
            RETRIED => OrderStatus::Processing,
            DEAD => OrderStatus::Failed,
            _ => statuses[usize::try_from(n).expect("few") % 3],
        };
        let failure = (status == OrderStatus::Failed).then(|| Cause {
            code: "CARD_DECLINED".to_owned(),
            message: self.text("the bank said no").to_owned(),
        });
        let metadata = [("channel".to_owned(), "web".to_owned())];
        let hostile = [("<b>".to_owned(), "<script>".to_owned())];
        let is_hostile = self.content() == Content::Hostile;
        let n_text = format!("cart-{n}");
        let seconds = f64::from(u32::try_from(n).expect("few")) * 3.7;
        Order {
            id: id(n),
            user_id: UserId::from_accepted(
                self.text(["user-1", "user-27", "maría"][usize::try_from(n).expect("few") % 3]),
            ),
            money: Money::parse(
                ["100", "99.95", "12.5"][usize::try_from(n).expect("few") % 3],
                "EUR",
            )
            .expect("money"),
            status,
            version: match n {
                MOVING => *self.moved.borrow(),
                DEAD => 3,
                _ => 2,
            },
            metadata: Metadata::new(if is_hostile { hostile } else { metadata }).expect("metadata"),
            external_id: (n % 2 == 1 || is_hostile)
                .then(|| ExternalId::from_accepted(self.text(&n_text))),
            failure,
            created_at: self.ago(seconds + 3.0),
            updated_at: self.ago(seconds),
        }
    }

    fn known(&self, order_id: OrderId) -> Result<Order, Error> {
        let content = self.reach()?;
        let created = self
            .created
            .lock()
            .expect("no panic")
            .values()
            .any(|(id, _)| *id == order_id);
        (1..=12)
            .map(|n| self.order(n))
            .find(|order| order.id == order_id && content != Content::Nothing)
            .or_else(|| {
                created.then(|| Order {
                    id: order_id,
                    ..self.order(MOVING)
                })
            })
            .ok_or(Error::OrderNotFound { order_id })
    }
}

#[async_trait]
impl AdminApi for FakeSystem {
    async fn dead_letters(&self, _: &CallContext) -> Result<Vec<DeadLetterGroup>, Error> {
        let group = |code: &str, count, n| DeadLetterGroup {
            code: self.text(code).to_owned(),
            count,
            example: id(n),
        };
        Ok(match self.reach()? {
            Content::Nothing => Vec::new(),
            _ => vec![group("CARD_DECLINED", 1_204, DEAD), group("TIMEOUT", 37, 6)],
        })
    }

    async fn redrive(&self, _: &CallContext, request: Redrive) -> Result<RedriveStream, Error> {
        request.check()?;
        self.reach()?;
        let matched = request.limit.min(1_204);
        if request.is_dry_run {
            let counted = RedriveProgress {
                matched,
                end: Some(RedriveEnd::Done),
                ..RedriveProgress::default()
            };
            return Ok(stream::iter([Ok(counted)]).boxed());
        }
        let (clock, open) = (Arc::clone(&self.clock), Arc::clone(&self.redrives));
        let steps = stream::unfold(0_u32, move |redriven| {
            let _ = &open;
            let clock = Arc::clone(&clock);
            async move {
                if redriven > matched {
                    return None;
                }
                clock.sleep(Duration::from_millis(250)).await;
                let progress = RedriveProgress {
                    matched,
                    redriven: redriven.min(matched),
                    processed: redriven * 9 / 10,
                    failed: redriven / 30,
                    skipped: 2,
                    end: (redriven == matched).then_some(RedriveEnd::Done),
                };
                let next = if redriven == matched {
                    matched + 1
                } else {
                    (redriven + matched.div_ceil(20)).min(matched)
                };
                Some((Ok(progress), next))
            }
        });
        Ok(steps.boxed())
    }

    async fn record(&self, _: &CallContext, order_id: OrderId) -> Result<OrderRecord, Error> {
        self.n_records.fetch_add(1, Ordering::Relaxed);
        Ok(self.history(self.known(order_id)?))
    }

    async fn cluster(&self, _: &CallContext) -> Result<ClusterState, Error> {
        self.n_reads.fetch_add(1, Ordering::Relaxed);
        let content = self.reach()?;
        Ok(self.state(content == Content::Nothing))
    }

    async fn report(&self, _: &CallContext, _: ProcessReport) -> Result<Directive, Error> {
        unreachable!("the console reports nothing")
    }

    async fn set_paused(
        &self,
        _: &CallContext,
        process_id: Option<ProcessId>,
        is_paused: bool,
    ) -> Result<(), Error> {
        self.reach()?;
        if process_id.is_some_and(|id| !(0xab01..=0xab04).contains(&id.as_u64())) {
            return Err(Error::invalid(
                "process_id",
                "must be the id of a process that reports",
            ));
        }
        *self.is_paused.lock().expect("no panic") = is_paused;
        Ok(())
    }
}

/// Refuses a change as the system does.
fn check_version(if_match: Option<&IfMatch>, order: &Order) -> Result<(), Error> {
    if if_match.is_none_or(|if_match| if_match.is_met(order.version)) {
        return Ok(());
    }
    Err(Error::EtagMismatch {
        order_id: order.id,
        current: order.version,
    })
}

#[async_trait]
impl OrderApi for FakeSystem {
    async fn create_order(&self, _: &CallContext, request: CreateOrder) -> Result<Receipt, Error> {
        self.reach()?;
        let key = request.idempotency_key.expect("each form has a key");
        let made = request.order_id.expect("an id");
        let mut created = self.created.lock().expect("no panic");
        let is_replayed = created.contains_key(key.as_str());
        let made = (made, request.metadata);
        let (id, _) = created.entry(key.as_str().to_owned()).or_insert(made);
        let order = Order {
            id: *id,
            user_id: request.user_id,
            money: request.money,
            ..self.order(MOVING)
        };
        Ok(Receipt { order, is_replayed })
    }

    async fn create_orders(
        &self,
        _: &CallContext,
        _: Vec<CreateOrder>,
    ) -> Result<Vec<Result<Receipt, Error>>, Error> {
        unreachable!("the console creates one order at a time")
    }

    async fn get_order(&self, _: &CallContext, order_id: OrderId) -> Result<Order, Error> {
        self.known(order_id)
    }

    async fn list_orders(&self, _: &CallContext, list: ListOrders) -> Result<OrderPage, Error> {
        if list.page_token.as_deref() == Some("forged") {
            return Err(Error::invalid(
                "page_token",
                "is not a token of this service",
            ));
        }
        let content = self.reach()?;
        let mut orders: Vec<_> = (1..=12).map(|n| self.order(n)).collect();
        orders.retain(|order| {
            content != Content::Nothing
                && (list.statuses.is_empty() || list.statuses.contains(&order.status))
                && list
                    .user_id
                    .as_ref()
                    .is_none_or(|user| *user == order.user_id)
        });
        let next_page_token = list.page_token.is_none().then(|| "t0k3n".to_owned());
        Ok(OrderPage {
            orders,
            next_page_token,
        })
    }

    async fn cancel_order(&self, _: &CallContext, cancel: CancelOrder) -> Result<Receipt, Error> {
        let order = self.known(cancel.order_id)?;
        check_version(cancel.if_match.as_ref(), &order)?;
        if order.status != OrderStatus::Pending {
            let (order_id, current) = (order.id, order.status);
            return Err(Error::OrderNotCancellable {
                order_id,
                current,
                allowed: current.allowed(),
            });
        }
        Ok(Receipt::first(order))
    }

    async fn retry_order(&self, _: &CallContext, retry: RetryOrder) -> Result<Order, Error> {
        let order = self.known(retry.order_id)?;
        check_version(retry.if_match.as_ref(), &order)?;
        Ok(order)
    }

    async fn update_status(&self, _: &CallContext, _: UpdateStatus) -> Result<Order, Error> {
        unreachable!("the console sets no status")
    }

    async fn list_events(&self, _: &CallContext, _: ListEvents) -> Result<EventPage, Error> {
        unreachable!("the console reads records")
    }

    async fn create_ticket(&self, _: &CallContext, _: TicketGrant) -> Result<StreamTicket, Error> {
        unreachable!("the console opens no socket")
    }

    async fn watch_orders(
        &self,
        _: &CallContext,
        orders: Vec<WatchOrder>,
    ) -> Result<OrderEventStream, Error> {
        let [watched] = orders.as_slice() else {
            unreachable!("one order is watched at a time")
        };
        let order = self.known(watched.order_id)?;
        let moved = self.moved.subscribe();
        let events = stream::unfold((moved, order), |(mut moved, order)| async move {
            moved.changed().await.ok()?;
            let event = OrderEvent {
                version: *moved.borrow(),
                ..order.last_event()
            };
            Some((Ok(event), (moved, order)))
        });
        Ok(events.boxed())
    }

    async fn check_ready(&self, _: &CallContext) -> Result<(), Error> {
        self.reach().map(|_| ())
    }
}
