//! Reads request bodies with a size limit and a timeout.

use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use order_core::BoxError;

/// A request body could not be read.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum BodyError {
    /// It is longer than allowed.
    #[error("the body has more than {len_max} bytes")]
    TooLarge {
        /// The limit, in bytes.
        len_max: usize,
    },
    /// It took too long.
    #[error("the body did not arrive in time")]
    Timeout,
    /// The client stopped in the middle.
    #[error("the body ends too early")]
    Broken,
}

/// The limits of a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    pub(crate) len_max: usize,
    pub(crate) timeout: Duration,
}

/// Reads a body to its end. One that announces too much is refused unread.
pub(crate) async fn read<B>(body: B, limits: BodyLimits) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let len_max = limits.len_max;
    if usize::try_from(body.size_hint().lower()).map_or(true, |len| len > len_max) {
        return Err(BodyError::TooLarge { len_max });
    }
    let collected = Limited::new(body, len_max).collect();
    match tokio::time::timeout(limits.timeout, collected).await {
        Err(_) => Err(BodyError::Timeout),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge { len_max }),
        Ok(Err(_)) => Err(BodyError::Broken),
    }
}
