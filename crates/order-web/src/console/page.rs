//! What all pages of the console share: their frame, their headers, and the sentence on top.

use std::time::Instant;

use axum::{body::Body, response::Response};
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY},
};
use maud::{DOCTYPE, Markup, html};
use order_core::{
    RequestId, Violation,
    overview::{Finding, Subject},
};

use super::{sampler::Samples, text};
use crate::http::problem::Problem;

/// Everything from here and nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The pages that the navigation leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Overview,
    Orders,
    DeadLetters,
    Processes,
}

impl Section {
    const ALL: [Self; 4] = [
        Self::Overview,
        Self::Orders,
        Self::DeadLetters,
        Self::Processes,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Orders => "Orders",
            Self::DeadLetters => "Dead letters",
            Self::Processes => "Processes",
        }
    }

    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Overview => "/console/",
            Self::Orders => "/console/orders",
            Self::DeadLetters => "/console/dead-letters",
            Self::Processes => "/console/processes",
        }
    }
}

/// A part of a page that is replaced while the page is open, by its id.
pub(super) type Region = (&'static str, Markup);

/// A page.
pub(super) struct Page {
    pub(super) section: Section,
    /// What the page is about, if that is less than its section.
    pub(super) title: Option<String>,
    pub(super) status: StatusCode,
    /// What to follow while the page is open: the query of `/console/live`.
    pub(super) live: Option<String>,
    pub(super) notice: Option<Notice>,
    pub(super) body: Markup,
}

/// The outcome of what the operator has just done.
pub(super) enum Notice {
    Done(&'static str),
    Failed(String),
}

impl Page {
    pub(super) fn new(section: Section, body: Markup) -> Self {
        Self {
            section,
            title: None,
            status: StatusCode::OK,
            live: None,
            notice: None,
            body,
        }
    }

    /// The page as an answer.
    pub(super) fn respond(self, samples: &Samples, now: Instant) -> Response {
        let mut response = Response::new(Body::from(self.render(samples, now).into_string()));
        *response.status_mut() = self.status;
        dress(&mut response);
        response
    }

    fn render(&self, samples: &Samples, now: Instant) -> Markup {
        let heading = self.title.as_deref().unwrap_or(self.section.name());
        let live = self
            .live
            .as_ref()
            .map(|query| format!("/console/live?{query}"));
        let state = html! {
            section.state aria-label="State of the system" {
                div #verdict data-region aria-live="polite" { (verdict(samples)) }
                p #reading data-region { (reading(samples, now)) }
            }
        };
        let content = html! {
            @match &self.notice {
                Some(Notice::Done(text)) => p.notice.good role="status" { (text) },
                Some(Notice::Failed(text)) => p.notice.bad role="alert" { (text::plain(text)) },
                None => {}
            }
            (self.body)
        };
        frame(
            (heading, Some(self.section)),
            live.as_deref(),
            &state,
            &content,
        )
    }
}

/// A page without the state of the system.
pub(super) fn bare(heading: &str, content: &Markup) -> Markup {
    frame((heading, None), None, &html! {}, content)
}

fn frame(
    (heading, section): (&str, Option<Section>),
    live: Option<&str>,
    state: &Markup,
    content: &Markup,
) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (heading) " · order-system" }
                link rel="icon" href="/console/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/console/console.css";
                script src="/console/console.js" defer {}
            }
            body data-live=[live] {
                a.skip href="#main" { "Skip to the content" }
                (header(section))
                (state)
                main #main tabindex="-1" {
                    h1 { (heading) }
                    (content)
                }
                footer {
                    p { "Times are UTC." }
                    p #live hidden {}
                }
            }
        }
    }
}

fn header(current: Option<Section>) -> Markup {
    html! {
        header {
            p.brand { "order-system" }
            nav aria-label="Pages" {
                ul {
                    @for section in Section::ALL {
                        li {
                            a href=(section.path()) aria-current=[(Some(section) == current).then_some("page")] {
                                (section.name())
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What is wrong, each with a link to where to look.
pub(super) fn verdict(samples: &Samples) -> Markup {
    let Some((overview, _)) = samples.last() else {
        return html! { p.wait { "The system has not been read yet." } };
    };
    if overview.findings.is_empty() {
        return html! { p.good { "Nothing is wrong." } };
    }
    html! {
        ul.bad {
            @for Finding { subject, text } in &overview.findings {
                li { a href=(place(*subject)) { (text::foreign(text)) } }
            }
        }
    }
}

/// Where to look.
const fn place(subject: Subject) -> &'static str {
    match subject {
        Subject::Orders => "/console/orders?status=PENDING",
        Subject::DeadLetters => "/console/dead-letters",
        Subject::Processes => "/console/processes",
        Subject::Requests => "/console/#requests",
        Subject::Sink => "/console/#sink",
    }
}

/// When the figures were read, or why they are old.
pub(super) fn reading(samples: &Samples, now: Instant) -> Markup {
    html! {
        @match samples.failure(now) {
            Some((Some(age), reason)) => span.stale {
                "The figures are " (text::duration(age)) " old: " (text::plain(reason)) "."
            },
            Some((None, reason)) => span.stale { "There are no figures: " (text::plain(reason)) "." },
            None => @if let Some((overview, _)) = samples.last() {
                "Read at " (text::clock(overview.at)) "."
            }
        }
    }
}

/// The title and the body of the page of a problem.
pub(super) fn problem(
    problem: &Problem,
    section: Section,
    request_id: &RequestId,
) -> (&'static str, Markup) {
    let (title, detail) = problem.words();
    let violations = problem.violations();
    let body = html! {
        p.lead { (text::plain(&detail)) }
        @if violations.len() > 1 { (list(violations)) }
        p.quiet { "Request " code { (request_id) } }
        p { a href=(section.path()) { "Back to: " (section.name()) } }
    };
    (title, body)
}

fn list(violations: &[Violation]) -> Markup {
    html! { ul { @for violation in violations { li { (text::plain(&violation.to_string())) } } } }
}

/// The headers of every page.
pub(super) fn dress(response: &mut Response) {
    let headers: [(HeaderName, &'static str); 3] = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in headers {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
}
