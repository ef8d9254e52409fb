//! Bodies of requests: never too long, never for too long.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use super::problem::ProtocolError;

/// What a body is granted.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimits {
    pub(super) len_max: usize,
    pub(super) timeout: Duration,
}

/// Reads a body to its end. One that announces too much is refused unread.
pub(super) async fn read(body: Body, limits: BodyLimits) -> Result<Bytes, ProtocolError> {
    let too_large = ProtocolError::BodyTooLarge {
        len_max: limits.len_max,
    };
    if usize::try_from(body.size_hint().lower()).map_or(true, |len| len > limits.len_max) {
        return Err(too_large);
    }
    let collected = Limited::new(body, limits.len_max).collect();
    match tokio::time::timeout(limits.timeout, collected).await {
        Err(_) => Err(ProtocolError::RequestTimeout),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large),
        Ok(Err(_)) => Err(ProtocolError::InvalidJson {
            rule: "it ends too early".to_owned(),
        }),
    }
}
