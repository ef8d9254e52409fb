//! `Follow`: a feed of many orders, which come and go by the requests of the stream.

use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use order_core::{CallContext, Deadline, Error, Follower, OrderEventStream, RequestId};
use order_edge::batch::log_failures;
use tonic::Streaming;

use crate::{
    convert,
    proto::{self, follow_response::Answer, follow_response::answer::Refusal},
    status::{from_status, to_batch_status},
};

/// The most events of one message.
const EVENTS_MAX: usize = 1_000;

/// The answers to `requests`, mixed with what happens to the orders that are followed. A request
/// that breaks a rule ends the feed.
pub(super) fn feed(
    requests: Streaming<proto::FollowRequest>,
    follower: Box<dyn Follower>,
    events: OrderEventStream,
    request_id: RequestId,
) -> BoxStream<'static, Result<proto::FollowResponse, Error>> {
    let answers = stream::try_unfold((requests, follower), move |(mut requests, mut follower)| {
        let ctx = CallContext::new(request_id.clone(), Deadline::NONE);
        async move {
            match requests.message().await.map_err(from_status)? {
                Some(request) => {
                    let answer = answer(&mut *follower, &ctx, request).await?;
                    Ok(Some((answer, (requests, follower))))
                }
                // The client adds no more orders; the feed goes on.
                None => std::future::pending().await,
            }
        }
    });
    let events = events.ready_chunks(EVENTS_MAX).map(|events| {
        let events = events.into_iter().map(|e| e.map(convert::event_to_proto));
        let events = events.collect::<Result<_, _>>()?;
        Ok(proto::FollowResponse {
            events,
            answer: None,
        })
    });
    stream::select(answers.into_stream(), events).boxed()
}

async fn answer(
    follower: &mut dyn Follower,
    ctx: &CallContext,
    request: proto::FollowRequest,
) -> Result<proto::FollowResponse, Error> {
    let (add, remove) = convert::follow_from_proto(&request)?;
    follower.remove(&remove);
    let order_ids: Vec<_> = add.iter().map(|order| order.order_id).collect();
    let answers = follower.add(ctx, add).await;
    log_failures(ctx, &answers);
    let n_parts = answers.len();
    let mut events = Vec::new();
    let mut refusals = Vec::new();
    for (order_id, answer) in order_ids.into_iter().zip(answers) {
        match answer {
            Ok(event) => events.extend(event.map(convert::event_to_proto)),
            Err(error) => refusals.push(Refusal {
                order_id: order_id.to_string(),
                error: Some(to_batch_status(error, &ctx.request_id, n_parts, true)),
            }),
        }
    }
    Ok(proto::FollowResponse {
        events,
        answer: Some(Answer { refusals }),
    })
}
