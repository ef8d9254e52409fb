//! The service for clients over an [`OrderApi`]: reads the message, calls, writes
//! the answer. Decides nothing.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _};
use order_core::{Clock, Error, IdempotencyKey, OrderApi, OrderFollow, TicketGrant, UserId};
use order_edge::{
    Connection, client_address,
    pipeline::StreamDeadline,
    slots::{Slot, Slots},
};
use tonic::{
    Request, Response, Status, Streaming,
    metadata::{MetadataMap, MetadataValue},
};

use super::{
    RpcServerConfig,
    batch::{create_batch, is_idempotent_create},
    call::{answer, answer_if, context, with_change_id},
    follow,
    watch::{StreamEnd, WatchStream},
};
use crate::{
    IDEMPOTENCY_KEY_HEADER, IDEMPOTENT_REPLAYED_HEADER, convert,
    proto::{self, order_service_server::OrderService},
};

/// The handlers.
#[derive(Clone)]
pub(super) struct OrderRpc {
    api: Arc<dyn OrderApi>,
    clock: Arc<dyn Clock>,
    follow: Arc<dyn OrderFollow>,
    creates: Slots,
    watches: Slots,
    follows: Slots,
}

impl OrderRpc {
    /// Answers with `api` and `follow`, and holds as many streams open as `config` allows.
    pub(super) fn new(
        api: Arc<dyn OrderApi>,
        follow: Arc<dyn OrderFollow>,
        clock: Arc<dyn Clock>,
        config: &RpcServerConfig,
    ) -> Self {
        Self {
            api,
            clock,
            follow,
            creates: Slots::shared(config.creates_max),
            watches: Slots::shared(config.watches_max),
            follows: Slots::shared(config.follows_max),
        }
    }

    /// When a stream ends by itself: when its connection does, or at the deadline that its caller
    /// sent.
    pub(super) fn end_of<T>(&self, request: &Request<T>) -> StreamEnd {
        let extensions = request.extensions();
        StreamEnd {
            draining: extensions
                .get::<Arc<Connection>>()
                .map(|connection| connection.draining.clone()),
            time_left: extensions
                .get::<StreamDeadline>()
                .and_then(|deadline| deadline.0.remaining(self.clock.instant())),
        }
    }
}

/// Takes `n` slots for a request.
pub(super) fn slot<T>(slots: &Slots, n: usize, request: &Request<T>) -> Result<Slot, Error> {
    Ok(slots.try_take_many(client_address(request.extensions()), n, 0)?)
}

/// The key of a call: from the metadata, from the field, or from both if they agree.
///
/// # Errors
/// [`Error::InvalidArgument`] for `idempotency_key`.
fn agreed_key(
    metadata: &MetadataMap,
    field: Option<IdempotencyKey>,
) -> Result<Option<IdempotencyKey>, Error> {
    let mut values = metadata.get_all(IDEMPOTENCY_KEY_HEADER).iter();
    let Some(value) = values.next() else {
        return Ok(field);
    };
    // What is no text is no key either.
    let key = IdempotencyKey::from_header(value.to_str().unwrap_or_default())?;
    if values.next().is_some() || field.is_some_and(|field| field != key) {
        return Err(Error::invalid(
            "idempotency_key",
            "must be the same wherever it is given",
        ));
    }
    Ok(Some(key))
}

/// Says in the metadata too that an earlier call did the work.
fn mark_replayed<T>(mut response: Response<T>, is_replayed: bool) -> Response<T> {
    if is_replayed {
        let value = MetadataValue::from_static("true");
        response
            .metadata_mut()
            .insert(IDEMPOTENT_REPLAYED_HEADER, value);
    }
    response
}

#[tonic::async_trait]
impl OrderService for OrderRpc {
    async fn create_order(
        &self,
        request: Request<proto::CreateOrderRequest>,
    ) -> Result<Response<proto::CreateOrderResponse>, Status> {
        let ctx = context(&request);
        let is_idempotent = is_idempotent_create(request.get_ref())
            || request.metadata().contains_key(IDEMPOTENCY_KEY_HEADER);
        let response = answer_if(is_idempotent, &ctx, async {
            let _slot = slot(&self.creates, 1, &request)?;
            let (metadata, _, message) = request.into_parts();
            let mut create = convert::create_from_proto(message)?;
            create.idempotency_key = agreed_key(&metadata, create.idempotency_key)?;
            let receipt = self.api.create_order(&ctx, create).await?;
            Ok(proto::CreateOrderResponse {
                order: Some(convert::order_to_proto(receipt.order)),
                replayed: receipt.is_replayed,
            })
        });
        let response = response.await?;
        let is_replayed = response.get_ref().replayed;
        Ok(mark_replayed(response, is_replayed))
    }

