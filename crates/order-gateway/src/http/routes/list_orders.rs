//! `GET /orders`: reads orders page by page, newest first.

use std::{
    num::{IntErrorKind, ParseIntError},
    sync::Arc,
};

use axum::response::Response;
use http::header::LINK;
use order_core::{Error, ListOrders, OrderStatus, PageSize, UserId};

use crate::http::{
    Gateway,
    dto::{header_value, page_response},
    fields::Violations,
    media,
    operation::Call,
    problem::Problem,
};

pub(in crate::http) async fn list_orders(
    gateway: Arc<Gateway>,
    call: Call,
) -> Result<Response, Problem> {
    media::check_accept(&call.parts.headers)?;
    let request = parse(call.parts.uri.query().unwrap_or_default())?;
    let ctx = gateway.context(call.request_id);
    let page = gateway
        .in_time(gateway.deps.api.list_orders(&ctx, request.clone()))
        .await?;
    let mut response = page_response(&page)?;
    if let Some(token) = &page.next_page_token {
        response
            .headers_mut()
            .insert(LINK, header_value(next_link(&request, token))?);
    }
    Ok(response)
}

/// The parameters that may be given once, as they came.
#[derive(Default)]
struct Given {
    user_id: Option<String>,
    page_size: Option<String>,
    page_token: Option<String>,
}

fn parse(query: &str) -> Result<ListOrders, Error> {
    let mut violations = Violations::default();
    let mut given = Given::default();
    let mut statuses = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let slot = match &*name {
            "user_id" => &mut given.user_id,
            "page_size" => &mut given.page_size,
            "page_token" => &mut given.page_token,
            "status" => {
                match parse_status(&value) {
                    Ok(status) if statuses.contains(&status) => {}
                    Ok(status) => statuses.push(status),
                    Err(rule) => violations.push("status", rule),
                }
                continue;
            }
            unknown => {
                violations.push_unknown(unknown, "unknown query parameter");
                continue;
            }
        };
        if slot.replace(value.into_owned()).is_some() {
            violations.push(name, "is given twice");
        }
    }
    let user_id = match given.user_id {
        Some(text) => violations.check(UserId::parse(&text))?,
        None => None,
    };
    let page_size = match given.page_size {
        Some(text) => violations.check(parse_page_size(&text))?,
        None => Some(PageSize::DEFAULT),
    };
    let request = page_size.map(|page_size| ListOrders {
        user_id,
        statuses,
        page_size,
        // An empty token is the first page (AIP-158).
        page_token: given.page_token.filter(|token| !token.is_empty()),
    });
    violations.finish(request)
}

fn parse_status(text: &str) -> Result<OrderStatus, String> {
    OrderStatus::parse(text).ok_or_else(|| {
        let names = OrderStatus::ALL.map(OrderStatus::as_str).join(", ");
        format!("must be one of {names}")
    })
}

fn parse_page_size(text: &str) -> Result<PageSize, Error> {
    let wanted = text
        .parse()
        .or_else(|error: ParseIntError| match error.kind() {
            // As far out of range as the largest number inside it.
            IntErrorKind::PosOverflow => Ok(i64::MAX),
            IntErrorKind::NegOverflow => Ok(i64::MIN),
            _ => Err(Error::invalid("page_size", "must be a whole number")),
        })?;
    PageSize::new(wanted)
}

/// The URL of the next page, as a link (RFC 8288).
fn next_link(request: &ListOrders, token: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if let Some(user_id) = &request.user_id {
        query.append_pair("user_id", user_id.as_str());
    }
    for status in &request.statuses {
        query.append_pair("status", status.as_str());
    }
    query.append_pair("page_size", &request.page_size.get().to_string());
    query.append_pair("page_token", token);
    format!("</orders?{}>; rel=\"next\"", query.finish())
}
