//! Commands that need the store: what they ask it, and how they are answered.

use std::sync::Arc;

use order_core::{CallContext, Error, OrderId, RequestId, UserId, WatchOrder};
use order_hub::{CatchUp, Form, Session, Subscribed};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::{READ_TIMEOUT, Shared, command::Ticket, frame};

/// What a command asks.
#[derive(Debug)]
pub(super) enum Lookup {
    /// An order, answered by its status and only if there is something to tell.
    Bare(OrderId),
    /// An order, answered by everything, under the number of the question.
    Order { id: Option<u64>, order: WatchOrder },
    /// Many orders, each answered as if it came alone.
    Orders {
        id: Option<u64>,
        orders: Vec<WatchOrder>,
    },
    /// All orders of a user.
    User { id: Option<u64>, user_id: UserId },
    /// Whose ticket this is.
    Ticket { id: Option<u64>, ticket: Ticket },
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Found {
    /// The answers, if it has any.
    Answers(Vec<Message>),
    /// Whose ticket it was.
    Ticket {
        id: Option<u64>,
        user_id: Result<UserId, Error>,
    },
}

impl Lookup {
    /// Asks, and gives the session back.
    pub(super) async fn run(
        self,
        shared: Arc<Shared>,
        request_id: RequestId,
        mut session: Session,
    ) -> (Session, Found) {
        let ctx = shared.context(&request_id);
        let answers = match self {
            Self::Bare(order_id) => {
                let answer = subscribe_bare(&mut session, &ctx, order_id).await;
                answer.into_iter().collect()
            }
            Self::Order { id, order } => vec![subscribe(&mut session, &ctx, id, order).await],
            Self::Orders { id, orders } => subscribe_many(&mut session, &ctx, id, &orders).await,
            Self::User { id, user_id } => {
                vec![subscribe_user(&mut session, &ctx, id, user_id).await]
            }
            Self::Ticket { id, ticket } => {
                let user_id = shared.redeem(&ctx, &ticket).await;
                if let Err(error) = &user_id {
                    log(&ctx, None, error, "ticket could not be redeemed");
                }
                return (session, Found::Ticket { id, user_id });
            }
        };
        (session, Found::Answers(answers))
    }
}

async fn subscribe_bare(
    session: &mut Session,
    ctx: &CallContext,
    order_id: OrderId,
) -> Option<Message> {
    let order = WatchOrder {
        order_id,
        since: None,
    };
    match in_time(session.subscribe(ctx, order, Form::Bare)).await {
        Ok(subscribed) => first_frame(&subscribed),
        Err(error) => Some(refuse(ctx, None, Some(order_id), &error)),
    }
}

async fn subscribe(
    session: &mut Session,
    ctx: &CallContext,
    id: Option<u64>,
    order: WatchOrder,
) -> Message {
    let subscribed = in_time(session.subscribe(ctx, order, Form::Full)).await;
    answer(ctx, id, order, subscribed)
}

async fn subscribe_many(
    session: &mut Session,
    ctx: &CallContext,
    id: Option<u64>,
    orders: &[WatchOrder],
) -> Vec<Message> {
    let subscribed = session.subscribe_many(ctx, orders, Form::Full);
    let subscribed = match timeout(READ_TIMEOUT, subscribed).await {
        Ok(subscribed) => subscribed,
        Err(_) => orders
            .iter()
            .map(|_| Err(Error::DeadlineExceeded))
            .collect(),
    };
    let answers = orders.iter().zip(subscribed);
    answers
        .map(|(order, subscribed)| answer(ctx, id, *order, subscribed))
        .collect()
}

fn answer(
    ctx: &CallContext,
    id: Option<u64>,
    order: WatchOrder,
    subscribed: Result<Subscribed, Error>,
) -> Message {
    match subscribed {
        Ok(subscribed) => frame::subscribed(id, &subscribed),
        Err(error) => refuse(ctx, id, Some(order.order_id), &error),
    }
}

async fn subscribe_user(
    session: &mut Session,
    ctx: &CallContext,
    id: Option<u64>,
    user_id: UserId,
) -> Message {
    match session.subscribe_user(user_id).await {
        Ok(subscribed) => frame::subscribed_user(id, &subscribed),
        Err(error) => refuse(ctx, id, None, &error),
    }
}

async fn in_time<T>(read: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(READ_TIMEOUT, read)
        .await
        .unwrap_or(Err(Error::DeadlineExceeded))
}

/// The first frame of a bare subscription: none if the order is as it was created, because
/// that is what the client expects of a new order anyway.
fn first_frame(subscribed: &Subscribed) -> Option<Message> {
    match &subscribed.catch_up {
        CatchUp::Snapshot(event) if event.version > 1 => Some(frame::bare(event)),
        CatchUp::Snapshot(_) | CatchUp::Replay(_) => None,
    }
}

fn refuse(ctx: &CallContext, id: Option<u64>, order_id: Option<OrderId>, error: &Error) -> Message {
    log(ctx, order_id, error, "subscription failed");
    frame::error(id, order_id, error)
}

/// Logs what is not the client's doing.
fn log(ctx: &CallContext, order_id: Option<OrderId>, error: &Error, message: &str) {
    if error.reason().is_fault() {
        tracing::warn!(
            request.id = %ctx.request_id,
            order.id = order_id.map(tracing::field::display),
            error.chain = error.chain(),
            "{message}"
        );
    }
}
