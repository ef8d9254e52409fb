//! `/problems`: what each `type` of a problem document means and what to do about it.
//!
//! For people as HTML, for programs as JSON; both are made of the tables of `order-core`
//! and of `problem`, and so is docs/errors.md.

use std::{fmt::Write as _, sync::Arc, sync::LazyLock};

use axum::{RequestPartsExt as _, body::Body, extract::Path, response::Response};
use http::{
    HeaderMap, HeaderValue,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, VARY},
};
use order_core::{Reason, Repeat};
use serde::Serialize;

use crate::http::{
    media::{self, HTML, JSON},
    operation::Call,
    problem::{ALL_PROTOCOL, Problem, ProtocolError, slug},
};

/// Nothing is loaded; the style is in the page.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;\
    padding:0 1rem}table{border-collapse:collapse;width:100%}td,th{text-align:left;\
    padding:.3rem .8rem .3rem 0;border-bottom:1px solid #8884;vertical-align:top}\
    code{font-size:.9em}:root{color-scheme:light dark}";

/// What a kind of problem means.
#[derive(Serialize)]
struct Kind {
    /// The `type` of its problem documents: the address of this page.
    #[serde(rename = "type")]
    address: String,
    /// The `code` of its problem documents, and the reason in gRPC.
    code: &'static str,
    /// The `title` of its problem documents.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// The gRPC code; absent for what can only go wrong in HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc: Option<&'static str>,
    /// Whether the same request may succeed when it is repeated.
    retryable: bool,
    /// What to know and to do.
    advice: &'static str,
}

/// Every kind of problem.
#[derive(Serialize)]
struct Kinds {
    /// Those of orders first, then those of HTTP itself.
    problems: &'static [Kind],
}

static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| {
    let reasons = Reason::ALL.iter().map(|reason| Kind {
        address: format!("/problems/{}", slug(reason.as_str())),
        code: reason.as_str(),
        title: reason.title(),
        status: reason.http_status(),
        grpc: Some(reason.grpc_code().as_str()),
        retryable: matches!(reason.repeat(), Repeat::Always | Repeat::IfIdempotent),
        advice: reason.advice(),
    });
    let protocol = ALL_PROTOCOL.iter().map(|facts| Kind {
        address: format!("/problems/{}", slug(facts.code)),
        code: facts.code,
        title: facts.title,
        status: facts.status.as_u16(),
        grpc: None,
        retryable: false,
        advice: facts.advice,
    });
    reasons.chain(protocol).collect()
});

/// Lists every kind of problem.
pub(in crate::http) async fn list_problems(_: Arc<()>, call: Call) -> Result<Response, Problem> {
    answer(
        &call.parts.headers,
        &Kinds { problems: &KINDS },
        render_list,
    )
}

/// Says what one kind of problem means.
pub(in crate::http) async fn get_problem(_: Arc<()>, mut call: Call) -> Result<Response, Problem> {
    let wanted = call.parts.extract::<Path<String>>().await;
    let wanted = wanted.map_or_else(|_| String::new(), |Path(slug)| slug);
    let kind = KINDS
        .iter()
        .find(|kind| slug(kind.code) == wanted)
        .ok_or(ProtocolError::RouteNotFound)?;
    answer(&call.parts.headers, kind, render_kind)
}

/// HTML unless the client would rather have JSON.
fn answer<T: Serialize>(
    headers: &HeaderMap,
    what: &T,
    render: fn(&T) -> String,
) -> Result<Response, Problem> {
    let (body, content_type) = if media::negotiate(headers, &[HTML, JSON])? == HTML {
        (render(what).into_bytes(), "text/html; charset=utf-8")
    } else {
        let json = serde_json::to_vec(what).map_err(order_core::Error::internal)?;
        (json, JSON)
    };
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    // It changes with the version of this process only.
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=3600"),
    );
    Ok(response)
}

fn render_list(kinds: &Kinds) -> String {
    let mut page = begin("Problems");
    page.push_str("<h1>Problems</h1>\n<table>\n<tr><th>code<th>status<th>title\n");
    for kind in kinds.problems {
        // Writing to a string does not fail.
        let _ = writeln!(
            page,
            "<tr><td><a href=\"problems/{slug}\"><code>{code}</code></a><td>{status}<td>{title}",
            slug = slug(kind.code),
            code = kind.code,
            status = kind.status,
            title = escape(kind.title),
        );
    }
    page.push_str("</table>\n");
    page
}

fn render_kind(kind: &Kind) -> String {
    let mut page = begin(kind.title);
    let _ = write!(
        page,
        "<p><a href=\"../problems\">All problems</a>\n<h1>{title}</h1>\n<p>{advice}\n<table>\n\
         <tr><th>code<td><code>{code}</code>\n<tr><th>HTTP<td>{status}\n<tr><th>gRPC<td>{grpc}\n\
         <tr><th>may be repeated<td>{retryable}\n</table>\n",
        title = escape(kind.title),
        advice = mark_code(kind.advice),
        code = kind.code,
        status = kind.status,
        grpc = kind.grpc.unwrap_or("–"),
        retryable = if kind.retryable { "yes" } else { "no" },
    );
    page
}

fn begin(title: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{}</title>\n\
         <style>{STYLE}</style>\n",
        escape(title)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Makes what is between backticks code.
fn mark_code(text: &str) -> String {
    let mut html = String::new();
    for (index, part) in escape(text).split('`').enumerate() {
        match index {
            0 => {}
            odd if odd % 2 == 1 => html.push_str("<code>"),
            _ => html.push_str("</code>"),
        }
        html.push_str(part);
    }
    html
}

#[cfg(test)]
mod tests;
