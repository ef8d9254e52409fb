//! A browser without a window, and a page in it that is watched: what its policy forbids, what it
//! complains about, and whom it asks.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use order_testkit::server::process::ChildServer;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use self::devtools::DevTools;

mod devtools;

/// How long the browser may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a page may take for each step.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// The time between two looks at the page.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The highest picture, in pixels.
const HEIGHT_MAX: f64 = 4_000.0;

/// Runs in each page before its own scripts: keeps what the policy of the page forbade.
const WATCH_POLICY: &str = "window.forbidden = []; \
    addEventListener('securitypolicyviolation', event => \
        window.forbidden.push(`${event.violatedDirective} ${event.blockedURI}`));";

/// Finds the browser.
pub(crate) fn find() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .flat_map(|directory| ["chromium", "chromium-browser"].map(|name| directory.join(name)))
        .find(|program| program.is_file())
        .context("chromium is not in PATH")
}

/// How a page is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// Its name in the names of pictures.
    pub(crate) name: &'static str,
    /// The colour scheme that the reader prefers.
    pub(crate) scheme: &'static str,
    /// The width of the window, in pixels.
    pub(crate) width: u32,
}

/// A page of a browser, which ends with it.
pub(crate) struct Page {
    devtools: DevTools,
    /// Where the pages come from: nothing else may be asked.
    origin: String,
    /// Where pictures go.
    directory: PathBuf,
    _browser: ChildServer,
}

impl Page {
    /// Opens an empty page, which is to ask only `origin`, in a browser with files in `profile`.
    pub(crate) async fn open(
        profile: &Path,
        origin: &str,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory).context("cannot make the folder of pictures")?;
        let browser = ChildServer::spawn(
            Command::new(find()?)
                .args(["--headless", "--remote-debugging-port=0", "--no-first-run"])
                .args(["--disable-background-networking", "--disable-gpu"])
                .args(["--window-size=1280,1600", "--hide-scrollbars"])
                // Root cannot have a sandbox, and the only pages that are opened are our own.
                .args(["--no-sandbox", "--disable-dev-shm-usage"])
                .arg(format!("--user-data-dir={}", profile.display()))
                .arg("about:blank"),
        )?;
        let line = browser
            .wait_for_line("DevTools listening on ", START_TIMEOUT)
            .await?;
        let (_, address) = line.split_once(" on ").context("no address")?;
        let mut page = Self {
            devtools: DevTools::open(address.trim()).await?,
            origin: origin.to_owned(),
            directory: directory.to_owned(),
            _browser: browser,
        };
        let watch = json!({"source": WATCH_POLICY});
        page.devtools
            .call("Page.addScriptToEvaluateOnNewDocument", watch)
            .await?;
        Ok(page)
    }

    /// Opens a path of the origin and waits until all of it is there.
    pub(crate) async fn go(&mut self, path: &str) -> anyhow::Result<()> {
        let url = format!("{}{path}", self.origin);
        // The page before must not look like this one.
        self.evaluate("window.isLeft = true").await?;
        self.devtools
            .call("Page.navigate", json!({"url": url}))
            .await?;
        self.arrive(path).await
    }

    /// Waits until the page that was just asked for is there.
    pub(crate) async fn arrive(&mut self, what: &str) -> anyhow::Result<()> {
        let is_there = "!window.isLeft && document.readyState === 'complete'";
        self.wait_until(what, is_there).await
    }

    /// The value of an expression in the page.
    pub(crate) async fn evaluate(&mut self, expression: &str) -> anyhow::Result<Value> {
        self.devtools.evaluate(expression).await
    }

    /// Waits until an expression is true in the page.
    pub(crate) async fn wait_until(&mut self, what: &str, expression: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + STEP_TIMEOUT;
        while self.evaluate(expression).await? != Value::Bool(true) {
            if Instant::now() >= deadline {
                self.save_picture("failed").await?;
                bail!("{what}: not within {STEP_TIMEOUT:?}");
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Looks at pages in another way from now on.
    pub(crate) async fn look(&mut self, view: View) -> anyhow::Result<()> {
        let scheme = json!({"name": "prefers-color-scheme", "value": view.scheme});
        let media = json!({"features": [scheme]});
        self.devtools
            .call("Emulation.setEmulatedMedia", media)
            .await?;
        let is_phone = view.width < 600;
        let size = json!({
            "width": view.width, "height": 900, "deviceScaleFactor": 1, "mobile": is_phone,
        });
        let method = "Emulation.setDeviceMetricsOverride";
        self.devtools.call(method, size).await?;
        Ok(())
    }

    /// Fails if the page has done what it must not.
    pub(crate) async fn check(&mut self, name: &str) -> anyhow::Result<()> {
        let forbidden = self.evaluate("window.forbidden").await?;
        ensure!(
            forbidden == json!([]),
            "{name}: the policy of the page forbids what it needs: {forbidden}"
        );
        let complaints = self.devtools.complaints();
        ensure!(
            complaints.is_empty(),
            "{name}: errors in the page: {complaints:?}"
        );
        let own = |url: &&String| !url.starts_with(&self.origin) && !url.starts_with("data:");
        let elsewhere: Vec<&String> = self.devtools.requests().iter().filter(own).collect();
        ensure!(
            elsewhere.is_empty(),
            "{name}: the page asked elsewhere: {elsewhere:?}"
        );
        Ok(())
    }

    /// How often the page has asked for something so far.
    pub(crate) fn n_requests(&self) -> usize {
        self.devtools.requests().len()
    }

    /// Saves a picture of the whole page.
    pub(crate) async fn save_picture(&mut self, name: &str) -> anyhow::Result<()> {
        let size = "[innerWidth, document.documentElement.scrollHeight]";
        let size = self.evaluate(size).await?;
        let pixels = |n: usize| size.get(n).and_then(Value::as_f64).context("no size");
        let clip = json!({
            "x": 0, "y": 0, "scale": 1,
            "width": pixels(0)?, "height": pixels(1)?.min(HEIGHT_MAX),
        });
        let whole = json!({"captureBeyondViewport": true, "clip": clip});
        let answer = self.devtools.call("Page.captureScreenshot", whole).await?;
        let picture = answer.get("data").and_then(Value::as_str);
        let picture = BASE64_STANDARD.decode(picture.context("no picture")?)?;
        let path = self.directory.join(format!("{name}.png"));
        std::fs::write(&path, picture).context("cannot write the picture")?;
        println!("picture: {}", path.display());
        Ok(())
    }
}
