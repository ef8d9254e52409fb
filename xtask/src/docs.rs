//! `cargo xtask docs`: opens `/docs` in a browser as a developer would, and creates an
//! order there.
//!
//! Proves that the page works under its own content security policy and that it loads
//! nothing from another host. Leaves a picture of the page under the target folder.

use std::path::Path;

use anyhow::{Context, ensure};

use crate::browser::Page;
use crate::system::{self, System};
use crate::workspace_root;

/// Opens the operation that creates an order, once, and tells whether it can be sent.
const OPEN: &str = "(() => { \
    const operation = document.querySelector('[id$=\"-create_order\"]'); \
    if (operation && !window.opened) { \
        operation.querySelector('.opblock-summary-control').click(); \
        window.opened = true; \
    } \
    return !!operation?.querySelector('.execute'); })()";

/// Fills in the body the way typing would, which the page's framework can see, and sends it.
const SEND: &str = "(() => { \
    const body = document.querySelector('[id$=\"-create_order\"] textarea.body-param__text'); \
    if (!body) return false; \
    const type = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, 'value').set; \
    type.call(body, '{\"user_id\":\"docs\",\"amount\":100}'); \
    body.dispatchEvent(new Event('input', {bubbles: true})); \
    body.dispatchEvent(new Event('change', {bubbles: true})); \
    document.querySelector('[id$=\"-create_order\"] .execute').click(); \
    return true; })()";

/// The status that the page shows of the answer.
const STATUS: &str = "document.querySelector('[id$=\"-create_order\"] \
    .live-responses-table .response .response-col_status')?.firstChild?.textContent ?? ''";

/// Brings the answer into the picture.
const SHOW: &str = "document.querySelector('[id$=\"-create_order\"] .live-responses-table') \
    .scrollIntoView()";

/// Runs it; fails if the page does not work or asks another host for anything.
pub(crate) async fn run() -> anyhow::Result<()> {
    let programs = system::build(false)?;
    let directory = tempfile::tempdir().context("cannot make a directory")?;
    let database_url = format!("sqlite:{}", directory.path().join("orders.db").display());
    let settings = [("RUST_LOG", "warn,order_app=info")];
    let system = System::start_all_in_one(&programs, &database_url, &settings).await?;
    let server = format!("http://127.0.0.1:{}", system.http_port);
    let result = visit(directory.path(), &server).await;
    system.stop().await?;
    result
}

async fn visit(profile: &Path, server: &str) -> anyhow::Result<()> {
    let pictures = workspace_root().join("target/docs");
    let mut page = Page::open(profile, server, &pictures).await?;
    page.go("/docs").await?;
    page.wait_until("the operations are shown", OPEN).await?;
    page.wait_until("the request is sent", SEND).await?;
    page.wait_until("an answer is shown", &format!("({STATUS}) !== ''"))
        .await?;
    page.evaluate(SHOW).await?;
    let status = page.evaluate(STATUS).await?;
    page.save_picture("docs").await?;
    ensure!(status == "201", "the order was answered with {status}");
    page.check("docs").await?;
    let n_requests = page.n_requests();
    println!("created an order at {server}/docs; {n_requests} requests, none elsewhere");
    Ok(())
}
