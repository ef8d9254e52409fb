//! `GET /orders/{order_id}/events`: the history of an order, as a page or as it happens.

use std::sync::Arc;

use axum::{body::Body, response::Response};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{LINK, VARY},
};
use order_core::{CallContext, Error, ListEvents, Order, OrderId, PageSize, Version};
use order_edge::{
    client_address,
    slots::{Full, Slot},
};

use super::order_id;
use crate::http::{
    Gateway,
    dto::{events_response, header_value, next_after},
    media::{self, EVENT_STREAM, JSON},
    operation::Call,
    problem::Problem,
    query::{Query, parse_page_size, parse_version},
    sse::{self, EventStream},
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Answers with a stream of Server-Sent Events if the client prefers one, else with a page.
pub(in crate::http) async fn list_events(
    gateway: Arc<Gateway>,
    mut call: Call,
) -> Result<Response, Problem> {
    let representation = media::negotiate(&call.parts.headers, &[JSON, EVENT_STREAM])?;
    let order_id = order_id(&mut call.parts).await?;
    let given = parse(call.parts.uri.query())?;
    let resumed = last_event_id(&call.parts.headers)?;
    let ctx = gateway.context(call.request_id, call.trace_parent);
    if representation == EVENT_STREAM {
        let seen = resumed.or(given.last_event_id).or(given.after);
        let slot = gateway
            .streams
            .try_take(client_address(&call.parts.extensions));
        return stream(&gateway, &ctx, order_id, seen, slot).await;
    }
    let list = ListEvents {
        order_id,
        after: given.after.map_or(0, |seen| seen.version),
        page_size: given.page_size,
    };
    page(&gateway, &ctx, list).await
}

/// What the client has seen, and how it said so.
#[derive(Clone, Copy)]
struct Seen {
    version: Version,
    parameter: &'static str,
}

impl Seen {
    fn parse(parameter: &'static str, text: &str) -> Result<Self, Error> {
        let version = parse_version(parameter, text)?;
        Ok(Self { version, parameter })
    }

    /// Refuses a version that the order does not have yet.
    fn check(self, order: &Order) -> Result<(), Problem> {
        if self.version <= order.version {
            return Ok(());
        }
        let rule = format!("must be at most {}, where the order is", order.version);
        Err(Problem::Parameters(Error::invalid(self.parameter, rule)))
    }
}

/// The parameters of the query.
struct Given {
    after: Option<Seen>,
    last_event_id: Option<Seen>,
    page_size: PageSize,
}

fn parse(query: Option<&str>) -> Result<Given, Problem> {
    let mut query = Query::parse(query, &["after", "last_event_id", "page_size"], &[]);
    let after = query.check("after", |text| Seen::parse("after", text))?;
    let last_event_id = query.check("last_event_id", |text| Seen::parse("last_event_id", text))?;
    let page_size = query.check("page_size", parse_page_size)?;
    query.finish(Given {
        after,
        last_event_id,
        page_size: page_size.unwrap_or_default(),
    })
}

/// What a client that comes back to a stream has seen.
fn last_event_id(headers: &HeaderMap) -> Result<Option<Seen>, Problem> {
    let Some(value) = headers.get(LAST_EVENT_ID) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    Seen::parse("Last-Event-ID", text)
        .map(Some)
        .map_err(Problem::Parameters)
}

async fn page(gateway: &Gateway, ctx: &CallContext, list: ListEvents) -> Result<Response, Problem> {
    let page = gateway
        .in_time(gateway.deps.api.list_events(ctx, list))
        .await
        .map_err(Problem::Parameters)?;
    let seen = Seen {
        version: list.after,
        parameter: "after",
    };
    seen.check(&page.order)?;
    let mut response = events_response(&list, &page)?;
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("accept"));
    if let Some(after) = next_after(&page) {
        let (order_id, size) = (list.order_id, list.page_size.get());
        let link =
            format!("</orders/{order_id}/events?after={after}&page_size={size}>; rel=\"next\"");
        headers.insert(LINK, header_value(link)?);
    }
    Ok(response)
}

async fn stream(
    gateway: &Arc<Gateway>,
    ctx: &CallContext,
    order_id: OrderId,
    seen: Option<Seen>,
    slot: Result<Slot, Full>,
) -> Result<Response, Problem> {
    if gateway.deps.stop.is_cancelled() {
        return Err(Error::shutting_down().into());
    }
    let slot = slot.map_err(Error::from)?;
    let order = gateway
        .in_time(gateway.deps.api.get_order(ctx, order_id))
        .await?;
    let since = seen.map_or(0, |seen| seen.version);
    if let Some(seen) = seen {
        seen.check(&order)?;
    }
    if order.status.is_final() && since == order.version {
        // Tells an `EventSource` not to come back (WHATWG HTML §9.2.1).
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    }
    let stream = EventStream {
        frames: sse::frames_of(gateway.watch(ctx, order_id, since).await?),
        request_id: ctx.request_id.clone(),
        stop: gateway.deps.stop.clone(),
    };
    Ok(stream.into_response(slot))
}
