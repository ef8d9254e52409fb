//! Redriving dead letters: counted first, then confirmed, then followed to its end by the page that
//! asked for it.

use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http::HeaderMap;
use maud::{Markup, html};
use order_core::{
    DeadLetterFilter, Error, Redrive, RedriveEnd, RedriveProgress, RedriveStream, UserId,
    Violations, error_chain,
};
use order_edge::client_address;

use super::{
    Shared, dead_letters,
    form::{Form, given, with_times},
    live::{self, push_frame},
    page::{Page, Section},
    text::{count, foreign, n_of, plain},
};
use crate::http::{
    media::{self, EVENT_STREAM},
    operation::Call,
    problem::Problem,
    rfc3339::Rounding,
    routes::list_orders::parse_time,
};

/// Counts the orders and asks whether to redrive them.
pub(super) async fn check(console: Arc<Shared>, call: Call) -> Result<Response, Problem> {
    let work = try_check(&console, &call);
    console.answer(Section::DeadLetters, &call, work).await
}

async fn try_check(console: &Shared, call: &Call) -> Result<Response, Problem> {
    let query = with_times(&given(call.parts.uri.query().unwrap_or_default()));
    let form = Form::parse(&query, &dead_letters::FIELDS)?;
    let request = match parse(&form) {
        Ok(request) => request,
        Err(problem) => {
            let page = dead_letters::page(console, call, Some(&form), problem.violations()).await?;
            return Ok(console.refused_page(call, problem, page).await);
        }
    };
    let dry_run = Redrive {
        is_dry_run: true,
        ..request.clone()
    };
    let steps = console
        .admin
        .redrive(&console.context(call), dry_run)
        .await?;
    let (matched, is_whole) = counted(steps).await?;
    let samples = console.sampler.fresh().await;
    let page = Page {
        title: Some("Redrive".to_owned()),
        live: Some("page=dead-letters".to_owned()),
        ..Page::new(
            Section::DeadLetters,
            confirmation(&form, &request, matched, is_whole),
        )
    };
    Ok(console.respond(page, &samples))
}

/// How many orders are selected, and whether that is all of them: counting takes no longer than a
/// request may.
async fn counted(mut steps: RedriveStream) -> Result<(u32, bool), Problem> {
    let mut matched = 0;
    let counting = async {
        while let Some(step) = steps.next().await {
            let step = step?;
            matched = step.matched;
            if step.end.is_some() {
                break;
            }
        }
        Ok::<(), Error>(())
    };
    match tokio::time::timeout(super::TIMEOUT, counting).await {
        Ok(counted) => counted
            .map(|()| (matched, true))
            .map_err(Problem::Parameters),
        Err(_) => Ok((matched, false)),
    }
}

fn confirmation(form: &Form, request: &Redrive, matched: u32, is_whole: bool) -> Markup {
    let is_limit = matched == request.limit;
    html! {
        p.lead {
            @if !is_whole { "More than " } @else if is_limit { "At least " }
            (n_of(matched, "order", "orders")) " would be redriven."
        }
        @if is_limit { p.quiet { "That is the limit of this redrive." } }
        dl.facts.panel {
            @for name in dead_letters::FIELDS {
                @if let Some(value) = form.get(name) {
                    div { dt { (label(name)) } dd { (foreign(value)) } }
                }
            }
        }
        @if matched > 0 || !is_whole {
            form method="post" action="/console/dead-letters/redrive" data-stream {
                @for name in dead_letters::FIELDS {
                    @if let Some(value) = form.get(name) { input type="hidden" name=(name) value=(value); }
                }
                p { "The redrive goes on for as long as this page is open. Closing the page ends it: orders redriven so far go on, and no others are." }
                div.buttons {
                    button.primary type="submit" { "Redrive " (n_of(matched, "order", "orders")) }
                    button type="button" data-stop hidden { "Stop" }
                    a href="/console/dead-letters" { "Back" }
                }
            }
            noscript { p.error { "This needs the script of the page. Without it, use: orderctl admin redrive" } }
            div #progress data-region role="status" {}
        } @else {
            p { a href="/console/dead-letters" { "Back to the dead letters" } }
        }
    }
}

