//! One stream over which a gateway follows the orders of all its clients.
//!
//! The stream goes to one replica that serves, and to another one when that replica leaves, is
//! silent or says that it does not serve: orders are added there again, the service answers where
//! they stand, and the receiver drops what it has. So nothing is missed and nothing is repeated,
//! and a watcher notices a pause of at most about a second.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use futures_util::{future::BoxFuture, stream};
use order_core::{
    Error, EventReceiver, OrderId, OrderWatch, RESPONSE_BYTES_MAX, Topic, TopicChange,
    supervisor::{STEP_TIME_MAX, Task},
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tonic::{Request, Streaming};

use super::{
    RemoteOrderApi,
    endpoint::Endpoint,
    endpoints::{Choice, Endpoints, Tried},
    outlier::Outcome,
    retry::is_retryable,
    source::random_request_id,
};
use crate::{
    REQUEST_ID_HEADER, convert,
    proto::{self, order_service_client::OrderServiceClient},
    status::{from_batch_status, from_status},
};

/// How long a replica may take to begin the stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a replica may take to answer a request on the stream. It gives up its own reads after
/// 5 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// How often the replica is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The bounds of the pause before the next stream. It doubles with each failure in a row.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

impl RemoteOrderApi {
    /// From now on has `watch` follow the orders of [`OrderApi::watch_orders`], for as long as it
    /// lives, and returns what feeds `receiver`: a task that the caller spawns, which ends after
    /// [`RemoteOrderApi::close`]. Called once.
    ///
    /// [`OrderApi::watch_orders`]: order_core::OrderApi::watch_orders
    pub fn watch_through(
        &self,
        watch: &Arc<dyn OrderWatch>,
        receiver: Arc<dyn EventReceiver>,
    ) -> BoxFuture<'static, ()> {
        let _is_first = self.watch.set(Arc::downgrade(watch));
        let (endpoints, closed) = (Arc::clone(&self.endpoints), self.closing.clone());
        let task = Task::new("follow", STEP_TIME_MAX, move |_| {
            let (endpoints, receiver) = (Arc::clone(&endpoints), Arc::clone(&receiver));
            let closed = closed.clone();
            async move {
                let following = follow_forever(&endpoints, &*receiver);
                closed.run_until_cancelled(following).await;
            }
        });
        self.supervisor.run(task)
    }
}

async fn follow_forever(endpoints: &Endpoints, receiver: &dyn EventReceiver) {
    let mut tried = Tried::default();
    let mut n_failures = 0_u32;
    loop {
        receiver.until_watched().await;
        let mut was_open = false;
        let Err(error) = follow(endpoints, receiver, &mut tried, || {
            was_open = true;
            if n_failures > 0 {
                tracing::info!(n_failures, "orders are followed again");
            }
        })
        .await;
        if was_open {
            n_failures = 0;
        }
        // A replica that leaves says so, and is no failure.
        if !matches!(error, Error::ShuttingDown { .. }) {
            n_failures = n_failures.saturating_add(1);
            if n_failures == 1 {
                tracing::warn!(
                    error = error.chain(),
                    "orders are not followed, trying again"
                );
            }
        }
        sleep(pause(n_failures)).await;
    }
}

/// The pause after `n_failures` in a row, ± 50 %, so that gateways do not meet.
fn pause(n_failures: u32) -> Duration {
    let factor = 2_u32.saturating_pow(n_failures.saturating_sub(1));
    let pause = PAUSE_MIN.saturating_mul(factor).min(PAUSE_MAX);
    pause.mul_f64(0.5 + rand::random::<f64>())
}

/// Follows what `receiver` watches at one replica, preferably another one than was `tried` last,
/// until that fails. `on_answer` is called when the replica has answered for the first time.
async fn follow(
    endpoints: &Endpoints,
    receiver: &dyn EventReceiver,
    tried: &mut Tried,
    on_answer: impl FnOnce(),
) -> Result<Infallible, Error> {
    let Choice { endpoint, channel } = endpoints.pick(tried).await?;
    *tried = Tried::default();
    tried.push(endpoint.address);
    let (sender, mut requests) = mpsc::channel(1);
    let requests = stream::poll_fn(move |cx| requests.poll_recv(cx));
    let mut request = Request::new(requests);
    let request_id = random_request_id();
    let request_id = request_id.as_str().parse().map_err(Error::internal)?;
    request.metadata_mut().insert(REQUEST_ID_HEADER, request_id);
    let mut service = OrderServiceClient::with_origin(channel, endpoint.origin.clone())
        .max_decoding_message_size(RESPONSE_BYTES_MAX);
    let opened = timeout(OPEN_TIMEOUT, service.follow(request)).await;
    let opened = match opened {
        Ok(opened) => opened.map_err(from_status),
        Err(_) => Err(Error::DeadlineExceeded),
    };
    let outcome = opened
        .as_ref()
        .map_or(Outcome::Failed, |_| Outcome::Answered);
    endpoints.record(&endpoint, outcome);
    let link = Link {
        answers: opened?.into_inner(),
        queue: VecDeque::new(),
        unanswered: VecDeque::new(),
    };
    let replica = (endpoints, &*endpoint);
    link.run(&sender, replica, receiver, on_answer).await
}

