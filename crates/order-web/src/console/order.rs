//! `/console/orders/{order_id}`: the flight recorder of an order, and what can be done with it.

use std::sync::Arc;

use axum::response::Response;
use jiff::Timestamp;
use maud::{Markup, html};
use order_core::{
    CancelOrder, Cause, Error, IfMatch, JobRecord, Order, OrderId, OrderRecord, OrderStatus,
    RetryOrder, Version, Violation, Violations,
};

use super::{
    Shared,
    form::{self, Field, Form, elsewhere},
    page::{Notice, Page, Region, Section},
    sampler::Samples,
    text::{badge, foreign, money, n_of, order_path, plain, time},
    timeline,
};
use crate::http::{
    host::see_other, operation::Call, problem::Problem, query::parse_version, routes::order_id,
};

/// Shows the page.
pub(super) async fn show(console: Arc<Shared>, mut call: Call) -> Result<Response, Problem> {
    let id = order_id(&mut call.parts).await;
    let work = async {
        let page = Page {
            notice: form::done(&call.parts).map(Notice::Done),
            ..read(&console, &call, id?, &[]).await?
        };
        let samples = console.sampler.fresh().await;
        Ok(console.respond(page, &samples))
    };
    console.answer(Section::Orders, &call, work).await
}

async fn read(
    console: &Shared,
    call: &Call,
    id: OrderId,
    violations: &[Violation],
) -> Result<Page, Problem> {
    let ctx = console.context(call);
    let record = console.in_time(console.admin.record(&ctx, id)).await?;
    let samples = console.sampler.fresh().await;
    let now = console.http.clock.now();
    let body = html! {
        @for (name, region) in parts(&record, &samples, now, violations) {
            div id=(name) data-region { (region) }
        }
    };
    Ok(Page {
        title: Some(format!("Order {id}")),
        live: Some(format!("page=order&order_id={id}")),
        ..Page::new(Section::Orders, body)
    })
}

/// The parts of the page.
pub(super) fn regions(record: &OrderRecord, samples: &Samples, now: Timestamp) -> Vec<Region> {
    parts(record, samples, now, &[])
}

fn parts(
    record: &OrderRecord,
    samples: &Samples,
    now: Timestamp,
    violations: &[Violation],
) -> Vec<Region> {
    let holder = record.job.as_ref().and_then(|job| holder(job, samples));
    vec![
        ("order", facts(&record.order)),
        ("timeline", history(record, holder.as_deref(), now)),
        ("actions", actions(&record.order, violations)),
    ]
}

/// Whether nothing is left to happen by itself.
pub(super) fn is_settled(record: &OrderRecord) -> bool {
    let is_published = record.unpublished.as_ref().is_none_or(Vec::is_empty);
    record.order.status.is_settled() && is_published
}

/// The name of the process that holds a job.
fn holder(job: &JobRecord, samples: &Samples) -> Option<String> {
    let id = job.holder?;
    let named = samples.last().and_then(|(_, state)| {
        let process = state
            .processes
            .iter()
            .find(|process| process.report.identity.id == id)?;
        Some(process.report.identity.name())
    });
    Some(named.unwrap_or_else(|| format!("process {id}")))
}

fn facts(order: &Order) -> Markup {
    html! {
        dl.facts.panel {
            div { dt { "Status" } dd { (badge(order.status)) " " span.quiet { "version " (order.version) } } }
            @if let Some(cause) = &order.failure {
                div { dt { "Failure" } dd { code { (foreign(&cause.code)) } " " (foreign(&cause.message)) } }
            }
            div { dt { "Amount" } dd { (money(&order.money)) } }
            div { dt { "User" } dd { (foreign(order.user_id.as_str())) } }
            @if let Some(id) = &order.external_id { div { dt { "External id" } dd { (foreign(id.as_str())) } } }
            div { dt { "Created" } dd { (time(order.created_at)) } }
            div { dt { "Changed" } dd { (time(order.updated_at)) } }
            @for (name, value) in order.metadata.iter() {
                div { dt { (foreign(name)) } dd { (foreign(value)) } }
            }
        }
    }
}

