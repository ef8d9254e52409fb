//! `GET /orders`: reads orders page by page, newest first.

use std::sync::Arc;

use axum::response::Response;
use http::header::LINK;
use jiff::Timestamp;
use order_core::{Error, ExternalId, ListOrders, OrderStatus, UserId};

use crate::http::{
    Gateway,
    dto::{header_value, page_response},
    media,
    operation::Call,
    problem::Problem,
    query::{Query, parse_page_size},
    rfc3339::{self, Rounding},
};

/// Reads orders page by page, newest first.
pub(in crate::http) async fn list_orders(
    gateway: Arc<Gateway>,
    call: Call,
) -> Result<Response, Problem> {
    media::check_accept(&call.parts.headers)?;
    let request = parse(call.parts.uri.query())?;
    let ctx = gateway.context(call.request_id, call.trace_parent);
    let page = gateway
        .in_time(gateway.deps.api.list_orders(&ctx, request.clone()))
        .await
        .map_err(Problem::Parameters)?;
    let mut response = page_response(&page)?;
    if let Some(token) = &page.next_page_token {
        let query = query_of(&request, Some(token));
        let link = header_value(format!("</orders?{query}>; rel=\"next\""))?;
        response.headers_mut().insert(LINK, link);
    }
    Ok(response)
}

const SINGLE: &[&str] = &[
    "user_id",
    "external_id",
    "created_after",
    "created_before",
    "page_size",
    "page_token",
];

/// Reads the query of a list.
pub(crate) fn parse(query: Option<&str>) -> Result<ListOrders, Problem> {
    let mut query = Query::parse(query, SINGLE, &["status"]);
    let user_id = query.check("user_id", UserId::parse)?;
    let external_id = query.check("external_id", ExternalId::parse)?;
    // Orders are created at whole microseconds: those after a time are those after the
    // microsecond it is in, those before it are those before the next one.
    let created_after = query.check("created_after", |text| {
        parse_time("created_after", text, Rounding::Down)
    })?;
    let created_before = query.check("created_before", |text| {
        parse_time("created_before", text, Rounding::Up)
    })?;
    let page_size = query.check("page_size", parse_page_size)?;
    let mut statuses = Vec::new();
    let parsed: Vec<_> = query.all("status").map(parse_status).collect();
    for status in parsed {
        if let Some(status) = query.violations.check(status)?
            && !statuses.contains(&status)
        {
            statuses.push(status);
        }
    }
    // An empty token is the first page (AIP-158).
    let page_token = query.find("page_token").filter(|token| !token.is_empty());
    let page_token = page_token.map(String::from);
    query.finish(ListOrders {
        user_id,
        statuses,
        external_id,
        created_after,
        created_before,
        page_size: page_size.unwrap_or_default(),
        page_token,
    })
}

fn parse_status(text: &str) -> Result<OrderStatus, Error> {
    OrderStatus::parse(text).ok_or_else(|| {
        let names = OrderStatus::ALL.map(OrderStatus::as_str).join(", ");
        Error::invalid("status", format!("must be one of {names}"))
    })
}

/// Reads a time; the error names the parameter `name`.
pub(crate) fn parse_time(name: &str, text: &str, rounding: Rounding) -> Result<Timestamp, Error> {
    rfc3339::parse(text, rounding).ok_or_else(|| {
        let rule = "must be a time like 2026-11-23T09:30:00Z or \
            2026-11-23T11:30:00+02:00, where + is written %2B";
        Error::invalid(name, rule)
    })
}

/// The query of a page of a list, in which times are those that [`parse`] has rounded.
pub(crate) fn query_of(request: &ListOrders, token: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if let Some(user_id) = &request.user_id {
        query.append_pair("user_id", user_id.as_str());
    }
    if let Some(external_id) = &request.external_id {
        query.append_pair("external_id", external_id.as_str());
    }
    for status in &request.statuses {
        query.append_pair("status", status.as_str());
    }
    if let Some(time) = request.created_after {
        query.append_pair("created_after", &format!("{time:.6}"));
    }
    if let Some(time) = request.created_before {
        query.append_pair("created_before", &format!("{time:.6}"));
    }
    query.append_pair("page_size", &request.page_size.get().to_string());
    if let Some(token) = token {
        query.append_pair("page_token", token);
    }
    query.finish()
}
