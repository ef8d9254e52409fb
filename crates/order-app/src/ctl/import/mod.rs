//! Creating an order for each line of a file.
//!
//! A thread reads lines and makes batches of them ([`reader`]), a few batches are on their
//! way at a time ([`sender`]), and what of the file is done is written down ([`journal`]).
//! Every line has an idempotency key of its own ([`key`]), so an import may be interrupted
//! at any point and run again. Everything between the parts is bounded.

mod journal;
mod key;
mod line;
mod reader;
mod sender;

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use order_core::Error;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use self::{
    journal::{Counts, Found, Journal, Route},
    reader::{Batch, Input, LineFailure},
    sender::Done,
};
use super::{
    client::Client,
    failure::Failure,
    output::{Output, OutputFormat},
};

/// Arguments of `import`.
#[derive(Clone, Debug, Args)]
pub struct ImportArgs {
    /// The file; - is standard input.
    ///
    /// A line of jsonl is an object with `user_id`, `amount`, and optionally `currency`,
    /// `external_id` and `metadata`. The header of csv names the same columns, and
    /// `metadata.NAME` for each entry of the metadata. Lines that fail are kept in FILE.errors.jsonl, and
    /// FILE.progress lets the next run go on where this one ended. The service recognises
    /// lines that were imported before for as long as it keeps idempotency keys.
    pub file: PathBuf,
    /// How the lines are written; by the ending of the file's name, or else jsonl.
    #[arg(long)]
    pub format: Option<FileFormat>,
    /// Batches that are on their way at the same time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub concurrency: u8,
    /// Orders in a batch.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub batch: u16,
}

/// How orders are written in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// A JSON object in each line.
    Jsonl,
    /// Comma-separated values with a header.
    Csv,
}

impl FileFormat {
    /// The format that the ending of a name stands for.
    pub(super) fn of_path(path: &Path) -> Option<Self> {
        let ending = path.extension().and_then(OsStr::to_str)?;
        match ending.to_ascii_lowercase().as_str() {
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }
}

/// How often progress is written down.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// How many batches may have ended behind one that is being tried again.
const WAITING_MAX: usize = 256;

/// The size of the reads from the file, in bytes.
const READ_BYTES: usize = 256 * 1024;

pub(super) async fn import(
    client: &Arc<Client>,
    args: ImportArgs,
    server: Vec<String>,
    output: &mut Output,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let format = args.format.or_else(|| FileFormat::of_path(&args.file));
    let format = format.unwrap_or(FileFormat::Jsonl);
    let route = Route { format, server };
    let is_stdin = args.file == Path::new("-");
    let (source, len, journal): (Box<dyn io::BufRead + Send>, _, _) = if is_stdin {
        let stdin = BufReader::with_capacity(READ_BYTES, io::stdin());
        (Box::new(stdin), None, Journal::without_files(route))
    } else {
        let (file, len) = open(&args.file)?;
        let (journal, found) = Journal::open(&args.file, route)?;
        tell_found(&journal, found, len, output)?;
        let source = BufReader::with_capacity(READ_BYTES, file);
        (Box::new(source), Some(len), journal)
    };
    if len.is_some_and(|len| len > 0 && journal.bytes_done() == len) {
        return finish(&journal, output);
    }
    let input = Input {
        source,
        path: args.file,
        format,
        bytes_done: journal.bytes_done(),
        batch_len_max: args.batch.into(),
    };
    let concurrency = usize::from(args.concurrency);
    let batches = reader::spawn(input, concurrency).map_err(Error::internal)?;
    output.begin_progress(len);
    let mut run = Run {
        client,
        batches,
        concurrency,
        lines_before: journal.lines_done(),
        began_at: client.clock.instant(),
        journal,
        output,
    };
    let done = run.pump(stop).await;
    let Run { mut journal, .. } = run;
    output.end_progress();
    let saved = journal.save();
    if let Err(failure) = done {
        tell_how_to_resume(&journal, output)?;
        return Err(failure);
    }
    saved?;
    finish(&journal, output)
}

fn open(path: &Path) -> Result<(File, u64), Failure> {
    let opened = File::open(path).and_then(|file| {
        let found = file.metadata()?;
        if found.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok((file, found.len()))
    });
    opened.map_err(|error| {
        let rule = format!("cannot be read: {error}");
        Failure::Usage(Error::invalid("file", rule))
    })
}

fn tell_found(journal: &Journal, found: Found, len: u64, output: &mut Output) -> io::Result<()> {
    let lines = journal.lines_done();
    match found {
        Found::Nothing => Ok(()),
        Found::Progress if journal.bytes_done() == len => output.note(format_args!(
            "all {lines} lines were imported before; nothing is sent"
        )),
        Found::Progress => output.note(format_args!("going on after line {lines}")),
        Found::OtherProgress => output.note(format_args!(
            "the file or the service has changed since the last run; all lines are sent, and \
             those that were imported before are not created again"
        )),
    }
}

fn tell_how_to_resume(journal: &Journal, output: &mut Output) -> io::Result<()> {
    let lines = journal.lines_done();
    match journal.errors_path() {
        Some(_) => output.note(format_args!(
            "{lines} lines are done; the same command goes on after them"
        )),
        None => output.note(format_args!(
            "{lines} lines are done; the same input can be imported again, nothing is created \
             twice"
        )),
    }
}

/// What came of an import, as JSON.
#[derive(Serialize)]
struct SummaryJson {
    lines: u64,
    #[serde(flatten)]
    counts: Counts,
}

fn finish(journal: &Journal, output: &mut Output) -> Result<(), Failure> {
    let (lines, counts) = (journal.lines_done(), journal.counts());
    match output.format() {
        OutputFormat::Json => output.json(&SummaryJson { lines, counts })?,
        OutputFormat::Table => output.summary(&[
            ("created", counts.created),
            ("already there", counts.replayed),
            ("failed", counts.failed),
        ])?,
    }
    if counts.failed == 0 {
        return Ok(());
    }
    output.flush()?;
    if let Some(path) = journal.errors_path() {
        output.note(format_args!("the failed lines are in {}", path.display()))?;
    }
    Err(Failure::FailedLines(counts.failed))
}

/// An import under way.
struct Run<'a> {
    client: &'a Arc<Client>,
    batches: mpsc::Receiver<Result<Batch, Failure>>,
    concurrency: usize,
    journal: Journal,
    output: &'a mut Output,
    lines_before: u64,
    began_at: Instant,
}

