//! `cargo xtask console`: opens every page of the console in a browser as an operator would,
//! follows an order to its end, and redrives a dead letter.
//!
//! Each page is looked at in light, in dark and on a phone; the pictures are left under the target
//! folder. Fails if a page reports an error, breaks its policy, asks another host for anything,
//! scrolls sideways on a phone, or has a serious fault of accessibility.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::axe::Axe;
use crate::browser::{Page, View};
use crate::system::{self, System};
use crate::workspace_root;

mod axe;

/// How long the processing of an order takes: long enough to see it change.
const WORK: Duration = Duration::from_secs(2);

/// The user whose orders are refused until the redrive.
const REFUSED_USER: &str = "refused";

const LIGHT: View = View {
    name: "light",
    scheme: "light",
    width: 1280,
};

const VIEWS: [View; 3] = [
    LIGHT,
    View {
        name: "dark",
        scheme: "dark",
        width: 1280,
    },
    View {
        name: "phone",
        scheme: "light",
        width: 390,
    },
];

/// Runs it.
pub(crate) async fn run() -> anyhow::Result<()> {
    let programs = system::build(false)?;
    let directory = tempfile::tempdir().context("cannot make a directory")?;
    let database_url = format!("sqlite:{}", directory.path().join("orders.db").display());
    let endpoint = Endpoint::start().await?;
    let url = endpoint.url.clone();
    let secret = format!("whsec_{}", "Y29uc29s".repeat(4));
    let settings = [
        ("RUST_LOG", "warn,order_app=info"),
        ("PROCESSOR", "http"),
        ("FULFILMENT_URL", &url),
        ("FULFILMENT_SECRET", &secret),
        ("FULFILMENT_ALLOWED_NETWORKS", "127.0.0.0/8"),
    ];
    let system = System::start_all_in_one(&programs, &database_url, &settings).await?;
    let result = visit(directory.path(), &system, &endpoint).await;
    system.stop().await?;
    result
}

async fn visit(profile: &Path, system: &System, endpoint: &Endpoint) -> anyhow::Result<()> {
    let line = system.service.wait_for_line("console=").await?;
    let address = line
        .split_once("console=")
        .and_then(|(_, rest)| rest.trim_start_matches('"').split(['"', ' ', '\n']).next())
        .context("the start names no console")?;
    let origin = address
        .strip_suffix("/console/")
        .with_context(|| format!("{address} is no console"))?;
    let mut tour = Tour {
        page: Page::open(profile, origin, &pictures()).await?,
        axe: Axe::find()?,
    };
    tour.page.look(LIGHT).await?;
    let followed = tour.create("ann").await?;
    tour.follow(&followed).await?;
    let refused = tour.create(REFUSED_USER).await?;
    let is_failed = shows("order", "FAILED");
    tour.page.wait_until("the order fails", &is_failed).await?;
    tour.page.go("/console/orders").await?;
    let n_orders = "document.querySelectorAll('#orders tbody tr').length === 2";
    tour.page
        .wait_until("each form makes one order", n_orders)
        .await?;
    for (name, path) in [
        ("overview", "/console/"),
        ("orders", "/console/orders"),
        ("order", &followed),
        ("order-failed", &refused),
        ("dead-letters", "/console/dead-letters"),
        (
            "redrive",
            "/console/dead-letters/redrive?code=FULFILMENT_REFUSED",
        ),
        ("processes", "/console/processes"),
    ] {
        tour.inspect(name, path).await?;
    }
    endpoint.is_open.store(true, Ordering::Relaxed);
    tour.redrive(&refused).await?;
    println!(
        "every page of {address} works; {} requests, none elsewhere",
        tour.page.n_requests()
    );
    Ok(())
}

fn pictures() -> PathBuf {
    workspace_root().join("target/console/pictures")
}

/// Whether a region of the page shows a text.
fn shows(region: &str, text: &str) -> String {
    format!("!!document.getElementById('{region}')?.textContent.includes('{text}')")
}

/// Presses the first button or follows the first link that a selector finds.
fn click(selector: &str) -> String {
    format!(
        "(() => {{ const element = document.querySelector('{selector}'); \
         if (!element) return false; window.isLeft = true; element.click(); return true; }})()"
    )
}

/// The way through the console.
struct Tour {
    page: Page,
    axe: Option<Axe>,
}

