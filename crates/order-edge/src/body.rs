//! Reads request bodies with a size limit.

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt as _;
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

/// A body that is being read.
pub(crate) struct Reader<B> {
    body: B,
    len_max: usize,
    /// The only part so far, as nearly every body has one.
    only: Bytes,
    /// Copies of several parts.
    all: BytesMut,
    is_slow: bool,
}

impl<B> Reader<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Reads a body of at most `len_max` bytes. One that announces more is refused unread.
    pub(crate) fn new(body: B, len_max: usize) -> Result<Self, BodyError> {
        if usize::try_from(body.size_hint().lower()).map_or(true, |len| len > len_max) {
            return Err(BodyError::TooLarge { len_max });
        }
        Ok(Self {
            body,
            len_max,
            only: Bytes::new(),
            all: BytesMut::new(),
            is_slow: false,
        })
    }

    /// Waits for the next part; `false` if that was the last.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn read_part(&mut self) -> Result<bool, BodyError> {
        let part = match self.body.frame().await {
            None => return Ok(false),
            Some(Err(_)) => return Err(BodyError::Broken),
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        };
        if self.len() + part.len() > self.len_max {
            let len_max = self.len_max;
            return Err(BodyError::TooLarge { len_max });
        }
        if self.len() == 0 && !self.is_slow {
            self.only = part;
        } else {
            self.copy_only_part();
            self.all.extend_from_slice(&part);
        }
        Ok(true)
    }

    /// The body will take its time. A part of a few bytes keeps the whole buffer that it was read
    /// into, so from now on all parts are copied.
    pub(crate) fn note_slow(&mut self) {
        self.is_slow = true;
        self.copy_only_part();
    }

    fn copy_only_part(&mut self) {
        self.all.extend_from_slice(&std::mem::take(&mut self.only));
    }

    /// The number of bytes received so far.
    pub(crate) fn len(&self) -> usize {
        self.only.len() + self.all.len()
    }

    /// The bytes received so far.
    pub(crate) fn into_bytes(self) -> Bytes {
        if self.all.is_empty() {
            self.only
        } else {
            self.all.freeze()
        }
    }
}
