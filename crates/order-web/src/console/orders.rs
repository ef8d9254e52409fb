//! `/console/orders`: the orders that a filter selects, newest first, and a form that creates one.

use std::sync::Arc;

use axum::response::Response;
use maud::{Markup, html};
use order_core::{
    CreateFields, CreateOrder, Error, ListOrders, Metadata, OrderId, OrderPage, OrderStatus,
    Violation, violations::pointer_step,
};

use super::{
    Shared,
    form::{Field, Form, elsewhere, given, value_of, with_times},
    page::{Page, Region, Section},
    text::{badge, foreign, money, order_link, order_path, plain, time},
};
use crate::http::{
    host::see_other,
    operation::Call,
    problem::Problem,
    query::pairs,
    routes::list_orders::{self, query_of},
};

/// What the two forms of the page hold.
#[derive(Default)]
struct Forms<'a> {
    /// The query of the page, without what is empty.
    filter: &'a str,
    filter_violations: &'a [Violation],
    created: Option<&'a Form>,
    create_violations: &'a [Violation],
}

/// Shows the page, or goes to the one order that was asked for by its id.
pub(super) async fn show(console: Arc<Shared>, call: Call) -> Result<Response, Problem> {
    let work = try_show(&console, &call);
    console.answer(Section::Orders, &call, work).await
}

async fn try_show(console: &Shared, call: &Call) -> Result<Response, Problem> {
    let query = with_times(&given(call.parts.uri.query().unwrap_or_default()));
    let parsed = match value_of(&query, "order_id") {
        Some(id) => match OrderId::parse_field("order_id", id.trim()) {
            Ok(id) => return see_other(&order_path(id)),
            Err(error) => Err(Problem::Parameters(error)),
        },
        None => list_orders::parse(Some(&query)),
    };
    let forms = Forms {
        filter: &query,
        ..Forms::default()
    };
    let list = match parsed {
        Err(problem) if !problem.violations().is_empty() => {
            let body = |filter_violations: &[Violation]| {
                body(
                    console,
                    &Forms {
                        filter_violations,
                        ..forms
                    },
                    None,
                )
            };
            return Ok(console.refused(Section::Orders, call, problem, body).await);
        }
        parsed => parsed?,
    };
    let ctx = console.context(call);
    let orders = console
        .in_time(console.http.api.list_orders(&ctx, list.clone()))
        .await;
    let orders = orders.map_err(Problem::Parameters)?;
    let samples = console.sampler.fresh().await;
    let is_first = list.page_token.is_none();
    let page = Page {
        live: is_first.then(|| format!("page=orders&{}", query_of(&list, None))),
        ..Page::new(
            Section::Orders,
            body(console, &forms, Some((&list, &orders))),
        )
    };
    Ok(console.respond(page, &samples))
}

fn body(console: &Shared, forms: &Forms<'_>, listed: Option<(&ListOrders, &OrderPage)>) -> Markup {
    let key = console.http.ids.order_id().to_string();
    html! {
        (create_form(forms, &key))
        (filter_form(forms))
        @if let Some((list, page)) = listed {
            @for (id, region) in regions(list, page) { div id=(id) data-region { (region) } }
            @if list.page_token.is_some() {
                p { a href="/console/orders" { "First page" } }
            }
        }
    }
}

/// The parts of the page.
pub(super) fn regions(list: &ListOrders, page: &OrderPage) -> Vec<Region> {
    vec![("orders", table(list, page))]
}

