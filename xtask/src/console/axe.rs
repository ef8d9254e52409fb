//! Faults of accessibility in a page.

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::browser::Page;
use crate::services::{axe, find_program};

/// Violations in the page that keep somebody from using it, one line each.
const RUN: &str = "axe.run().then(found => found.violations \
    .filter(({impact}) => impact === 'serious' || impact === 'critical') \
    .map(({id, nodes}) => `${id}: ${nodes.map(({html}) => html).join(' ')}`.slice(0, 500)))";

/// The script.
pub(super) struct Axe(String);

impl Axe {
    /// Reads the script; `None` without npm, which would fetch it.
    pub(super) fn find() -> anyhow::Result<Option<Self>> {
        match std::fs::read_to_string(axe::script()) {
            Ok(script) => Ok(Some(Self(script))),
            Err(_) if find_program("npm").is_none() => {
                println!("accessibility skipped: npm is not installed");
                Ok(None)
            }
            Err(error) => Err(error).context("no axe-core; run cargo xtask services install"),
        }
    }

    /// Fails if the page has a serious fault.
    pub(super) async fn check(&self, page: &mut Page, name: &str) -> anyhow::Result<()> {
        page.evaluate(&self.0).await?;
        let found = page.evaluate(RUN).await?;
        let found = found.as_array().context("axe-core has no result")?;
        let found: Vec<&str> = found.iter().filter_map(Value::as_str).collect();
        ensure!(
            found.is_empty(),
            "{name} is not accessible: {}",
            found.join("\n")
        );
        Ok(())
    }
}