    async fn batch_create_orders(
        &self,
        request: Request<proto::BatchCreateOrdersRequest>,
    ) -> Result<Response<proto::BatchCreateOrdersResponse>, Status> {
        let ctx = context(&request);
        let requests = &request.get_ref().requests;
        let is_idempotent = requests.iter().all(is_idempotent_create);
        // A batch that is too long is refused as such.
        let n = requests.len().min(convert::CREATES_MAX);
        answer_if(is_idempotent, &ctx, async {
            let _slot = slot(&self.creates, n, &request)?;
            create_batch(&*self.api, &ctx, request.into_inner().requests).await
        })
        .await
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
            let orders = page.orders.into_iter().map(convert::order_to_proto);
            Ok(proto::ListOrdersResponse {
                orders: orders.collect(),
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
        let response = answer(&ctx, async {
            let (metadata, _, message) = request.into_parts();
            let ctx = with_change_id(&ctx, &message.change_id)?;
            let mut cancel = convert::cancel_from_proto(message)?;
            cancel.idempotency_key = agreed_key(&metadata, cancel.idempotency_key)?;
            let receipt = self.api.cancel_order(&ctx, cancel).await?;
            Ok(proto::CancelOrderResponse {
                order: Some(convert::order_to_proto(receipt.order)),
                replayed: receipt.is_replayed,
            })
        });
        let response = response.await?;
        let is_replayed = response.get_ref().replayed;
        Ok(mark_replayed(response, is_replayed))
    }

    async fn update_status(
        &self,
        request: Request<proto::UpdateStatusRequest>,
    ) -> Result<Response<proto::UpdateStatusResponse>, Status> {
        let ctx = context(&request);
        let is_idempotent = !request.get_ref().change_id.is_empty();
        answer_if(is_idempotent, &ctx, async {
            let ctx = with_change_id(&ctx, &request.get_ref().change_id)?;
            let request = convert::update_from_proto(request.get_ref())?;
            let order = self.api.update_status(&ctx, request).await?;
            Ok(proto::UpdateStatusResponse {
                order: Some(convert::order_to_proto(order)),
            })
        })
        .await
    }

    async fn retry_order(
        &self,
        request: Request<proto::RetryOrderRequest>,
    ) -> Result<Response<proto::RetryOrderResponse>, Status> {
        let ctx = context(&request);
        let is_idempotent = !request.get_ref().change_id.is_empty();
        answer_if(is_idempotent, &ctx, async {
            let ctx = with_change_id(&ctx, &request.get_ref().change_id)?;
            let request = convert::retry_from_proto(request.get_ref())?;
            let order = self.api.retry_order(&ctx, request).await?;
            Ok(proto::RetryOrderResponse {
                order: Some(convert::order_to_proto(order)),
            })
        })
        .await
    }

    async fn list_order_events(
        &self,
        request: Request<proto::ListOrderEventsRequest>,
    ) -> Result<Response<proto::ListOrderEventsResponse>, Status> {
        let ctx = context(&request);
        answer(&ctx, async {
            let request = convert::events_from_proto(request.get_ref())?;
            let page = self.api.list_events(&ctx, request).await?;
            let events = page.events.into_iter().map(convert::event_to_proto);
            Ok(proto::ListOrderEventsResponse {
                events: events.collect(),
                order: Some(convert::order_to_proto(page.order)),
                has_more: page.has_more,
            })
        })
        .await
    }

    async fn create_stream_ticket(
        &self,
        request: Request<proto::CreateStreamTicketRequest>,
    ) -> Result<Response<proto::CreateStreamTicketResponse>, Status> {
        let ctx = context(&request);
        answer(&ctx, async {
            let user_id = UserId::parse(&request.get_ref().user_id)?;
            let grant = TicketGrant { user_id };
            let ticket = self.api.create_ticket(&ctx, grant).await?;
            Ok(convert::ticket_to_proto(&ticket))
        })
        .await
    }

    type WatchOrdersStream = WatchStream<proto::OrderEvent>;

    async fn watch_orders(
        &self,
        request: Request<proto::WatchOrdersRequest>,
    ) -> Result<Response<Self::WatchOrdersStream>, Status> {
        let ctx = context(&request);
        let end = self.end_of(&request);
        let watched = answer(&ctx, async {
            let orders = convert::watches_from_proto(request.get_ref())?;
            let slot = slot(&self.watches, 1, &request)?;
            let events = self.api.watch_orders(&ctx, orders).await?;
            let events = events.map_ok(convert::event_to_proto).boxed();
            Ok(WatchStream::new(events, ctx.request_id.clone(), end, slot))
        });
        let mut watched = watched.await?;
        // Each event would be compressed by itself, and be held back until it is.
        watched.disable_compression();
        Ok(watched)
    }

    type FollowStream = WatchStream<proto::FollowResponse>;

    async fn follow(
        &self,
        request: Request<Streaming<proto::FollowRequest>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let ctx = context(&request);
        let end = self.end_of(&request);
        let followed = answer(&ctx, async {
            let slot = slot(&self.follows, 1, &request)?;
            let (follower, events) = self.follow.follow()?;
            let request_id = ctx.request_id.clone();
            let requests = request.into_inner();
            let feed = follow::feed(requests, follower, events, request_id.clone());
            Ok(WatchStream::new(feed, request_id, end, slot))
        });
        let mut followed = followed.await?;
        followed.disable_compression();
        Ok(followed)
    }
}
