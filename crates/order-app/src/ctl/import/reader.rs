//! Reads a file line by line into batches, on a thread of its own.
//!
//! Invariants: memory does not grow with the file but for the keys, whose number is limited;
//! a batch ends at the end of a line, and its [`Checkpoint`] names that place.

use std::{
    io::{self, BufRead, Read as _},
    path::PathBuf,
    thread,
};

use order_core::{CreateOrder, Error, Violation};
use order_rpc::REQUEST_BYTES_MAX;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::{FileFormat, key::KeyMaker, line::LineParser};
use crate::ctl::failure::{Failure, describe};

/// The longest line, in bytes: twice what the largest order needs.
const LINE_BYTES_MAX: u64 = 256 * 1024;

/// More than the largest order takes in a message, in bytes.
const ORDER_BYTES_MAX: usize = 128 * 1024;

/// A place between two lines of a file, and all that comes before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// How many bytes come before it.
    pub(super) bytes: u64,
    /// How many lines come before it.
    pub(super) lines: u64,
    /// SHA-256 of what comes before it.
    pub(super) sha256: [u8; 32],
}

/// A line that was not imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LineFailure {
    /// Which line, counted from 1.
    pub(super) line: u64,
    /// The name of the failure.
    pub(super) code: &'static str,
    /// What happened.
    pub(super) message: String,
    /// The rules that the line breaks.
    pub(super) violations: Vec<Violation>,
}

impl LineFailure {
    /// A line that was refused with `error`.
    pub(super) fn new(line: u64, error: &Error) -> Self {
        let (message, violations) = describe(error);
        Self {
            line,
            code: error.reason().as_str(),
            message,
            violations: violations.to_vec(),
        }
    }
}

/// Some lines of the file.
#[derive(Debug)]
pub(super) struct Batch {
    /// Which batch, counted from 0 without gaps.
    pub(super) number: u64,
    /// The orders, each with its line.
    pub(super) orders: Vec<(u64, CreateOrder)>,
    /// The lines that are no orders.
    pub(super) failures: Vec<LineFailure>,
    /// Where the batch ends.
    pub(super) end: Checkpoint,
    /// Whether the file ends there too.
    pub(super) is_last: bool,
}

/// What to read.
pub(super) struct Input {
    /// The bytes.
    pub(super) source: Box<dyn BufRead + Send>,
    /// Their name in errors.
    pub(super) path: PathBuf,
    /// How lines are read.
    pub(super) format: FileFormat,
    /// How many bytes at the beginning are done already: their lines only count for the keys
    /// of those that follow.
    pub(super) bytes_done: u64,
    /// The most orders of a batch.
    pub(super) batch_len_max: usize,
}

/// Reads on a thread of its own; at most `n_ahead` batches wait for the receiver. Ends after
/// the last batch, with the first failure, or when the receiver is dropped.
///
/// The thread is not joined: one that waits for a terminal would never end.
pub(super) fn spawn(
    input: Input,
    n_ahead: usize,
) -> io::Result<mpsc::Receiver<Result<Batch, Failure>>> {
    let (batches, receiver) = mpsc::channel(n_ahead);
    let mut reader = BatchReader::new(input);
    thread::Builder::new()
        .name("import-reader".to_owned())
        .spawn(move || {
            loop {
                let batch = reader.next_batch();
                let is_end = batch.as_ref().map_or(true, |batch| batch.is_last);
                if batches.blocking_send(batch).is_err() || is_end {
                    return;
                }
            }
        })?;
    Ok(receiver)
}

/// Makes batches of lines.
struct BatchReader {
    lines: LineReader,
    /// `None` until the header of a table is read.
    parser: Option<LineParser>,
    keys: KeyMaker,
    n_batches: u64,
    path: PathBuf,
    bytes_done: u64,
    batch_len_max: usize,
}

impl BatchReader {
    fn new(input: Input) -> Self {
        Self {
            lines: LineReader::new(input.source),
            parser: match input.format {
                FileFormat::Jsonl => Some(LineParser::Json),
                FileFormat::Csv => None,
            },
            keys: KeyMaker::default(),
            n_batches: 0,
            path: input.path,
            bytes_done: input.bytes_done,
            batch_len_max: input.batch_len_max,
        }
    }

    fn next_batch(&mut self) -> Result<Batch, Failure> {
        let mut batch = Batch {
            number: self.n_batches,
            orders: Vec::with_capacity(self.batch_len_max),
            failures: Vec::new(),
            end: Checkpoint::default(),
            is_last: false,
        };
        self.n_batches += 1;
        let mut n_bytes = 0;
        while batch.orders.len() + batch.failures.len() < self.batch_len_max
            && n_bytes + ORDER_BYTES_MAX <= REQUEST_BYTES_MAX
        {
            let has_line = self.lines.read().map_err(|source| Failure::File {
                path: self.path.clone(),
                source,
            })?;
            if !has_line {
                batch.is_last = true;
                break;
            }
            let is_done = self.lines.bytes <= self.bytes_done;
            match self.read_order()? {
                _ if is_done => {}
                Some(Ok(order)) => {
                    n_bytes += message_bytes(&order);
                    batch.orders.push((self.lines.n_lines, order));
                }
                Some(Err(violations)) => {
                    let error = Error::InvalidArgument { violations };
                    batch
                        .failures
                        .push(LineFailure::new(self.lines.n_lines, &error));
                }
                None => {}
            }
        }
        batch.end = self.lines.checkpoint();
        Ok(batch)
    }

