//! The processor time of processes, with their children, which PostgreSQL has one of for each
//! connection.

use std::{fs, time::Duration};

use anyhow::Context as _;

/// Linux counts in hundredths of a second, whatever its own clock does.
const TICK: Duration = Duration::from_millis(10);

/// What a process has used since its start: itself, the children it has, and those that ended.
pub(super) fn used(process: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))
        .with_context(|| format!("process {process} is gone"))?;
    // The fields follow the name, which is in parentheses and may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    // User and system time of the process, then of the children that ended (proc(5)).
    let times = fields.split_whitespace().skip(11).take(4);
    let ticks: u32 = times.map(str::parse::<u32>).sum::<Result<_, _>>()?;
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"))?;
    let mut used = TICK * ticks;
    for child in children.split_whitespace() {
        // One that ends in this moment is counted by neither.
        used += self::used(child.parse()?).unwrap_or_default();
    }
    Ok(used)
}
