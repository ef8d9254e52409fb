//! `/console/live`: what has changed on a page that is open, as fragments of HTML over Server-Sent
//! Events. The script of the page puts each into the region of its name.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use maud::html;
use order_core::{
    CallContext, Deadline, Error, ListOrders, OrderEventStream, OrderId, RequestId, WatchOrder,
};
use order_edge::{client_address, slots::Slot};
use tokio::sync::watch;

use super::{
    Shared, dead_letters, order, orders, overview,
    page::{self, Region},
    processes,
    sampler::{Samples, Viewer},
};
use crate::http::{
    operation::Call,
    problem::{Problem, ProtocolError},
    routes::list_orders,
    sse::EventStream,
};

/// The least time between two reads of an order, whatever happens to it: each takes two statements.
const ORDER_GAP: Duration = Duration::from_secs(1);

/// The least time between two counts of the dead letters.
const COUNT_GAP: Duration = Duration::from_secs(10);

/// What a page shows besides the state of the system.
enum Topic {
    Overview,
    Processes,
    DeadLetters { n_dead: Option<u32> },
    Orders(Box<ListOrders>),
    Order(Box<Watched>),
}

/// An order that is followed.
struct Watched {
    id: OrderId,
    events: Option<OrderEventStream>,
    /// How many reads in a row have found that nothing is left to happen by itself. The first may
    /// have come before the pushes of other processes.
    n_settled: u8,
}

/// Answers with a stream that lasts as long as the page is open.
pub(super) async fn follow(console: Arc<Shared>, call: Call) -> Result<Response, Problem> {
    if console.http.stop.is_cancelled() {
        return Err(Error::shutting_down().into());
    }
    let topic = parse(call.parts.uri.query().unwrap_or_default())?;
    let slot = console.take_stream(client_address(&call.parts.extensions))?;
    let request_id = call.request_id;
    // The page has these figures, or newer ones.
    console.sampler.fresh().await;
    let follow = Follow {
        samples: console.sampler.subscribe(),
        _viewer: console.sampler.viewer(),
        request_id: request_id.clone(),
        topic,
        read_at: None,
        sent: HashMap::new(),
        console: Arc::clone(&console),
    };
    Ok(respond(&console, request_id, follow.frames(), slot))
}

/// A stream that ends when the process stops.
pub(super) fn respond(
    console: &Shared,
    request_id: RequestId,
    frames: impl Stream<Item = Bytes> + Send + 'static,
    slot: Slot,
) -> Response {
    let stream = EventStream {
        frames: frames.boxed(),
        request_id,
        stop: console.http.stop.clone(),
    };
    stream.into_response(slot)
}

fn parse(query: &str) -> Result<Topic, Problem> {
    let (page, rest) = query.split_once('&').unwrap_or((query, ""));
    match page {
        "page=overview" => Ok(Topic::Overview),
        "page=processes" => Ok(Topic::Processes),
        "page=dead-letters" => Ok(Topic::DeadLetters { n_dead: None }),
        "page=orders" => Ok(Topic::Orders(Box::new(list_orders::parse(Some(rest))?))),
        "page=order" => {
            let id = rest.strip_prefix("order_id=").unwrap_or_default();
            let id = OrderId::parse_field("order_id", id).map_err(Problem::Parameters)?;
            Ok(Topic::Order(Box::new(Watched {
                id,
                events: None,
                n_settled: 0,
            })))
        }
        _ => Err(ProtocolError::RouteNotFound.into()),
    }
}

/// A page that is open.
struct Follow {
    console: Arc<Shared>,
    samples: watch::Receiver<Arc<Samples>>,
    /// Tells the sampler that the page is open.
    _viewer: Viewer,
    request_id: RequestId,
    topic: Topic,
    /// When what is not in the samples was read last.
    read_at: Option<Instant>,
    /// What the page has.
    sent: HashMap<&'static str, String>,
}

impl Follow {
    fn frames(self) -> impl Stream<Item = Bytes> + Send {
        stream::unfold((self, true), |(mut follow, is_first)| async move {
            if !is_first {
                follow.wait().await?;
            }
            loop {
                let regions = follow.regions().await;
                let frame = follow.changed(regions);
                if !frame.is_empty() {
                    return Some((frame.into(), (follow, false)));
                }
                follow.wait().await?;
            }
        })
    }

    /// Waits until there may be something new. `None`: the sampler has ended.
    async fn wait(&mut self) -> Option<()> {
        let Topic::Order(order) = &mut self.topic else {
            return self.samples.changed().await.ok();
        };
        let Some(events) = &mut order.events else {
            return self.samples.changed().await.ok();
        };
        tokio::select! {
            changed = self.samples.changed() => changed.ok(),
            event = events.next() => {
                if !matches!(event, Some(Ok(_))) {
                    // Cut: from now on the order is read with the samples only.
                    order.events = None;
                }
                order.n_settled = 0;
                let clock = &self.console.http.clock;
                let elapsed = self.read_at.map(|at| clock.instant().saturating_duration_since(at));
                let gap = elapsed.map_or(Duration::ZERO, |elapsed| ORDER_GAP.saturating_sub(elapsed));
                clock.sleep(gap).await;
                Some(())
            }
        }
    }

