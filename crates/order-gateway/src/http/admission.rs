//! How many requests there may be, so that none of them keeps out the others.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    net::IpAddr,
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Poll,
};

use axum::body::Body;
use bytes::Bytes;
use order_core::Error;
use tokio::sync::oneshot;

use super::{
    HttpConfig,
    body::{self, BodyLimits},
    problem::Problem,
};
use crate::slots::{Slot, Slots};

/// The limits on requests.
pub(crate) struct Admission {
    arriving: Arriving,
    slots: Slots,
    body: BodyLimits,
}

impl Admission {
    pub(crate) fn new(config: &HttpConfig) -> Self {
        Self {
            arriving: Arriving::new(config.in_flight_max),
            slots: Slots::new(config.in_flight_max, config.in_flight_per_address_max),
            body: BodyLimits {
                len_max: config.body_len_max,
                timeout: config.body_timeout,
            },
        }
    }

    /// Takes a place for a request from `client` that has no body, or none that matters.
    pub(crate) fn admit(&self, client: IpAddr) -> Result<Slot, Problem> {
        let slot = self.slots.try_take(client);
        slot.ok_or_else(|| Error::overloaded().into())
    }

    /// Reads the body of a request, and then takes a place for it: a body that does not come
    /// keeps out nobody.
    pub(crate) async fn receive(
        &self,
        client: IpAddr,
        body: Body,
    ) -> Result<(Bytes, Slot), Problem> {
        let bytes = self.read(body).await?;
        Ok((bytes, self.admit(client)?))
    }

    async fn read(&self, body: Body) -> Result<Bytes, Problem> {
        let mut reading = pin!(body::read(body, self.body));
        // Nearly every body is there with its head.
        let read = poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await;
        if let Poll::Ready(read) = read {
            return Ok(read?);
        }
        let (_waiting, displaced) = self.arriving.enter();
        tokio::select! {
            read = reading => Ok(read?),
            _ = displaced => Err(Error::overloaded().into()),
        }
    }
}

/// The bodies that are still arriving. One too many displaces the oldest: a client that sends
/// its body is done before that is its own.
struct Arriving {
    len_max: usize,
    bodies: Mutex<Bodies>,
}

#[derive(Default)]
struct Bodies {
    n_begun: u64,
    by_age: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Arriving {
    fn new(len_max: usize) -> Self {
        Self {
            len_max,
            bodies: Mutex::default(),
        }
    }

    /// Begins to wait for a body; the receiver ends when it is displaced.
    fn enter(&self) -> (Waiting<'_>, oneshot::Receiver<()>) {
        let (sender, displaced) = oneshot::channel();
        let mut bodies = self.lock();
        let number = bodies.n_begun;
        bodies.n_begun += 1;
        bodies.by_age.insert(number, sender);
        if bodies.by_age.len() > self.len_max {
            bodies.by_age.pop_first();
        }
        let waiting = Waiting {
            arriving: self,
            number,
        };
        (waiting, displaced)
    }

    /// No code that can panic runs under the lock, so the bodies are still whole.
    fn lock(&self) -> MutexGuard<'_, Bodies> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that is arriving, until it is dropped.
struct Waiting<'a> {
    arriving: &'a Arriving,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.arriving.lock().by_age.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_too_many_displaces_the_oldest() {
        let arriving = Arriving::new(2);
        let (_first, mut is_first_displaced) = arriving.enter();
        let (second, _) = arriving.enter();
        drop(second);
        let (_third, mut is_third_displaced) = arriving.enter();
        assert!(is_first_displaced.try_recv() == Err(oneshot::error::TryRecvError::Empty));

        let (_fourth, _) = arriving.enter();

        assert!(is_first_displaced.try_recv() == Err(oneshot::error::TryRecvError::Closed));
        assert!(is_third_displaced.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        assert_eq!(arriving.lock().by_age.len(), 2);
    }
}