/// An open stream.
struct Link {
    answers: Streaming<proto::FollowResponse>,
    /// Requests that wait to be sent. Changes are taken only when it is empty, so it is at most as
    /// long as what is watched.
    queue: VecDeque<proto::FollowRequest>,
    /// When the requests without an answer were sent, oldest first.
    unanswered: VecDeque<Instant>,
}

impl Link {
    async fn run(
        mut self,
        sender: &mpsc::Sender<proto::FollowRequest>,
        (endpoints, endpoint): (&Endpoints, &Endpoint),
        receiver: &dyn EventReceiver,
        on_answer: impl FnOnce(),
    ) -> Result<Infallible, Error> {
        let mut on_answer = Some(on_answer);
        let watched = receiver.watched().into_iter();
        self.queue(watched.map(|topic| (topic, true)));
        let mut checks = interval(CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                answer = self.answers.message() => {
                    let ended = || Error::service_unavailable("the stream ended");
                    let answer = answer.map_err(from_status)?.ok_or_else(ended)?;
                    self.take(answer, receiver)?;
                    if let Some(on_answer) = on_answer.take() {
                        on_answer();
                    }
                }
                place = sender.reserve(), if !self.queue.is_empty() => {
                    let place = place.map_err(Error::service_unavailable)?;
                    if let Some(request) = self.queue.pop_front() {
                        self.unanswered.push_back(Instant::now());
                        place.send(request);
                    }
                }
                changes = receiver.topic_changes(), if self.queue.is_empty() => {
                    let changes = changes.into_iter();
                    self.queue(changes.map(|TopicChange { topic, is_watched }| (topic, is_watched)));
                }
                _ = checks.tick() => self.check(endpoints, endpoint)?,
            }
        }
    }

    /// Only orders: a gateway has no clients that follow users.
    fn queue(&mut self, changes: impl Iterator<Item = (Topic, bool)>) {
        let changes = changes.filter_map(|(topic, is_watched)| match topic {
            Topic::Order(order_id) => Some((order_id, is_watched)),
            Topic::User(_) => None,
        });
        let changes: Vec<(OrderId, bool)> = changes.collect();
        self.queue.extend(convert::follow_to_proto(&changes));
    }

    /// Takes an answer, or what has happened.
    ///
    /// # Errors
    /// Why the replica cannot follow an order that another one may follow.
    fn take(
        &mut self,
        answer: proto::FollowResponse,
        receiver: &dyn EventReceiver,
    ) -> Result<(), Error> {
        let events = answer.events.into_iter().map(convert::event_from_proto);
        let events: Vec<_> = events.collect::<Result<_, _>>()?;
        receiver.receive(&events);
        let Some(answer) = answer.answer else {
            return Ok(());
        };
        self.unanswered.pop_front();
        for refusal in answer.refusals {
            let error = refusal.error.map(from_batch_status);
            match error {
                // Its watcher finds out by itself, and leaves.
                None | Some(Error::OrderNotFound { .. }) => {}
                Some(error) if is_retryable(&error) => return Err(error),
                Some(error) => tracing::warn!(
                    order.id = refusal.order_id,
                    error = error.chain(),
                    "order is not followed"
                ),
            }
        }
        Ok(())
    }

    /// Checks that the replica serves and answers.
    fn check(&self, endpoints: &Endpoints, endpoint: &Endpoint) -> Result<(), Error> {
        let is_late = |sent_at: &Instant| sent_at.elapsed() >= ANSWER_TIMEOUT;
        if self.unanswered.front().is_some_and(is_late) {
            return Err(Error::DeadlineExceeded);
        }
        if endpoints.is_passed_over(endpoint) {
            return Err(Error::shutting_down());
        }
        Ok(())
    }
}
