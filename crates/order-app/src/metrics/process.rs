//! The process and its runtime.

use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::runtime::Handle;

use super::{
    about,
    collect::{BYTES, SECONDS, counter, gauge},
    float, in_unit, number,
};

/// Registers what the operating system and the runtime know of this process.
pub(super) fn register(registry: &mut Registry) {
    register_runtime(registry);
    #[cfg(target_os = "linux")]
    register_process(registry);
}

fn register_runtime(registry: &mut Registry) {
    let Ok(runtime) = Handle::try_current() else {
        return;
    };
    let metrics = runtime.metrics();
    let workers = metrics.clone();
    gauge(
        registry,
        about("tokio_workers", "Threads that run tasks"),
        move || Some(number(workers.num_workers())),
    );
    let tasks = metrics.clone();
    gauge(
        registry,
        about("tokio_alive_tasks", "Tasks that have not ended"),
        move || Some(number(tasks.num_alive_tasks())),
    );
    let queue = metrics.clone();
    gauge(
        registry,
        about("tokio_global_queue_depth", "Tasks that wait for a thread"),
        move || Some(number(queue.global_queue_depth())),
    );
    counter(
        registry,
        in_unit("tokio_busy", "Time that threads spent on tasks", SECONDS),
        move || {
            let busy = (0..metrics.num_workers()).map(|n| metrics.worker_total_busy_duration(n));
            Some(busy.sum::<Duration>().as_secs_f64())
        },
    );
}

#[cfg(target_os = "linux")]
fn register_process(registry: &mut Registry) {
    use procfs::process::{LimitValue, Process};

    let stat = || Process::myself().and_then(|process| process.stat()).ok();
    let seconds = |ticks: u64| float(ticks) / float(procfs::ticks_per_second());
    counter(
        registry,
        in_unit("process_cpu", "Processor time, user and system", SECONDS),
        move || stat().map(|stat| seconds(stat.utime + stat.stime)),
    );
    gauge(
        registry,
        in_unit("process_resident_memory", "Memory in use", BYTES),
        move || stat().map(|stat| float(stat.rss * procfs::page_size())),
    );
    gauge(
        registry,
        about("process_threads", "Threads of the operating system"),
        move || stat().map(|stat| float(stat.num_threads.unsigned_abs())),
    );
    gauge(
        registry,
        about("process_open_fds", "Open file descriptors"),
        || {
            Process::myself()
                .and_then(|p| p.fd_count())
                .ok()
                .map(number)
        },
    );
    gauge(
        registry,
        about("process_max_fds", "The most file descriptors there may be"),
        || {
            let limits = Process::myself()
                .and_then(|process| process.limits())
                .ok()?;
            match limits.max_open_files.soft_limit {
                LimitValue::Value(n) => Some(float(n)),
                LimitValue::Unlimited => None,
            }
        },
    );
}