impl Tour {
    /// Creates an order by the form, twice at once as an impatient reader would, and returns the path
    /// of its page.
    async fn create(&mut self, user: &str) -> anyhow::Result<String> {
        self.page.go("/console/orders").await?;
        let fill = format!(
            "(() => {{ document.querySelector('details').open = true; \
             document.getElementById('create-user_id').value = '{user}'; \
             document.getElementById('create-amount').value = '99.95'; return true; }})()"
        );
        self.page.wait_until("the form is filled in", &fill).await?;
        let send = "(() => { const send = document.querySelector('form[method=post] button'); \
             window.isLeft = true; send.click(); send.click(); return true; })()";
        self.page.wait_until("the order is sent", send).await?;
        self.page.arrive("the page of the order").await?;
        let path = self.page.evaluate("location.pathname").await?;
        let path = path.as_str().context("no path")?.to_owned();
        ensure!(
            path.strip_prefix("/console/orders/")
                .is_some_and(|id| id.len() == 36),
            "the form leads to {path}"
        );
        Ok(path)
    }

    /// Sees an order change while its page is open.
    async fn follow(&mut self, path: &str) -> anyhow::Result<()> {
        let pending = "/PENDING|PROCESSING/.test(document.getElementById('order').textContent)";
        ensure!(
            self.page.evaluate(pending).await? == Value::Bool(true),
            "{path} has ended before it was looked at"
        );
        self.page.evaluate("window.isSame = true").await?;
        let done = shows("order", "PROCESSED");
        self.page.wait_until("the order ends", &done).await?;
        let timeline = shows("timeline", "succeeded");
        self.page
            .wait_until("the attempt is shown", &timeline)
            .await?;
        let is_same = self.page.evaluate("window.isSame === true").await?;
        ensure!(is_same == Value::Bool(true), "the page was loaded again");
        self.page.check("an order that is followed").await
    }

    /// Looks at a page in every way.
    async fn inspect(&mut self, name: &str, path: &str) -> anyhow::Result<()> {
        for view in VIEWS {
            self.page.look(view).await?;
            self.page.go(path).await?;
            self.page
                .wait_until("figures are shown", &shows("reading", "Read at"))
                .await?;
            let name = format!("{name}-{}", view.name);
            self.page.save_picture(&name).await?;
            let width = "document.documentElement.scrollWidth <= innerWidth";
            ensure!(
                self.page.evaluate(width).await? == Value::Bool(true),
                "{name} scrolls sideways"
            );
            if let Some(axe) = &self.axe {
                axe.check(&mut self.page, &name).await?;
            }
            self.page.check(&name).await?;
        }
        self.page.look(LIGHT).await
    }

    /// Redrives the dead letters, by clicking from their list to the end.
    async fn redrive(&mut self, path: &str) -> anyhow::Result<()> {
        self.page.go("/console/dead-letters").await?;
        for (what, selector) in [
            ("the cause is selected", "#groups td a[href*=redrive]"),
            ("the orders are counted", "form[action$=redrive] button"),
        ] {
            self.page.wait_until(what, &click(selector)).await?;
            self.page.arrive(what).await?;
        }
        let is_counted = "document.querySelector('main').textContent.includes('1 order would be')";
        self.page
            .wait_until("one order is found", is_counted)
            .await?;
        let confirm = click("form[data-stream] [type=submit]");
        self.page
            .wait_until("the redrive is confirmed", &confirm)
            .await?;
        let done = shows("progress", "The redrive is done");
        self.page.wait_until("the redrive ends", &done).await?;
        self.page.save_picture("redriven").await?;
        self.page.check("the redrive").await?;
        self.page.go(path).await?;
        let done = shows("order", "PROCESSED");
        self.page.wait_until("the order ends well", &done).await
    }
}

/// What processes orders: slowly, and those of one user not at all until it is told to.
struct Endpoint {
    url: String,
    is_open: Arc<AtomicBool>,
    _serving: JoinSet<()>,
}

impl Endpoint {
    async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/", listener.local_addr()?);
        let is_open = Arc::new(AtomicBool::new(false));
        let (mut serving, gate) = (JoinSet::new(), Arc::clone(&is_open));
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let gate = Arc::clone(&gate);
                let answer = service_fn(move |request| answer(request, Arc::clone(&gate)));
                let served = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
                connections.spawn(async {
                    // Ends when the system closes the connection.
                    let _ended = served.await;
                });
            }
        });
        Ok(Self {
            url,
            is_open,
            _serving: serving,
        })
    }
}

async fn answer(
    request: Request<Incoming>,
    is_open: Arc<AtomicBool>,
) -> anyhow::Result<Response<Full<Bytes>>> {
    let body = request.into_body().collect().await?.to_bytes();
    let is_refused = String::from_utf8_lossy(&body).contains(&format!("\"{REFUSED_USER}\""));
    if is_refused && !is_open.load(Ordering::Relaxed) {
        let mut refusal = Response::new(Full::from("no such <b>user</b>"));
        *refusal.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
        return Ok(refusal);
    }
    sleep(WORK).await;
    let mut done = Response::new(Full::default());
    *done.status_mut() = StatusCode::NO_CONTENT;
    Ok(done)
}
