//! The figures of a process as JSON. Programs of different versions read each other's: figures that
//! are not known are ignored, and missing ones are zero.

use std::collections::BTreeMap;

use order_core::Figures;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
#[serde(remote = "Figures", default)]
struct Fields {
    workers: u32,
    busy: u32,
    queued: u32,
    lag_ms: u64,
    connections: u32,
    sockets: u32,
    subscriptions: u32,
    created: u64,
    processed: u64,
    failed: u64,
    retried: u64,
    fenced: u64,
    requests: u64,
    failed_requests: u64,
    request_times: Vec<u64>,
    completion_times: Vec<u64>,
    failures: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct Written<'a>(#[serde(with = "Fields")] &'a Figures);

#[derive(Deserialize)]
struct Read(#[serde(with = "Fields")] Figures);

/// Writes the figures.
pub(crate) fn write(figures: &Figures) -> serde_json::Result<String> {
    serde_json::to_string(&Written(figures))
}

/// Reads figures. Those of another version that cannot be read are zero.
pub(crate) fn read(text: &str) -> Figures {
    serde_json::from_str(text).map_or_else(|_| Figures::default(), |Read(figures)| figures)
}