fn table(list: &ListOrders, page: &OrderPage) -> Markup {
    if page.orders.is_empty() {
        return html! { p.quiet { "No order matches." } };
    }
    html! {
        div.scroll tabindex="0" role="region" aria-labelledby="orders-caption" {
            table {
                caption #orders-caption { "Orders, newest first" }
                thead {
                    tr {
                        th scope="col" { "Order" }
                        th scope="col" { "Status" }
                        th.right scope="col" { "Amount" }
                        th scope="col" { "User" }
                        th scope="col" { "External id" }
                        th scope="col" { "Created" }
                        th scope="col" { "Changed" }
                    }
                }
                tbody {
                    @for order in &page.orders {
                        tr {
                            th scope="row" { (order_link(order.id)) }
                            td { (badge(order.status)) @if let Some(cause) = &order.failure { " " code { (foreign(&cause.code)) } } }
                            td.right { (money(&order.money)) }
                            td.text { (foreign(order.user_id.as_str())) }
                            td.text { @if let Some(id) = &order.external_id { (foreign(id.as_str())) } }
                            td { (time(order.created_at)) }
                            td { (time(order.updated_at)) }
                        }
                    }
                }
            }
        }
        @if let Some(token) = &page.next_page_token {
            p { a #next href=(format!("/console/orders?{}", query_of(list, Some(token)))) { "Next page" } }
        }
    }
}

const FILTER: [&str; 5] = [
    "order_id",
    "user_id",
    "external_id",
    "created_after",
    "created_before",
];

fn filter_form(forms: &Forms<'_>) -> Markup {
    let statuses: Vec<_> = pairs(Some(forms.filter))
        .filter(|(name, _)| name.as_deref() == Some("status"))
        .filter_map(|(_, status)| status)
        .collect();
    let field = |name, label, hint| {
        let value = value_of(forms.filter, name);
        let field = Field {
            value: value.as_deref(),
            hint,
            ..Field::new(name, label)
        };
        field.render("filter", forms.filter_violations)
    };
    html! {
        form.fields method="get" action="/console/orders" aria-label="Filter orders" {
            (field("order_id", "Order id", ""))
            (field("user_id", "User", ""))
            (field("external_id", "External id", ""))
            (field("created_after", "Created after", "2026-11-23 09:30:00"))
            (field("created_before", "Created before", "2026-11-23 09:30:00"))
            fieldset {
                legend { "Status" }
                @for status in OrderStatus::ALL {
                    label {
                        input type="checkbox" name="status" value=(status)
                            checked[statuses.iter().any(|given| given == status.as_str())];
                        " " (status)
                    }
                }
            }
            @for violation in elsewhere(forms.filter_violations, &FILTER) {
                p.error { (plain(&violation.to_string())) }
            }
            div.buttons {
                button type="submit" { "Filter" }
                @if !forms.filter.is_empty() { a href="/console/orders" { "Clear" } }
            }
        }
    }
}

/// The last one is not shown.
const CREATE: [&str; 6] = [
    "user_id",
    "amount",
    "currency",
    "external_id",
    "metadata",
    "idempotency_key",
];

/// As many characters as metadata can have, with `=` and the end of a line, which is two.
const METADATA_CHARS_MAX: usize =
    Metadata::LEN_MAX * (Metadata::NAME_CHARS_MAX + Metadata::VALUE_CHARS_MAX + 3);

/// Each form has a key of its own: sent twice, it creates one order.
fn create_form(forms: &Forms<'_>, new_key: &str) -> Markup {
    let value = |name| forms.created.and_then(|form| form.get(name));
    let key = value("idempotency_key").unwrap_or(new_key);
    let field = |field: Field<'_>| {
        let field = Field {
            value: value(field.name).or(field.value),
            ..field
        };
        field.render("create", forms.create_violations)
    };
    let required = |name, label| Field {
        is_required: true,
        ..Field::new(name, label)
    };
    let amount = Field {
        is_number: true,
        hint: "99.95",
        len_max: 32,
        ..required("amount", "Amount")
    };
    let currency = Field {
        value: Some("USD"),
        len_max: 3,
        ..Field::new("currency", "Currency")
    };
    let metadata = Field {
        is_long: true,
        hint: "channel=web",
        len_max: METADATA_CHARS_MAX,
        ..Field::new("metadata", "Metadata (optional), a line of key=value each")
    };
    html! {
        details.panel open[forms.created.is_some()] {
            summary { "Create an order" }
            form.fields method="post" action="/console/orders" aria-label="Create an order" {
                input type="hidden" name="idempotency_key" value=(plain(key));
                (field(required("user_id", "User")))
                (field(amount))
                (field(currency))
                (field(Field::new("external_id", "External id (optional)")))
                (field(metadata))
                @for violation in elsewhere(forms.create_violations, &CREATE[..5]) {
                    p.error { (plain(&violation.to_string())) }
                }
                div.buttons { button.primary type="submit" { "Create" } }
            }
        }
    }
}

/// Creates an order.
pub(super) async fn create(console: Arc<Shared>, call: Call) -> Result<Response, Problem> {
    let work = try_create(&console, &call);
    console.answer(Section::Orders, &call, work).await
}

async fn try_create(console: &Shared, call: &Call) -> Result<Response, Problem> {
    let form = Form::read(call, &CREATE)?;
    let created = async {
        let request = CreateOrder {
            order_id: Some(console.http.ids.order_id()),
            ..parse(&form)?
        };
        let ctx = console.context(call);
        console
            .in_time(console.http.api.create_order(&ctx, request))
            .await
    };
    match created.await {
        Ok(receipt) => see_other(&format!("{}?done=created", order_path(receipt.order.id))),
        Err(error) => {
            let body = |create_violations: &[Violation]| {
                let forms = Forms {
                    created: Some(&form),
                    create_violations,
                    ..Forms::default()
                };
                body(console, &forms, None)
            };
            Ok(console
                .refused(Section::Orders, call, Problem::Core(error), body)
                .await)
        }
    }
}

fn parse(form: &Form) -> Result<CreateOrder, Error> {
    let mut fields = CreateFields::default();
    for name in CREATE {
        fields.set(name, form.get(name).map(Into::into));
    }
    let lines = form.get("metadata").unwrap_or_default().lines();
    let lines = (1..).zip(lines).filter(|(_, line)| !line.trim().is_empty());
    // One more than there may be, so that it is refused.
    for (n, line) in lines.take(Metadata::LEN_MAX + 1) {
        let violations = &mut fields.violations;
        match line.split_once('=') {
            None => violations.push("metadata", format!("line {n} must be key=value")),
            Some((name, _)) if fields.metadata.iter().any(|(known, _)| known == name) => {
                let field = format!("metadata/{}", pointer_step(name));
                violations.push(field, "is given twice");
            }
            Some((name, value)) => fields.metadata.push((name.to_owned(), value.to_owned())),
        }
    }
    fields.finish()
}
