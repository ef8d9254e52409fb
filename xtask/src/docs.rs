//! `cargo xtask docs`: opens `/docs` in a browser as a developer would, and creates an
//! order there.
//!
//! Proves that the page works under its own content security policy and that it loads
//! nothing from another host. Leaves a picture of the page under the target folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use order_testkit::server::process::ChildServer;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use self::devtools::Page;
use crate::system::{self, System};
use crate::workspace_root;

mod devtools;

/// How long the browser may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the page may take for each step.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// The time between two looks at the page.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Runs in the page before its own scripts: keeps what the policy of the page forbade.
const WATCH_POLICY: &str = "window.forbidden = []; \
    addEventListener('securitypolicyviolation', event => \
        window.forbidden.push(`${event.violatedDirective} ${event.blockedURI}`));";

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

/// Finds the browser.
pub(crate) fn find_browser() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .flat_map(|directory| ["chromium", "chromium-browser"].map(|name| directory.join(name)))
        .find(|program| program.is_file())
        .context("chromium is not in PATH")
}

/// Runs it; fails if the page does not work or asks another host for anything.
pub(crate) async fn run() -> anyhow::Result<()> {
    let browser = find_browser()?;
    let programs = system::build(false)?;
    let directory = tempfile::tempdir().context("cannot make a directory")?;
    let database_url = format!("sqlite:{}", directory.path().join("orders.db").display());
    let settings = [("RUST_LOG", "warn,order_app=info")];
    let system = System::start_all_in_one(&programs, &database_url, &settings).await?;
    let server = format!("http://127.0.0.1:{}", system.http_port);
    let result = visit(&browser, directory.path(), &server).await;
    system.stop().await?;
    result
}

async fn visit(browser: &Path, directory: &Path, server: &str) -> anyhow::Result<()> {
    let browser = ChildServer::spawn(
        Command::new(browser)
            .args(["--headless", "--remote-debugging-port=0", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-gpu"])
            .arg("--window-size=1280,1600")
            // Root cannot have a sandbox, and the only page that is opened is our own.
            .args(["--no-sandbox", "--disable-dev-shm-usage"])
            .arg(format!("--user-data-dir={}", directory.display()))
            .arg("about:blank"),
    )?;
    let line = browser
        .wait_for_line("DevTools listening on ", START_TIMEOUT)
        .await?;
    let (_, address) = line.split_once(" on ").context("no address")?;
    let mut page = Page::open(address.trim()).await?;

    page.call(
        "Page.addScriptToEvaluateOnNewDocument",
        json!({"source": WATCH_POLICY}),
    )
    .await?;
    page.call("Page.navigate", json!({"url": format!("{server}/docs")}))
        .await?;
    wait_until(&mut page, "the operations are shown", OPEN).await?;
    wait_until(&mut page, "the request is sent", SEND).await?;
    wait_until(
        &mut page,
        "an answer is shown",
        &format!("({STATUS}) !== ''"),
    )
    .await?;
    page.evaluate(SHOW).await?;
    let status = page.evaluate(STATUS).await?;
    let forbidden = page.evaluate("window.forbidden").await?;
    save_picture(&mut page).await?;

    ensure!(status == "201", "the order was answered with {status}");
    ensure!(
        forbidden == json!([]),
        "the policy of the page forbids what it needs: {forbidden}"
    );
    let own = |url: &&String| !url.starts_with(server) && !url.starts_with("data:");
    let elsewhere: Vec<&String> = page.requests().iter().filter(own).collect();
    ensure!(
        elsewhere.is_empty(),
        "the page asked elsewhere: {elsewhere:?}"
    );
    println!(
        "created an order at {server}/docs; {} requests, none elsewhere",
        page.requests().len()
    );
    Ok(())
}

/// Waits until an expression is true in the page.
async fn wait_until(page: &mut Page, what: &str, expression: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + STEP_TIMEOUT;
    while page.evaluate(expression).await? != Value::Bool(true) {
        if Instant::now() >= deadline {
            save_picture(page).await?;
            bail!("{what}: not within {STEP_TIMEOUT:?}");
        }
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

async fn save_picture(page: &mut Page) -> anyhow::Result<()> {
    let answer = page.call("Page.captureScreenshot", json!({})).await?;
    let picture = answer.get("data").and_then(Value::as_str);
    let picture = BASE64_STANDARD.decode(picture.context("no picture")?)?;
    let path = workspace_root().join("target/docs.png");
    std::fs::write(&path, picture).context("cannot write the picture")?;
    println!("picture of the page: {}", path.display());
    Ok(())
}