    async fn regions(&mut self) -> Vec<Region> {
        let samples = Arc::clone(&self.samples.borrow_and_update());
        let now = self.console.http.clock.instant();
        let mut regions = vec![
            ("verdict", page::verdict(&samples)),
            ("reading", page::reading(&samples, now)),
        ];
        match &self.topic {
            Topic::Overview => regions.extend(overview::regions(&samples)),
            Topic::Processes => regions.extend(processes::regions(&samples)),
            Topic::DeadLetters { .. } => regions.extend(self.dead_letters(&samples, now).await),
            Topic::Orders(_) => regions.extend(self.orders(now).await),
            Topic::Order(_) => regions.extend(self.order(now).await),
        }
        regions
    }

    fn context(&self, now: Instant) -> CallContext {
        let deadline = Deadline::at(now + super::TIMEOUT);
        CallContext::new(self.request_id.clone(), deadline)
    }

    /// Whether the last read is long enough ago; notes that there is one now.
    fn is_due(&mut self, gap: Duration, now: Instant) -> bool {
        let is_due = self
            .read_at
            .is_none_or(|at| now.saturating_duration_since(at) >= gap);
        if is_due {
            self.read_at = Some(now);
        }
        is_due
    }

    async fn dead_letters(&mut self, samples: &Samples, now: Instant) -> Vec<Region> {
        let n_now = samples.last().map(|(overview, _)| overview.backlog.dead);
        let Topic::DeadLetters { n_dead } = self.topic else {
            return Vec::new();
        };
        // The page was made a moment ago, with what there was then.
        let is_counted = n_dead.is_none() || n_dead == n_now;
        if !is_counted && !self.is_due(COUNT_GAP, now) {
            return Vec::new();
        }
        self.topic = Topic::DeadLetters { n_dead: n_now };
        if is_counted {
            return Vec::new();
        }
        let ctx = self.context(now);
        let groups = self
            .console
            .in_time(self.console.admin.dead_letters(&ctx))
            .await;
        groups.map_or_else(failed, |groups| dead_letters::regions(&groups))
    }

    async fn orders(&mut self, now: Instant) -> Vec<Region> {
        if !self.is_due(ORDER_GAP, now) {
            return Vec::new();
        }
        let Topic::Orders(list) = &self.topic else {
            return Vec::new();
        };
        let (ctx, list) = (self.context(now), (**list).clone());
        let page = self
            .console
            .in_time(self.console.http.api.list_orders(&ctx, list.clone()))
            .await;
        page.map_or_else(failed, |page| orders::regions(&list, &page))
    }

    async fn order(&mut self, now: Instant) -> Vec<Region> {
        let Topic::Order(order) = &self.topic else {
            return Vec::new();
        };
        let (id, is_settled, is_watched) = (order.id, order.n_settled > 1, order.events.is_some());
        if (is_settled && is_watched) || !self.is_due(ORDER_GAP, now) {
            return Vec::new();
        }
        let ctx = self.context(now);
        let console = Arc::clone(&self.console);
        let record = match console.in_time(console.admin.record(&ctx, id)).await {
            Ok(record) => record,
            Err(error) => return failed(error),
        };
        let samples = Arc::clone(&self.samples.borrow());
        let regions = order::regions(&record, &samples, console.http.clock.now());
        if let Topic::Order(order) = &mut self.topic {
            let is_settled = order::is_settled(&record);
            order.n_settled = if is_settled {
                order.n_settled.saturating_add(1)
            } else {
                0
            };
            if order.events.is_none() {
                let watch = WatchOrder {
                    order_id: id,
                    since: Some(record.order.version),
                };
                let events = console.http.api.watch_orders(&ctx, vec![watch]);
                order.events = console.in_time(events).await.ok();
            }
        }
        regions
    }

    /// The frames of the regions that the page does not have yet.
    fn changed(&mut self, regions: Vec<Region>) -> String {
        let mut frames = String::new();
        for (id, region) in regions {
            let region = region.into_string();
            if self.sent.get(id) != Some(&region) {
                push_frame(&mut frames, id, &region);
                self.sent.insert(id, region);
            }
        }
        frames
    }
}

/// What the page says in place of what cannot be read; the old content stays.
#[expect(clippy::needless_pass_by_value, reason = "the form of `map_or_else`")]
fn failed(error: Error) -> Vec<Region> {
    let text = html! { span.stale { "This page is not up to date: " (super::text::plain(&error.to_string())) "." } };
    vec![("reading", text)]
}

/// Adds an event whose data is HTML, line by line.
pub(super) fn push_frame(frames: &mut String, id: &str, html: &str) {
    frames.push_str("event: ");
    frames.push_str(id);
    for line in html.split('\n') {
        frames.push_str("\ndata: ");
        frames.push_str(line);
    }
    frames.push_str("\n\n");
}
