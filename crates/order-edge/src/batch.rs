//! How both transports log calls with many parts.

use order_core::{CallContext, Error};

/// A batch succeeds as a call, so the access log does not see why its parts failed. One
/// line tells how many did through no fault of the caller and, for the first, why.
pub fn log_failures<'a, T: 'a>(
    ctx: &CallContext,
    answers: impl IntoIterator<Item = &'a Result<T, Error>>,
) {
    let failures = answers.into_iter().filter_map(|a| a.as_ref().err());
    let mut failures = failures.filter(|error| error.reason().is_fault());
    if let Some(first) = failures.next() {
        tracing::error!(
            request.id = ctx.request_id.as_str(),
            n_failed = 1 + failures.count(),
            error = first.chain(),
            "parts of a batch failed"
        );
    }
}
