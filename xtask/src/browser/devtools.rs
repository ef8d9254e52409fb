//! As much of the Chrome DevTools Protocol as one page needs.

use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

/// How long the browser may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Requests that are remembered; a page that makes more is not ours.
const REQUESTS_MAX: usize = 1_000;

/// Complaints that are remembered.
const COMPLAINTS_MAX: usize = 20;

/// The end of the connection that is in the browser.
pub(super) struct DevTools {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: Option<String>,
    last_id: u64,
    requests: Vec<String>,
    complaints: Vec<String>,
}

impl DevTools {
    /// Opens an empty page in the browser that listens at `address`.
    pub(super) async fn open(address: &str) -> anyhow::Result<Self> {
        let (socket, _) = connect_async(address)
            .await
            .context("cannot connect to the browser")?;
        let mut devtools = Self {
            socket,
            session: None,
            last_id: 0,
            requests: Vec::new(),
            complaints: Vec::new(),
        };
        let empty = json!({"url": "about:blank"});
        let target = devtools.call("Target.createTarget", empty).await?;
        let target = json!({"targetId": target.get("targetId"), "flatten": true});
        let attached = devtools.call("Target.attachToTarget", target).await?;
        let session = attached.get("sessionId").and_then(Value::as_str);
        devtools.session = Some(session.context("the page has no session")?.to_owned());
        for domain in [
            "Page.enable",
            "Network.enable",
            "Runtime.enable",
            "Log.enable",
        ] {
            devtools.call(domain, json!({})).await?;
        }
        Ok(devtools)
    }

    /// Every address that the page has asked for so far.
    pub(super) fn requests(&self) -> &[String] {
        &self.requests
    }

    /// Errors that the browser or a script has reported so far.
    pub(super) fn complaints(&self) -> &[String] {
        &self.complaints
    }

    /// Calls a method and waits for its answer.
    pub(super) async fn call(&mut self, method: &str, params: Value) -> anyhow::Result<Value> {
        self.last_id += 1;
        let mut message = json!({"id": self.last_id, "method": method, "params": params});
        if let (Some(session), Some(fields)) = (&self.session, message.as_object_mut()) {
            fields.insert("sessionId".to_owned(), json!(session));
        }
        self.socket.send(Message::text(message.to_string())).await?;
        tokio::time::timeout(ANSWER_TIMEOUT, self.answer())
            .await
            .with_context(|| format!("{method} is not answered"))?
            .with_context(|| format!("{method} failed"))
    }

    /// The value of an expression in the page.
    pub(super) async fn evaluate(&mut self, expression: &str) -> anyhow::Result<Value> {
        let params = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true,
        });
        let answer = self.call("Runtime.evaluate", params).await?;
        if let Some(exception) = answer.get("exceptionDetails") {
            bail!("{expression} threw {exception}");
        }
        let value = answer.pointer("/result/value");
        Ok(value.cloned().unwrap_or_default())
    }

    /// Reads until the answer to the last call; notes the requests the page makes meanwhile.
    async fn answer(&mut self) -> anyhow::Result<Value> {
        loop {
            let message = self
                .socket
                .next()
                .await
                .context("the browser has ended")??;
            let Message::Text(text) = message else {
                continue;
            };
            let message: Value = serde_json::from_str(&text)?;
            self.note(&message);
            if message.get("id") != Some(&json!(self.last_id)) {
                continue;
            }
            if let Some(error) = message.get("error") {
                bail!("{error}");
            }
            return Ok(message.get("result").cloned().unwrap_or_default());
        }
    }

    /// Remembers what the page asks for and what goes wrong in it.
    fn note(&mut self, message: &Value) {
        let text = |pointer: &str| message.pointer(pointer).and_then(Value::as_str);
        let method = message.get("method").and_then(Value::as_str);
        match method.unwrap_or_default() {
            "Network.requestWillBeSent" => {
                if let Some(url) = text("/params/request/url")
                    && self.requests.len() < REQUESTS_MAX
                {
                    self.requests.push(url.to_owned());
                }
            }
            "Log.entryAdded" if text("/params/entry/level") == Some("error") => {
                let (what, where_) = (text("/params/entry/text"), text("/params/entry/url"));
                let complaint = [what, where_].map(Option::unwrap_or_default).join(" ");
                self.complain(complaint);
            }
            "Runtime.exceptionThrown" => self.complain(message.to_string()),
            "Runtime.consoleAPICalled" if text("/params/type") == Some("error") => {
                self.complain(message.to_string());
            }
            _ => {}
        }
    }

    fn complain(&mut self, complaint: String) {
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(complaint);
        }
    }
}
