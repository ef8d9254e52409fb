//! What a command needs to ask the service: the API, time, ids and a limit for each call.

use std::{sync::Arc, time::Duration};

use order_core::{
    AdminApi, CallContext, Clock, Deadline, Error, GrpcCode, IdGen, OrderApi, RequestId,
};

/// What the commands stand on.
pub struct Deps {
    /// The service.
    pub api: Arc<dyn OrderApi>,
    /// The service, as operators see it.
    pub admin: Arc<dyn AdminApi>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Ids of orders and requests, and chance for the pauses between attempts.
    pub ids: Arc<dyn IdGen>,
}

/// The service, with a limit for each call to it.
pub(super) struct Client {
    pub(super) api: Arc<dyn OrderApi>,
    pub(super) admin: Arc<dyn AdminApi>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ids: Arc<dyn IdGen>,
    pub(super) timeout: Duration,
}

impl Client {
    pub(super) fn new(deps: Deps, timeout: Duration) -> Self {
        let Deps {
            api,
            admin,
            clock,
            ids,
        } = deps;
        Self {
            api,
            admin,
            clock,
            ids,
            timeout,
        }
    }

    /// The context of one call that begins now.
    pub(super) fn context(&self) -> CallContext {
        let request_id = RequestId::from_uuid(*self.ids.order_id().as_uuid());
        let deadline = self.clock.instant() + self.timeout;
        CallContext::new(request_id, Deadline::at(deadline))
    }

    /// Waits before the next attempt after `error`, at least as long as it asks for.
    pub(super) async fn pause(&self, backoff: &mut Backoff, error: &Error) {
        let [a, b, c, d, ..] = self.ids.secret();
        let random = f64::from(u32::from_le_bytes([a, b, c, d])) / f64::from(u32::MAX);
        let at_least = match error {
            Error::Overloaded { retry_after } | Error::RequestInProgress { retry_after } => {
                (*retry_after).min(Backoff::DELAY_MAX)
            }
            _ => Duration::ZERO,
        };
        self.clock.sleep(backoff.next(random).max(at_least)).await;
    }
}

/// Whether the same call may succeed a little later.
pub(super) fn is_transient(error: &Error) -> bool {
    matches!(
        error.reason().grpc_code(),
        GrpcCode::Unavailable | GrpcCode::DeadlineExceeded
    )
}

/// The pauses between attempts: exponential with full jitter, so that clients that lost the
/// service together do not come back together.
#[derive(Default)]
pub(super) struct Backoff {
    n_failures: u32,
}

impl Backoff {
    /// The upper bound of the first pause.
    const DELAY_BASE: Duration = Duration::from_millis(100);
    /// The longest pause.
    pub(super) const DELAY_MAX: Duration = Duration::from_secs(5);

    /// How often [`Backoff::next`] was asked since the last success.
    pub(super) const fn n_failures(&self) -> u32 {
        self.n_failures
    }

    /// The next pause, for `random` uniform in 0.0 to 1.0.
    fn next(&mut self, random: f64) -> Duration {
        let factor = 2_u32.saturating_pow(self.n_failures);
        self.n_failures = self.n_failures.saturating_add(1);
        let max = Self::DELAY_BASE.saturating_mul(factor);
        max.min(Self::DELAY_MAX).mul_f64(random)
    }

    /// Begins anew after a success.
    pub(super) fn reset(&mut self) {
        self.n_failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..8).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.next(0.0), Duration::ZERO);
        backoff.reset();
        assert_eq!(backoff.next(0.5), Duration::from_millis(50));
    }
}