impl Run<'_> {
    /// Sends batches until the last is done. What is on its way when that fails is given up:
    /// the next run sends it again.
    async fn pump(&mut self, stop: &CancellationToken) -> Result<(), Failure> {
        let (trouble, mut troubles) = watch::channel(None);
        let mut in_flight = JoinSet::new();
        let mut tick = interval(SAVE_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut has_more = true;
        while has_more || !in_flight.is_empty() {
            let may_send = has_more
                && in_flight.len() < self.concurrency
                && self.journal.n_waiting() < WAITING_MAX;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Failure::Interrupted),
                Some(done) = in_flight.join_next() => self.complete(done)?,
                batch = self.batches.recv(), if may_send => {
                    let batch = batch.ok_or_else(|| Error::internal("the reader has died"))??;
                    has_more = !batch.is_last;
                    in_flight.spawn(sender::send(Arc::clone(self.client), batch, trouble.clone()));
                }
                _ = tick.tick() => {
                    self.journal.save()?;
                    self.tell_trouble(&mut troubles)?;
                }
            }
        }
        Ok(())
    }

    fn tell_trouble(&mut self, troubles: &mut watch::Receiver<Option<String>>) -> io::Result<()> {
        if !troubles.has_changed().unwrap_or_default() {
            return Ok(());
        }
        match troubles.borrow_and_update().as_deref() {
            Some(trouble) => self.output.note(format_args!(
                "{trouble}; trying again for {} s",
                sender::GIVE_UP_AFTER.as_secs()
            )),
            None => Ok(()),
        }
    }

    fn complete(&mut self, done: Result<Result<Done, Error>, JoinError>) -> Result<(), Failure> {
        let done = done.map_err(Error::internal)??;
        for failure in self.journal.complete(done)? {
            tell_line(&failure, self.output)?;
        }
        let lines = self.journal.lines_done();
        let elapsed = self.client.clock.instant().duration_since(self.began_at);
        let millis = elapsed.as_millis().max(1);
        let rate = u128::from(lines - self.lines_before) * 1_000 / millis;
        let message = format!("{lines} lines, {rate} per second");
        self.output.progress(self.journal.bytes_done(), message);
        Ok(())
    }
}

fn tell_line(failure: &LineFailure, output: &mut Output) -> io::Result<()> {
    let LineFailure {
        line,
        code,
        message,
        violations,
    } = failure;
    if violations.is_empty() {
        return output.complain(format_args!("line {line}: {code}: {message}"));
    }
    for violation in violations {
        output.complain(format_args!("line {line}: {violation}"))?;
    }
    Ok(())
}