fn history(record: &OrderRecord, holder: Option<&str>, now: Timestamp) -> Markup {
    let len_max = usize::try_from(OrderRecord::LEN_MAX).unwrap_or(usize::MAX);
    let is_cut = record.events.len() >= len_max || record.attempts.len() >= len_max;
    html! {
        h2 { "Timeline" }
        @if is_cut { p.quiet { "Of a long history only the newest part is shown." } }
        @if record.silent_processes > 0 {
            p.quiet {
                "The pushes of " (n_of(record.silent_processes, "service", "services"))
                " are not known: no answer."
            }
        }
        (timeline::render(record, holder, now))
    }
}

fn actions(order: &Order, violations: &[Violation]) -> Markup {
    let path = order_path(order.id);
    let reason = Field {
        len_max: Cause::MESSAGE_CHARS_MAX,
        ..Field::new("reason", "Reason (optional)")
    };
    let version = html! { input type="hidden" name="version" value=(order.version); };
    let may_retry = order.status == OrderStatus::Failed;
    let may_cancel = order.status.allowed().contains(&OrderStatus::Cancelled);
    html! {
        @if may_retry || may_cancel {
            h2 { "Actions" }
            @for violation in elsewhere(violations, &["reason"]) { p.error { (plain(&violation.to_string())) } }
            @if may_retry {
                form.fields method="post" action=(format!("{path}/retry")) {
                    (version)
                    div.buttons { button.primary type="submit" { "Retry the order" } }
                }
            }
            @if may_cancel {
                form.fields method="post" action=(format!("{path}/cancel")) {
                    (version)
                    (reason.render("cancel", violations))
                    div.buttons { button.danger type="submit" { "Cancel the order" } }
                }
            }
        }
    }
}

/// Cancels the order.
pub(super) async fn cancel(console: Arc<Shared>, mut call: Call) -> Result<Response, Problem> {
    let id = order_id(&mut call.parts).await;
    let work = async {
        let id = id?;
        let done = try_cancel(&console, &call, id).await;
        finish(&console, &call, id, done.map(|()| "cancelled")).await
    };
    console.answer(Section::Orders, &call, work).await
}

async fn try_cancel(console: &Shared, call: &Call, order_id: OrderId) -> Result<(), Problem> {
    let form = Form::read(call, &["version", "reason"])?;
    let mut violations = Violations::default();
    let if_match = if_match(&form, &mut violations)?;
    let reason = violations.check_given(form.get("reason"), |text| {
        Cause::check_message("reason", text).map(|()| text.to_owned())
    })?;
    violations.finish(Some(()))?;
    let request = CancelOrder {
        order_id,
        reason,
        if_match,
        idempotency_key: None,
    };
    let ctx = console.context(call);
    console
        .in_time(console.http.api.cancel_order(&ctx, request))
        .await?;
    Ok(())
}

/// Gives the order a new round of attempts.
pub(super) async fn retry(console: Arc<Shared>, mut call: Call) -> Result<Response, Problem> {
    let id = order_id(&mut call.parts).await;
    let work = async {
        let id = id?;
        let done = try_retry(&console, &call, id).await;
        finish(&console, &call, id, done.map(|()| "retried")).await
    };
    console.answer(Section::Orders, &call, work).await
}

async fn try_retry(console: &Shared, call: &Call, order_id: OrderId) -> Result<(), Problem> {
    let form = Form::read(call, &["version"])?;
    let mut violations = Violations::default();
    let if_match = if_match(&form, &mut violations)?;
    violations.finish(Some(()))?;
    let ctx = console.context(call);
    let request = RetryOrder { order_id, if_match };
    console
        .in_time(console.http.api.retry_order(&ctx, request))
        .await?;
    Ok(())
}

/// The version that the page showed: what an operator decides is about that.
fn if_match(form: &Form, violations: &mut Violations) -> Result<Option<IfMatch>, Error> {
    if form.get("version").is_none() {
        violations.require("version");
    }
    let version =
        violations.check_given(form.get("version"), |text| parse_version("version", text))?;
    Ok(version.map(|version: Version| IfMatch::Versions(vec![version])))
}

/// Back to the page: with the order as it is now if it could not be changed.
async fn finish(
    console: &Shared,
    call: &Call,
    id: OrderId,
    done: Result<&'static str, Problem>,
) -> Result<Response, Problem> {
    let problem = match done {
        Ok(done) => return see_other(&format!("{}?done={done}", order_path(id))),
        Err(problem) => problem,
    };
    match read(console, call, id, problem.violations()).await {
        Ok(page) => Ok(console.refused_page(call, problem, page).await),
        Err(_) => Err(problem),
    }
}
