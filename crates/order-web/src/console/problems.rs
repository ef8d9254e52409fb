//! Problems that arise below the handlers of the console, as pages: a path that nothing serves, a form
//! that is too long, a host that is refused.

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    middleware::{Next, from_fn},
    response::Response,
};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use maud::html;
use serde::Deserialize;

use super::{
    page::{self, Section},
    text::plain,
};
use crate::http::media::{HTML, JSON, PROBLEM, negotiate};

/// The longest document that becomes a page, in bytes.
const LEN_MAX: usize = 64 * 1024;

/// The members of a problem document that a page shows.
#[derive(Deserialize)]
struct Words {
    title: String,
    detail: String,
    request_id: String,
}

/// Has a listener with a console answer browsers with pages where it would answer with problem
/// documents. The pages hold nothing of the system: the host by which it was called may be refused.
pub fn with_pages(router: Router) -> Router {
    router.layer(from_fn(answer))
}

async fn answer(request: Request, next: Next) -> Response {
    let is_browser = negotiate(request.headers(), &[JSON, HTML]).is_ok_and(|kind| kind == HTML);
    let response = next.run(request).await;
    let is_problem = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind == PROBLEM);
    if !is_browser || !is_problem {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let document = to_bytes(body, LEN_MAX).await.unwrap_or_default();
    let Ok(words) = serde_json::from_slice::<Words>(&document) else {
        return Response::from_parts(head, Body::from(document));
    };
    let body = html! {
        p.lead { (plain(&words.detail)) }
        p.quiet { "Request " code { (plain(&words.request_id)) } }
        p { a href=(Section::Overview.path()) { "Back to: " (Section::Overview.name()) } }
    };
    let page = page::bare(&words.title, &body).into_string();
    head.headers.remove(CONTENT_LENGTH);
    let mut response = Response::from_parts(head, Body::from(page));
    page::dress(&mut response);
    response
}
