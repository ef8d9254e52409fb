//! The console: pages on which an operator sees whether the system is well, which order is stuck and
//! why, and acts on it.
//!
//! Pages are made on the server, of escaped templates, and work without their script; it only
//! replaces parts of them while they are open. Everything they load is in this binary. There is no
//! login: a change is accepted only from a page of this very origin.

mod assets;
mod chart;
mod dead_letters;
mod form;
mod live;
mod order;
mod orders;
mod overview;
mod page;
mod problems;
mod processes;
mod redrive;
mod sampler;
mod text;
mod timeline;

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    response::Response,
    routing::{get, post},
};
use http::Method;
use maud::Markup;
use order_core::{
    AdminApi, CallContext, Deadline, Error, Violation,
    supervisor::{STEP_TIME_MAX, Task},
};
use order_edge::slots::{Slot, Slots};
use tokio_util::sync::CancellationToken;

pub use self::problems::with_pages;
use self::{
    page::{Notice, Page, Section},
    sampler::{Sampler, Samples},
};
use crate::{
    http::{
        CONSOLE_PATH as PATH, HttpDeps,
        host::see_other,
        operation::{self, Call, Frame, Operation},
        problem::{Problem, ProtocolError},
    },
    origin::is_same_origin,
};

/// Pages that are live at the same time, redrives included; one more is refused and works without.
const STREAMS_MAX: usize = 32;

/// Requests at the same time.
const REQUESTS_MAX: usize = 64;

/// The longest form, in bytes: one that creates an order with all the metadata it can have, each
/// character of which may take 12.
const FORM_LEN_MAX: usize = 384 * 1024;

/// How long the system behind may take for a page.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The console of a process.
#[derive(Clone)]
pub struct Console(Arc<Shared>);

/// What its pages share.
struct Shared {
    http: HttpDeps,
    admin: Arc<dyn AdminApi>,
    sampler: Arc<Sampler>,
    streams: Slots,
}

impl Console {
    /// A console of the system behind `admin` and the API of `http`.
    pub fn new(http: HttpDeps, admin: Arc<dyn AdminApi>) -> Self {
        let (clock, ids) = (Arc::clone(&http.clock), Arc::clone(&http.ids));
        Self(Arc::new(Shared {
            sampler: Sampler::new(Arc::clone(&admin), clock, ids),
            streams: Slots::new(STREAMS_MAX, STREAMS_MAX),
            http,
            admin,
        }))
    }

    /// The task that reads the state of the system, until `stop` is cancelled.
    pub fn task(&self, stop: CancellationToken) -> Task {
        let sampler = Arc::clone(&self.0.sampler);
        Task::new("console", STEP_TIME_MAX, move |beat| {
            Arc::clone(&sampler).run(stop.clone(), beat)
        })
    }

    /// The console on a listener of its own, and a problem for anything else.
    pub fn router(&self) -> Router {
        let frame = Frame::unlimited(&self.0.http);
        self.routes()
            .fallback(operation::route_not_found(&frame))
            .method_not_allowed_fallback(operation::method_not_allowed(&frame))
    }

    /// The routes of the console, for a router that has fallbacks.
    pub fn routes(&self) -> Router {
        let (deps, shared) = (&self.0.http, &self.0);
        let (open, admission) = (Frame::unlimited(deps), operation::small_admission);
        let read = Frame::quiet(deps, admission(REQUESTS_MAX, FORM_LEN_MAX));
        // What operators change is logged.
        let write = Frame::limited(deps, admission(REQUESTS_MAX, FORM_LEN_MAX));
        let order_routes = order_routes(shared, &read, &write);
        let root = Operation::new(("console_root", "/console"), &open, shared, root);
        let overview = Operation::new(("console_overview", PATH), &read, shared, overview);
        let live = Operation::new(("console_live", LIVE), &open, shared, live::follow);
        let letters = ("console_dead_letters", DEAD_LETTERS);
        let letters = Operation::new(letters, &read, shared, dead_letters::show);
        let check = Operation::new(
            ("console_redrive_check", REDRIVE),
            &read,
            shared,
            redrive::check,
        );
        let run = Operation::new(("console_redrive", REDRIVE), &write, shared, redrive::run);
        let processes = Operation::new(
            ("console_processes", PROCESSES),
            &read,
            shared,
            processes::show,
        );
        let pause = Operation::new(
            ("console_pause", PROCESSES),
            &write,
            shared,
            processes::set_paused,
        );
        Router::new()
            .route("/console", get(root))
            .route(PATH, get(overview))
            .route(LIVE, get(live))
            .route(DEAD_LETTERS, get(letters))
            .route(REDRIVE, get(check).post(run.with_body().with_stream()))
            .route(PROCESSES, get(processes).post(pause.with_body()))
            .merge(order_routes)
            .merge(assets::routes(deps))
    }
}

