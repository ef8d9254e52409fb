//! The order service of the contract over an [`OrderApi`]: reads the message, calls, writes
//! the answer. Decides nothing.

use std::{future::Future, sync::Arc};

use order_core::{
    CallContext, Clock, CreateOrder, Deadline, Error, ErrorKind, Order, OrderApi, RequestId,
};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::watch::WatchStream;
use crate::{
    convert,
    interceptor::{Connection, deadline::StreamDeadline, unknown_request_id},
    proto::{
        self, batch_create_orders_response::Result as BatchResult,
        batch_create_orders_response::result::Result as BatchItem,
        order_service_server::OrderService,
    },
    status::{to_batch_status, to_status},
};

/// The handlers.
pub(super) struct OrderRpc {
    api: Arc<dyn OrderApi>,
    clock: Arc<dyn Clock>,
    watches: Arc<Semaphore>,
}

impl OrderRpc {
    /// Answers with `api` and holds at most `watches_max` watches open.
    pub(super) fn new(api: Arc<dyn OrderApi>, clock: Arc<dyn Clock>, watches_max: usize) -> Self {
        Self {
            api,
            clock,
            watches: Arc::new(Semaphore::new(watches_max)),
        }
    }

    async fn create_batch(
        &self,
        ctx: &CallContext,
        request: proto::BatchCreateOrdersRequest,
    ) -> Result<proto::BatchCreateOrdersResponse, Error> {
        let requests = convert::creates_from_proto(&request.requests)?;
        let (valid, refused) = split(requests);
        let answers = self.api.create_orders(ctx, valid).await?;
        log_failures(ctx, &answers);
        let results = merge(answers, refused)
            .into_iter()
            .map(|answer| BatchResult {
                result: Some(match answer {
                    Ok(order) => BatchItem::Order(convert::order_to_proto(order)),
                    Err(error) => BatchItem::Error(to_batch_status(error, &ctx.request_id)),
                }),
            })
            .collect();
        Ok(proto::BatchCreateOrdersResponse { results })
    }
}

/// Takes the refused requests out, each with its position.
fn split(requests: Vec<Result<CreateOrder, Error>>) -> (Vec<CreateOrder>, Vec<(usize, Error)>) {
    let mut valid = Vec::with_capacity(requests.len());
    let mut refused = Vec::new();
    for (n, request) in requests.into_iter().enumerate() {
        match request {
            Ok(request) => valid.push(request),
            Err(error) => refused.push((n, error)),
        }
    }
    (valid, refused)
}

/// Puts what [`split`] took out back at its positions.
fn merge(
    mut answers: Vec<Result<Order, Error>>,
    refused: Vec<(usize, Error)>,
) -> Vec<Result<Order, Error>> {
    if refused.is_empty() {
        return answers;
    }
    let len = answers.len() + refused.len();
    let mut merged = Vec::with_capacity(len);
    let mut answers = answers.drain(..);
    for (n, error) in refused {
        let before = n.saturating_sub(merged.len());
        merged.extend(answers.by_ref().take(before));
        merged.push(Err(error));
    }
    merged.extend(answers);
    merged
}

/// A batch succeeds as a call, so the access log does not see why its orders failed. One
/// line tells how many did and, for the first, why.
fn log_failures(ctx: &CallContext, answers: &[Result<Order, Error>]) {
    let is_ours = |error: &&Error| {
        matches!(
            error.kind(),
            ErrorKind::Internal | ErrorKind::Unavailable | ErrorKind::DeadlineExceeded
        )
    };
    let failures = || {
        answers
            .iter()
            .filter_map(|a| a.as_ref().err())
            .filter(is_ours)
    };
    if let Some(first) = failures().next() {
        tracing::error!(
            request.id = ctx.request_id.as_str(),
            n_failed = failures().count(),
            error = first.chain(),
            "orders of a batch failed"
        );
    }
}

/// What the interceptors found out about the call.
fn context<T>(request: &Request<T>) -> CallContext {
    let extensions = request.extensions();
    CallContext {
        request_id: extensions
            .get::<RequestId>()
            .cloned()
            .unwrap_or_else(unknown_request_id),
        deadline: extensions.get().copied().unwrap_or(Deadline::NONE),
    }
}

