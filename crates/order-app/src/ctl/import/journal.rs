//! What of a file is done, so that importing it again goes on from there.
//!
//! Beside `FILE` there are `FILE.progress`, replaced as a whole, and `FILE.errors.jsonl`, to
//! which failed lines are appended. Invariants: what the journal calls done is a prefix of
//! the file, whatever the order in which its batches end, and the errors are those of the
//! prefix, in the order of the lines. Losing the journal is harmless: the keys of the lines
//! keep them from being created twice.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    FileFormat,
    reader::{LineFailure, hash_prefix},
    sender::Done,
};
use crate::ctl::failure::{Failure, RuleJson};

/// How many lines came to what end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Orders that were created.
    pub(super) created: u64,
    /// Orders that were there already.
    pub(super) replayed: u64,
    /// Lines that failed.
    pub(super) failed: u64,
}

/// Where the orders come from and where they go. Progress counts only for the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Route {
    /// How the file is read.
    pub(super) format: FileFormat,
    /// The service.
    pub(super) server: Vec<String>,
}

/// The content of `FILE.progress`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    #[serde(flatten)]
    route: Route,
    /// The part that is done.
    bytes: u64,
    lines: u64,
    /// SHA-256 of that part, in hexadecimal digits.
    sha256: String,
    #[serde(flatten)]
    counts: Counts,
    /// How much of `FILE.errors.jsonl` is about that part.
    errors_bytes: u64,
}

impl Record {
    fn new(route: Route) -> Self {
        Self {
            route,
            bytes: 0,
            lines: 0,
            sha256: String::new(),
            counts: Counts::default(),
            errors_bytes: 0,
        }
    }
}

/// What a journal found when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing: the file is imported for the first time.
    Nothing,
    /// A part of the file is done, or all of it.
    Progress,
    /// Progress that does not count: the file changed in that part, or goes elsewhere.
    OtherProgress,
}

/// The journal of an import.
pub(super) struct Journal {
    /// `None` for an import that cannot be resumed because its input has no name.
    files: Option<Files>,
    record: Record,
    is_dirty: bool,
    /// Batches that ended before one that is in front of them.
    waiting: BTreeMap<u64, Done>,
    /// The batch that has to end next.
    next: u64,
}

struct Files {
    progress: PathBuf,
    errors: PathBuf,
    /// Opened with the first failure.
    errors_writer: Option<BufWriter<File>>,
}

impl Journal {
    /// A journal that is not kept.
    pub(super) fn without_files(route: Route) -> Self {
        Self::new(None, Record::new(route))
    }

    fn new(files: Option<Files>, record: Record) -> Self {
        Self {
            files,
            record,
            is_dirty: false,
            waiting: BTreeMap::new(),
            next: 0,
        }
    }

    /// The journal of the file at `path`.
    ///
    /// # Errors
    /// [`Failure::File`] if a file cannot be read or written.
    pub(super) fn open(path: &Path, route: Route) -> Result<(Self, Found), Failure> {
        let progress = with_ending(path, ".progress");
        let errors = with_ending(path, ".errors.jsonl");
        let (mut record, found) = match read_record(&progress) {
            None => (Record::new(route), Found::Nothing),
            Some(record) if record.route == route && is_prefix(path, &record)? => {
                (record, Found::Progress)
            }
            Some(_) => (Record::new(route), Found::OtherProgress),
        };
        // Errors beyond the progress are found again.
        record.errors_bytes = cut(&errors, record.errors_bytes)?;
        let files = Files {
            progress,
            errors,
            errors_writer: None,
        };
        Ok((Self::new(Some(files), record), found))
    }

    /// How many bytes of the file are done.
    pub(super) const fn bytes_done(&self) -> u64 {
        self.record.bytes
    }

    /// How many lines of the file are done.
    pub(super) const fn lines_done(&self) -> u64 {
        self.record.lines
    }

    /// How many lines came to what end, over all runs.
    pub(super) const fn counts(&self) -> Counts {
        self.record.counts
    }

    /// How many batches have ended behind one that has not.
    pub(super) fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Where failed lines are kept, if they are.
    pub(super) fn errors_path(&self) -> Option<&Path> {
        self.files.as_ref().map(|files| files.errors.as_path())
    }

