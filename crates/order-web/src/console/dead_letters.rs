//! `/console/dead-letters`: FAILED orders by their cause, and the form that redrives them.

use std::sync::Arc;

use axum::response::Response;
use maud::{Markup, html};
use order_core::{DeadLetterGroup, Redrive, Violation};

use super::{
    Shared,
    form::{Field, Form, elsewhere, given},
    page::{Page, Region, Section},
    text::{count, foreign, n_of, order_link, plain},
};
use crate::http::{operation::Call, problem::Problem};

/// The fields of a redrive.
pub(super) const FIELDS: [&str; 7] = [
    "code",
    "user_id",
    "created_after",
    "created_before",
    "limit",
    "rate",
    "failed_percent_max",
];

/// Shows the page. Its query fills in the form.
pub(super) async fn show(console: Arc<Shared>, call: Call) -> Result<Response, Problem> {
    let work = async {
        let query = given(call.parts.uri.query().unwrap_or_default());
        let form = Form::parse(&query, &FIELDS)?;
        let page = page(&console, &call, Some(&form), &[]).await?;
        let samples = console.sampler.fresh().await;
        Ok(console.respond(page, &samples))
    };
    console.answer(Section::DeadLetters, &call, work).await
}

/// The page with the form as it was sent, and what is wrong with it.
pub(super) async fn page(
    console: &Shared,
    call: &Call,
    form: Option<&Form>,
    violations: &[Violation],
) -> Result<Page, Problem> {
    let ctx = console.context(call);
    let groups = console.in_time(console.admin.dead_letters(&ctx)).await?;
    let body = html! {
        @for (id, region) in regions(&groups) { div id=(id) data-region { (region) } }
        (redrive_form(form, violations))
    };
    Ok(Page {
        live: Some("page=dead-letters".to_owned()),
        ..Page::new(Section::DeadLetters, body)
    })
}

/// The parts of the page.
pub(super) fn regions(groups: &[DeadLetterGroup]) -> Vec<Region> {
    vec![("groups", table(groups))]
}

fn table(groups: &[DeadLetterGroup]) -> Markup {
    if groups.is_empty() {
        return html! { p.quiet { "No order is FAILED." } };
    }
    let n_orders = groups
        .iter()
        .map(|group| group.count)
        .fold(0, u32::saturating_add);
    html! {
        div.scroll tabindex="0" role="region" aria-labelledby="groups-caption" {
            table {
                caption #groups-caption {
                    (n_of(n_orders, "order is FAILED", "orders are FAILED"))
                    @if n_orders >= DeadLetterGroup::COUNT_MAX { ", counting the newest" }
                }
                thead {
                    tr {
                        th scope="col" { "Cause" }
                        th.right scope="col" { "Orders" }
                        th scope="col" { "Newest" }
                        th scope="col" { "Redrive" }
                    }
                }
                tbody {
                    @for group in groups {
                        tr {
                            th scope="row" { code { (foreign(&group.code)) } }
                            td.right { (count(group.count)) }
                            td { (order_link(group.example)) }
                            td {
                                a href=(format!("/console/dead-letters?code={}#redrive", encoded(&group.code))) {
                                    "Select" span.hidden { " " (foreign(&group.code)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn redrive_form(form: Option<&Form>, violations: &[Violation]) -> Markup {
    let (limit, rate) = (
        Redrive::LIMIT_DEFAULT.to_string(),
        Redrive::RATE_DEFAULT.to_string(),
    );
    let percent = Redrive::FAILED_PERCENT_DEFAULT.to_string();
    let field = |field: Field<'_>| {
        let value = form.and_then(|form| form.get(field.name)).or(field.value);
        Field { value, ..field }.render("redrive", violations)
    };
    let time = |name, label| Field {
        hint: "2026-11-23 09:30:00",
        ..Field::new(name, label)
    };
    let number = |name, label, value| Field {
        value: Some(value),
        is_number: true,
        is_required: true,
        len_max: 7,
        ..Field::new(name, label)
    };
    html! {
        h2 #redrive { "Redrive" }
        p { "Gives FAILED orders a new round of attempts, the newest first. The first step only counts them." }
        form.fields method="get" action="/console/dead-letters/redrive" aria-label="Redrive" {
            (field(Field::new("code", "Cause")))
            (field(Field::new("user_id", "User")))
            (field(time("created_after", "Created after")))
            (field(time("created_before", "Created before")))
            (field(number("limit", "Limit (orders)", &limit)))
            (field(number("rate", "Rate (orders a second)", &rate)))
            (field(number("failed_percent_max", "Stop above (% failed again)", &percent)))
            @for violation in elsewhere(violations, &FIELDS) { p.error { (plain(&violation.to_string())) } }
            div.buttons { button.primary type="submit" { "Count the orders" } }
        }
    }
}
