//! Follows one order over the WebSocket and prints every frame:
//! `cargo run --example watch -- ORDER_ID [URL]`. Ends when the order is final.

use std::io::Write as _;

use anyhow::{Context as _, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::{connect_async, tungstenite::Message};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let order_id = args.next().context("usage: watch ORDER_ID [URL]")?;
    let url = args
        .next()
        .unwrap_or_else(|| "ws://localhost:8081/ws".to_owned());
    let (mut socket, _) = connect_async(&url)
        .await
        .with_context(|| format!("cannot open {url}"))?;
    // A text frame that is an order id subscribes.
    socket.send(Message::text(order_id)).await?;
    while let Some(frame) = socket.next().await {
        let Message::Text(text) = frame? else {
            continue;
        };
        writeln!(std::io::stdout(), "{text}")?;
        let frame: serde_json::Value = serde_json::from_str(&text)?;
        match frame.get("status").and_then(|status| status.as_str()) {
            Some("PROCESSED" | "FAILED" | "CANCELLED") => return Ok(()),
            Some(_) => {}
            None => bail!("the server refused the subscription"),
        }
    }
    bail!("the server closed the connection")
}