    /// Takes note of a batch that has ended. Returns the failed lines that have become part
    /// of what is done.
    ///
    /// # Errors
    /// [`Failure::File`] if they cannot be written.
    pub(super) fn complete(&mut self, done: Done) -> Result<Vec<LineFailure>, Failure> {
        self.waiting.insert(done.number, done);
        let mut failures = Vec::new();
        while let Some(mut done) = self.waiting.remove(&self.next) {
            self.next += 1;
            let failed = u64::try_from(done.failures.len()).unwrap_or(u64::MAX);
            let counts = &mut self.record.counts;
            counts.created += done.created;
            counts.replayed += done.replayed;
            counts.failed += failed;
            self.record.bytes = done.end.bytes;
            self.record.lines = done.end.lines;
            self.record.sha256 = to_hex(&done.end.sha256);
            self.is_dirty = true;
            failures.append(&mut done.failures);
        }
        if let Some(files) = &mut self.files {
            self.record.errors_bytes += files.append(&failures)?;
        }
        Ok(failures)
    }

    /// Writes down what is done. Called again and again; a run that dies loses what came
    /// after the last call.
    ///
    /// # Errors
    /// [`Failure::File`] if it cannot be written.
    pub(super) fn save(&mut self) -> Result<(), Failure> {
        let Some(files) = self.files.as_mut().filter(|_| self.is_dirty) else {
            return Ok(());
        };
        files.flush_errors()?;
        files.replace_progress(&self.record)?;
        self.is_dirty = false;
        Ok(())
    }
}

/// A failed line in `FILE.errors.jsonl`.
#[derive(Serialize)]
struct ErrorJson<'a> {
    line: u64,
    code: &'a str,
    message: &'a str,
    errors: Vec<RuleJson<'a>>,
}

impl Files {
    fn append(&mut self, failures: &[LineFailure]) -> Result<u64, Failure> {
        if failures.is_empty() {
            return Ok(0);
        }
        let path = &self.errors;
        let writer = match &mut self.errors_writer {
            Some(writer) => writer,
            closed => {
                let file = File::options().append(true).create(true).open(path);
                closed.insert(BufWriter::new(file.map_err(file_failure(path))?))
            }
        };
        let mut n_bytes = 0;
        for failure in failures {
            let json = ErrorJson {
                line: failure.line,
                code: failure.code,
                message: &failure.message,
                errors: failure.violations.iter().map(RuleJson::from).collect(),
            };
            // Strings, numbers and lists always serialise.
            let mut line = serde_json::to_vec(&json).unwrap_or_default();
            line.push(b'\n');
            writer.write_all(&line).map_err(file_failure(path))?;
            n_bytes += u64::try_from(line.len()).unwrap_or(u64::MAX);
        }
        Ok(n_bytes)
    }

    fn flush_errors(&mut self) -> Result<(), Failure> {
        match &mut self.errors_writer {
            Some(writer) => writer.flush().map_err(file_failure(&self.errors)),
            None => Ok(()),
        }
    }

    /// Whoever reads the file finds the old content or the new one, never a part.
    fn replace_progress(&self, record: &Record) -> Result<(), Failure> {
        let new = with_ending(&self.progress, ".new");
        serde_json::to_vec_pretty(record)
            .map_err(io::Error::from)
            .and_then(|text| fs::write(&new, text))
            .and_then(|()| fs::rename(&new, &self.progress))
            .map_err(file_failure(&self.progress))
    }
}

/// Progress that cannot be read is none.
fn read_record(path: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Whether the file still begins with what is done.
fn is_prefix(path: &Path, record: &Record) -> Result<bool, Failure> {
    let file = File::open(path).map_err(file_failure(path))?;
    let hash = hash_prefix(BufReader::with_capacity(1 << 18, file), record.bytes);
    let hash = hash.map_err(file_failure(path))?;
    Ok(hash.is_some_and(|hash| to_hex(&hash) == record.sha256))
}

/// Cuts a file to at most `len` bytes, and returns how many it has then.
fn cut(path: &Path, len: u64) -> Result<u64, Failure> {
    let file = match File::options().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(file_failure(path)(error)),
    };
    let found = file.metadata().map_err(file_failure(path))?.len();
    if len == 0 {
        fs::remove_file(path).map_err(file_failure(path))?;
    } else if len < found {
        file.set_len(len).map_err(file_failure(path))?;
    }
    Ok(len.min(found))
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

fn file_failure(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let path = path.to_owned();
    move |source| Failure::File { path, source }
}

fn to_hex(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Memory can always be written to.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

#[cfg(test)]
mod tests;