    /// Makes an order of the line that was read last; `None` if it is blank or a header.
    fn read_order(&mut self) -> Result<Option<Result<CreateOrder, Vec<Violation>>>, Failure> {
        let line = self.lines.line();
        if line.as_ref().is_ok_and(|line| line.trim_ascii().is_empty()) {
            return Ok(None);
        }
        let Some(parser) = &self.parser else {
            let parser = line
                .and_then(LineParser::from_header)
                .map_err(|violations| Failure::Usage(Error::InvalidArgument { violations }))?;
            self.parser = Some(parser);
            return Ok(None);
        };
        let mut order = match line.and_then(|line| parser.parse(line)) {
            Ok(order) => order,
            Err(violations) => return Ok(Some(Err(violations))),
        };
        let key = self.keys.next_key(&order).map_err(Failure::Usage)?;
        order.idempotency_key = Some(key);
        Ok(Some(Ok(order)))
    }
}

/// An upper bound for the bytes of an order in a message: its text, and for each part the
/// tag and the length.
fn message_bytes(order: &CreateOrder) -> usize {
    const PARTS_BYTES_MAX: usize = 64;
    const ENTRY_PARTS_BYTES_MAX: usize = 12;
    let metadata = order
        .metadata
        .iter()
        .map(|(name, value)| name.len() + value.len() + ENTRY_PARTS_BYTES_MAX);
    let external_id = order.external_id.as_ref().map_or(0, |id| id.as_str().len());
    let key = order.idempotency_key.as_ref();
    PARTS_BYTES_MAX
        + order.user_id.as_str().len()
        + external_id
        + key.map_or(0, |key| key.as_str().len())
        + metadata.sum::<usize>()
}

/// Reads lines and keeps account of what was read.
struct LineReader {
    source: Box<dyn BufRead + Send>,
    line: Vec<u8>,
    is_too_long: bool,
    bytes: u64,
    n_lines: u64,
    hash: Sha256,
}

impl LineReader {
    fn new(source: Box<dyn BufRead + Send>) -> Self {
        Self {
            source,
            line: Vec::new(),
            is_too_long: false,
            bytes: 0,
            n_lines: 0,
            hash: Sha256::new(),
        }
    }

    /// Reads the next line; false at the end. Of a line that is too long only the end is
    /// kept.
    fn read(&mut self) -> io::Result<bool> {
        self.is_too_long = false;
        loop {
            self.line.clear();
            let mut piece = (&mut self.source).take(LINE_BYTES_MAX);
            let n_read = piece.read_until(b'\n', &mut self.line)?;
            self.hash.update(&self.line);
            let n_read = u64::try_from(n_read).unwrap_or(u64::MAX);
            self.bytes += n_read;
            if n_read < LINE_BYTES_MAX || self.line.ends_with(b"\n") {
                let has_line = n_read > 0 || self.is_too_long;
                self.n_lines += u64::from(has_line);
                return Ok(has_line);
            }
            self.is_too_long = true;
        }
    }

    /// The line without its end, and the first one without a byte order mark.
    fn line(&self) -> Result<&[u8], Vec<Violation>> {
        if self.is_too_long {
            let rule = format!("must have at most {LINE_BYTES_MAX} bytes");
            return Err(vec![Violation::new("", rule)]);
        }
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mark = b"\xef\xbb\xbf";
        Ok(line
            .strip_prefix(mark)
            .filter(|_| self.n_lines == 1)
            .unwrap_or(line))
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            bytes: self.bytes,
            lines: self.n_lines,
            sha256: self.hash.clone().finalize().into(),
        }
    }
}

/// The hash of the first `bytes` of a source; `None` if it is shorter, or if they end within
/// a line.
///
/// # Errors
/// If the source cannot be read.
pub(super) fn hash_prefix(mut source: impl BufRead, bytes: u64) -> io::Result<Option<[u8; 32]>> {
    let mut hash = Sha256::new();
    let mut left = bytes;
    let mut ends_line = true;
    while left > 0 {
        let chunk = source.fill_buf()?;
        let len = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let Some(piece) = chunk.get(..len).filter(|piece| !piece.is_empty()) else {
            return Ok(None);
        };
        hash.update(piece);
        ends_line = piece.ends_with(b"\n");
        source.consume(len);
        left -= u64::try_from(len).unwrap_or(left);
    }
    // A last line without an end is a line until somebody writes on.
    let is_place = ends_line || source.fill_buf()?.is_empty();
    Ok(is_place.then(|| hash.finalize().into()))
}

#[cfg(test)]
mod tests;
