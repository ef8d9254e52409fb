//! Runs `orderctl` inside the test and keeps what it writes.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use clap::Parser as _;
use order_app::ctl::{Cli, Colours, Console, Deps, ExitStatus, run};
use order_core::OrderApi;
use order_testkit::clock::{RuntimeClock, SeededIds};
use tokio_util::sync::CancellationToken;

use crate::redrive::FakeAdmin;

/// What a run of the program left behind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Bytes that several hands may write to.
#[derive(Clone, Default)]
pub(crate) struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    pub(crate) fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        buffer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs the program with these arguments.
pub(crate) async fn orderctl(api: &Arc<impl OrderApi>, args: &[&str]) -> Outcome {
    orderctl_until(api, args, &CancellationToken::new(), Colours::default()).await
}

/// Runs the program until it ends or is told to stop.
pub(crate) async fn orderctl_until(
    api: &Arc<impl OrderApi>,
    args: &[&str],
    stop: &CancellationToken,
    colours: Colours,
) -> Outcome {
    let (out, err) = (Buffer::default(), Buffer::default());
    let console = Console {
        out: Box::new(out.clone()),
        err: Box::new(err.clone()),
        colours,
        has_progress: false,
        has_screen: false,
    };
    let deps = Deps {
        api: Arc::clone(api) as Arc<dyn OrderApi>,
        admin: Arc::new(FakeAdmin),
        clock: Arc::new(RuntimeClock::new()),
        ids: Arc::new(SeededIds::new(1)),
    };
    let args = ["orderctl"].iter().chain(args);
    let cli = Cli::try_parse_from(args).expect("good arguments");
    let status = run(cli, deps, console, stop).await;
    Outcome {
        status,
        out: out.text(),
        err: err.text(),
    }
}
