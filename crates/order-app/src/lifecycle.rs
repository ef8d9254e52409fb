//! When to stop: signals, and the exit code that tells how it went.

use std::process::ExitCode;

use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinError,
};
use tokio_util::sync::CancellationToken;

use crate::telemetry;

/// Exit code of a process that was told twice to stop: 128 + SIGINT, as shells have it.
const EXIT_CODE_SECOND_SIGNAL: i32 = 130;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Every part ended by itself within its time.
    Clean,
    /// Something failed, or had to be cut.
    Unclean,
}

impl Exit {
    /// `Clean` if both are.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Clean, Self::Clean) => Self::Clean,
            _ => Self::Unclean,
        }
    }

    /// Logs how a listener ended, if that is a failure.
    pub(crate) fn of_listener(ended: Result<(&str, anyhow::Result<()>), JoinError>) -> Self {
        match ended {
            Ok((_, Ok(()))) => Self::Clean,
            Ok((listener, Err(error))) => {
                tracing::error!(listener, error = format!("{error:#}"), "listener failed");
                Self::Unclean
            }
            Err(error) => {
                tracing::error!(%error, "listener task failed");
                Self::Unclean
            }
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Clean => Self::SUCCESS,
            Exit::Unclean => Self::FAILURE,
        }
    }
}

/// A token that is cancelled by the first SIGINT or SIGTERM. The second ends the process at
/// once: nothing acknowledged can be lost by that, it only leaves leases to expire.
pub fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    // This task lives as long as the process, so nobody waits for it.
    #[expect(
        clippy::disallowed_methods,
        reason = "the signal task has no end to wait for"
    )]
    tokio::spawn(async move {
        for is_first in [true, false] {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            };
            if is_first {
                stopping.cancel();
                tracing::info!(signal = name, "stopping; a second signal ends at once");
            } else {
                tracing::warn!(signal = name, "ending at once");
                telemetry::flush();
                std::process::exit(EXIT_CODE_SECOND_SIGNAL);
            }
        }
    });
    Ok(stop)
}