async fn answer<T>(
    ctx: &CallContext,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<Response<T>, Status> {
    match work.await {
        Ok(answer) => Ok(Response::new(answer)),
        Err(error) => Err(to_status(error, &ctx.request_id)),
    }
}

#[tonic::async_trait]
impl OrderService for OrderRpc {
    async fn create_order(
        &self,
        request: Request<proto::CreateOrderRequest>,
    ) -> Result<Response<proto::CreateOrderResponse>, Status> {
        let ctx = context(&request);
        answer(&ctx, async {
            let request = convert::create_from_proto(request.get_ref())?;
            let order = self.api.create_order(&ctx, request).await?;
            Ok(proto::CreateOrderResponse {
                order: Some(convert::order_to_proto(order)),
            })
        })
        .await
    }

    async fn batch_create_orders(
        &self,
        request: Request<proto::BatchCreateOrdersRequest>,
    ) -> Result<Response<proto::BatchCreateOrdersResponse>, Status> {
        let ctx = context(&request);
        answer(&ctx, self.create_batch(&ctx, request.into_inner())).await
    }

    async fn get_order(
        &self,
        request: Request<proto::GetOrderRequest>,
    ) -> Result<Response<proto::GetOrderResponse>, Status> {
        let ctx = context(&request);
        answer(&ctx, async {
            let order_id = convert::order_id_from_proto(&request.get_ref().order_id)?;
            let order = self.api.get_order(&ctx, order_id).await?;
            Ok(proto::GetOrderResponse {
                order: Some(convert::order_to_proto(order)),
            })
        })
        .await
    }

    async fn list_orders(
        &self,
        request: Request<proto::ListOrdersRequest>,
    ) -> Result<Response<proto::ListOrdersResponse>, Status> {
        let ctx = context(&request);
        answer(&ctx, async {
            let request = convert::list_from_proto(request.into_inner())?;
            let page = self.api.list_orders(&ctx, request).await?;
            Ok(proto::ListOrdersResponse {
                orders: page
                    .orders
                    .into_iter()
                    .map(convert::order_to_proto)
                    .collect(),
                next_page_token: page.next_page_token.unwrap_or_default(),
            })
        })
        .await
    }

    async fn cancel_order(
        &self,
        request: Request<proto::CancelOrderRequest>,
    ) -> Result<Response<proto::CancelOrderResponse>, Status> {
        let ctx = context(&request);
        answer(&ctx, async {
            let request = convert::cancel_from_proto(request.into_inner())?;
            let order = self.api.cancel_order(&ctx, request).await?;
            Ok(proto::CancelOrderResponse {
                order: Some(convert::order_to_proto(order)),
            })
        })
        .await
    }

    async fn update_status(
        &self,
        request: Request<proto::UpdateStatusRequest>,
    ) -> Result<Response<proto::UpdateStatusResponse>, Status> {
        let ctx = context(&request);
        answer(&ctx, async {
            let request = convert::update_from_proto(request.get_ref())?;
            let order = self.api.update_status(&ctx, request).await?;
            Ok(proto::UpdateStatusResponse {
                order: Some(convert::order_to_proto(order)),
            })
        })
        .await
    }

    type WatchOrdersStream = WatchStream;

    async fn watch_orders(
        &self,
        request: Request<proto::WatchOrdersRequest>,
    ) -> Result<Response<Self::WatchOrdersStream>, Status> {
        let ctx = context(&request);
        let draining = request
            .extensions()
            .get::<Arc<Connection>>()
            .map(|connection| connection.draining.clone());
        let time_left = request
            .extensions()
            .get::<StreamDeadline>()
            .and_then(|deadline| deadline.0.remaining(self.clock.instant()));
        answer(&ctx, async {
            let orders = convert::watches_from_proto(request.get_ref())?;
            let place = Arc::clone(&self.watches)
                .try_acquire_owned()
                .map_err(|_| Error::overloaded())?;
            let events = self.api.watch_orders(&ctx, orders).await?;
            let request_id = ctx.request_id.clone();
            Ok(WatchStream::new(
                events, request_id, draining, time_left, place,
            ))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(n: u64) -> Error {
        Error::LimitExceeded {
            what: "x".to_owned(),
            limit: n,
        }
    }

    #[test]
    fn refused_requests_come_back_at_their_positions() {
        for refused in [
            vec![],
            vec![0],
            vec![1, 2],
            vec![0, 3, 4],
            vec![0, 1, 2, 3, 4],
        ] {
            let answers = (0..5).filter(|n| !refused.contains(n));
            let answers = answers.map(|n| Err(error(n))).collect();
            let refused = refused
                .iter()
                .map(|n| (usize::try_from(*n).expect("small"), error(*n)))
                .collect();
            let limits: Vec<u64> = merge(answers, refused)
                .into_iter()
                .map(|answer| match answer {
                    Err(Error::LimitExceeded { limit, .. }) => limit,
                    other => panic!("unexpected {other:?}"),
                })
                .collect();
            assert_eq!(limits, [0, 1, 2, 3, 4]);
        }
    }
}