/// The routes of orders.
fn order_routes(shared: &Arc<Shared>, read: &Arc<Frame>, write: &Arc<Frame>) -> Router {
    let list = Operation::new(("console_orders", ORDERS), read, shared, orders::show);
    let create = Operation::new(("console_create", ORDERS), write, shared, orders::create);
    let show = Operation::new(("console_order", ORDER), read, shared, order::show);
    let cancel = Operation::new(("console_cancel", CANCEL), write, shared, order::cancel);
    let retry = Operation::new(("console_retry", RETRY), write, shared, order::retry);
    Router::new()
        .route(ORDERS, get(list).post(create.with_body()))
        .route(ORDER, get(show))
        .route(CANCEL, post(cancel.with_body()))
        .route(RETRY, post(retry.with_body()))
}

const LIVE: &str = "/console/live";
const ORDERS: &str = "/console/orders";
const ORDER: &str = "/console/orders/{order_id}";
const CANCEL: &str = "/console/orders/{order_id}/cancel";
const RETRY: &str = "/console/orders/{order_id}/retry";
const DEAD_LETTERS: &str = "/console/dead-letters";
const REDRIVE: &str = "/console/dead-letters/redrive";
const PROCESSES: &str = "/console/processes";

/// Sends `/console` to the overview.
async fn root(_: Arc<Shared>, _: Call) -> Result<Response, Problem> {
    see_other(PATH)
}

async fn overview(console: Arc<Shared>, _: Call) -> Result<Response, Problem> {
    let samples = console.sampler.fresh().await;
    let page = Page {
        live: Some("page=overview".to_owned()),
        ..Page::new(Section::Overview, overview::body(&samples))
    };
    Ok(console.respond(page, &samples))
}

impl Shared {
    /// A call that begins now.
    fn context(&self, call: &Call) -> CallContext {
        let deadline = Deadline::at(self.http.clock.instant() + TIMEOUT);
        CallContext {
            trace_parent: call.trace_parent.clone(),
            ..CallContext::new(call.request_id.clone(), deadline)
        }
    }

    /// Waits for `work` as long as a page may take.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        operation::in_time(TIMEOUT, work).await
    }

    /// Takes a place for a page that stays open.
    fn take_stream(&self, client: IpAddr) -> Result<Slot, Error> {
        Ok(self.streams.try_take(client)?)
    }

    /// A page as an answer.
    fn respond(&self, page: Page, samples: &Samples) -> Response {
        page.respond(samples, self.http.clock.instant())
    }

    /// Does what a page or a form asks for. A problem is a page as well, and a change that the page of
    /// another origin asks for is one.
    async fn answer(
        &self,
        section: Section,
        call: &Call,
        work: impl Future<Output = Result<Response, Problem>>,
    ) -> Result<Response, Problem> {
        let Call { parts, .. } = call;
        let is_refused =
            parts.method == Method::POST && !is_same_origin(&parts.headers, &parts.uri);
        let answered = if is_refused {
            Err(ProtocolError::OriginNotAllowed.into())
        } else {
            work.await
        };
        let problem = match answered {
            Ok(response) => return Ok(response),
            Err(problem) => problem,
        };
        let (title, body) = page::problem(&problem, section, &call.request_id);
        let page = Page {
            title: Some(title.to_owned()),
            ..Page::new(section, body)
        };
        Ok(self.problem(call, problem, page).await)
    }

    /// The page again, with what is wrong with its form.
    async fn refused(
        &self,
        section: Section,
        call: &Call,
        problem: Problem,
        body: impl FnOnce(&[Violation]) -> Markup,
    ) -> Response {
        let page = Page::new(section, body(problem.violations()));
        self.refused_page(call, problem, page).await
    }

    /// The same of a page that is made already.
    async fn refused_page(&self, call: &Call, problem: Problem, page: Page) -> Response {
        let notice = match problem.violations() {
            [] => problem.words().1,
            [_] => "Nothing was done: one field is wrong.".to_owned(),
            all => format!("Nothing was done: {} fields are wrong.", all.len()),
        };
        let page = Page {
            notice: Some(Notice::Failed(notice)),
            ..page
        };
        self.problem(call, problem, page).await
    }

    /// Logs a problem and answers with its status and headers, and with a page.
    async fn problem(&self, call: &Call, problem: Problem, page: Page) -> Response {
        let samples = self.sampler.fresh().await;
        let (head, _) = problem
            .into_response(&call.request_id, None, true)
            .into_parts();
        let page = Page {
            status: head.status,
            ..page
        };
        let mut response = self.respond(page, &samples);
        for (name, value) in head.headers {
            if let Some(name) = name
                && !response.headers().contains_key(&name)
            {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}