const fn label(name: &str) -> &'static str {
    match name.as_bytes() {
        b"code" => "Cause",
        b"user_id" => "User",
        b"created_after" => "Created after",
        b"created_before" => "Created before",
        b"limit" => "Limit (orders)",
        b"rate" => "Rate (orders a second)",
        _ => "Stop above (% failed again)",
    }
}

/// Redrives orders until the client closes the stream.
pub(super) async fn run(console: Arc<Shared>, call: Call) -> Result<Response, Problem> {
    let work = try_run(&console, &call);
    console.answer(Section::DeadLetters, &call, work).await
}

async fn try_run(console: &Shared, call: &Call) -> Result<Response, Problem> {
    check_stream(&call.parts.headers)?;
    let request = parse(&Form::read(call, &dead_letters::FIELDS)?)?;
    let slot = console.take_stream(client_address(&call.parts.extensions))?;
    let steps = console
        .admin
        .redrive(&console.context(call), request)
        .await?;
    Ok(live::respond(
        console,
        call.request_id.clone(),
        frames(steps),
        slot,
    ))
}

/// A redrive ends with its page, so only a page that stays open can have one.
fn check_stream(headers: &HeaderMap) -> Result<(), Problem> {
    media::negotiate(headers, &[EVENT_STREAM])?;
    Ok(())
}

/// The progress as fragments; the last one is followed by `end`.
fn frames(steps: RedriveStream) -> impl Stream<Item = Bytes> + Send {
    stream::unfold(Some(steps), |steps| async {
        let mut steps = steps?;
        let step = steps.next().await?;
        let mut frame = String::new();
        let is_over = match &step {
            Ok(progress) => {
                push_frame(&mut frame, "progress", &progress_of(progress).into_string());
                progress.end.is_some()
            }
            Err(error) => {
                tracing::warn!(error.chain = error_chain(error), "a redrive failed");
                let text = html! { p.notice.bad { "The redrive has ended: " (plain(&error.to_string())) "." } };
                push_frame(&mut frame, "progress", &text.into_string());
                true
            }
        };
        if is_over {
            push_frame(&mut frame, "end", "");
        }
        Some((Bytes::from(frame), (!is_over).then_some(steps)))
    })
}

fn progress_of(progress: &RedriveProgress) -> Markup {
    let RedriveProgress {
        matched,
        redriven,
        skipped,
        processed,
        failed,
        end,
    } = progress;
    let fact = |name: &str, n: u32| html! { div { dt { (name) } dd { (count(n)) } } };
    html! {
        @match end {
            None => p.notice.wait { "The redrive is running." },
            Some(RedriveEnd::Done) => p.notice.good { "The redrive is done: every order has ended." },
            Some(RedriveEnd::TooManyFailures) => p.notice.bad { "Stopped: too many orders failed again. Those redriven so far go on." },
        }
        dl.facts.panel {
            (fact("Found", *matched))
            (fact("Redriven", *redriven))
            (fact("Moved by others", *skipped))
            (fact("Processed", *processed))
            (fact("Failed again", *failed))
        }
    }
}

fn parse(form: &Form) -> Result<Redrive, Problem> {
    let mut violations = Violations::default();
    let mut number = |name: &str, default: u32| -> Result<u32, Error> {
        let number = violations.check_given(form.get(name), |text| {
            text.parse()
                .map_err(|_| Error::invalid(name, "must be a whole number"))
        })?;
        Ok(number.unwrap_or(default))
    };
    let limit = number("limit", Redrive::LIMIT_DEFAULT)?;
    let rate = number("rate", Redrive::RATE_DEFAULT)?;
    let failed_percent_max = number("failed_percent_max", Redrive::FAILED_PERCENT_DEFAULT)?;
    let filter = DeadLetterFilter {
        code: form.get("code").map(str::to_owned),
        user_id: violations.check_given(form.get("user_id"), UserId::parse)?,
        created_after: violations.check_given(form.get("created_after"), |text| {
            parse_time("created_after", text, Rounding::Down)
        })?,
        created_before: violations.check_given(form.get("created_before"), |text| {
            parse_time("created_before", text, Rounding::Up)
        })?,
    };
    let request = Redrive {
        filter,
        limit,
        rate,
        failed_percent_max,
        is_dry_run: false,
    };
    violations.check(request.check())?;
    violations
        .finish(Some(request))
        .map_err(Problem::Parameters)
}
