//! How a command ends: the exit codes, and what is told about a failure.

use std::{fmt::Write as _, io, path::PathBuf, process::ExitCode};

use clap::builder::styling::AnsiColor;
use order_core::{Error, GrpcCode, Reason, Violation};
use order_rpc::status::is_status;
use serde::Serialize;

use crate::telemetry::escape;

/// How the program ends. The numbers are a contract with scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// Done.
    Ok = 0,
    /// Refused by the service, or failed.
    Refused = 1,
    /// The arguments are wrong.
    Usage = 2,
    /// The order does not exist.
    NotFound = 3,
    /// The service did not answer, or not in time.
    Unavailable = 4,
    /// An import ended, and some of its lines failed.
    FailedLines = 5,
    /// A signal ended the program: 128 + SIGINT, as shells have it.
    Interrupted = 130,
}

impl ExitStatus {
    /// Every status with what `--help` says about it.
    pub const TABLE: &'static [(Self, &'static str)] = &[
        (Self::Ok, "done"),
        (Self::Refused, "refused by the service, or failed"),
        (Self::Usage, "wrong arguments"),
        (Self::NotFound, "the order does not exist"),
        (
            Self::Unavailable,
            "the service did not answer, or not in time",
        ),
        (
            Self::FailedLines,
            "the import is finished, and lines failed",
        ),
        (Self::Interrupted, "interrupted"),
    ];

    /// The number that the shell sees.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The table as text, for `--help`.
    pub(super) fn help() -> String {
        let mut text = "Exit codes:".to_owned();
        for (status, meaning) in Self::TABLE {
            // Memory can always be written to.
            let _ = write!(text, "\n  {:>3}  {meaning}", status.code());
        }
        text
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        status.code().into()
    }
}

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(super) enum Failure {
    /// What the service answered, or what stands for its silence.
    Service(Error),
    /// Arguments that break rules; the service was not asked.
    Usage(Error),
    /// A file cannot be read or written.
    File { path: PathBuf, source: io::Error },
    /// Standard output or error cannot be written.
    Output(io::Error),
    /// The admin listener of a process refused or did not answer.
    Admin { message: String, exit: ExitStatus },
    /// An import ended, and this many lines failed.
    FailedLines(u64),
    /// A redrive was ended because too many orders failed again.
    TooManyFailures,
    /// The user or the system asked the program to end.
    Interrupted,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Service(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// A failure as one JSON object; the broken rules are named as in a problem document.
#[derive(Serialize)]
struct FailureJson<'a> {
    code: &'a str,
    message: &'a str,
    errors: Vec<RuleJson<'a>>,
}

/// One broken rule: a JSON Pointer to the field and the rule.
#[derive(Serialize)]
pub(super) struct RuleJson<'a> {
    pointer: String,
    detail: &'a str,
}

impl<'a> From<&'a Violation> for RuleJson<'a> {
    fn from(violation: &'a Violation) -> Self {
        let pointer = match violation.field.as_str() {
            "" => String::new(),
            field => format!("/{field}"),
        };
        Self {
            pointer,
            detail: &violation.rule,
        }
    }
}

impl Failure {
    /// How the program ends with it.
    pub(super) fn exit_status(&self) -> ExitStatus {
        match self {
            Self::Service(error) => match error.reason().grpc_code() {
                GrpcCode::NotFound => ExitStatus::NotFound,
                GrpcCode::Unavailable | GrpcCode::DeadlineExceeded => ExitStatus::Unavailable,
                _ => ExitStatus::Refused,
            },
            Self::Usage(_) => ExitStatus::Usage,
            Self::Admin { exit, .. } => *exit,
            // Whoever read the output has seen enough of it: `orderctl list | head`.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitStatus::Ok,
            Self::File { .. } | Self::Output(_) | Self::TooManyFailures => ExitStatus::Refused,
            Self::FailedLines(_) => ExitStatus::FailedLines,
            Self::Interrupted => ExitStatus::Interrupted,
        }
    }

    /// What to tell the user; nothing where nobody has to be told.
    pub(super) fn report(&self) -> Option<Report<'_>> {
        let (code, message, violations) = match self {
            Self::Service(error) | Self::Usage(error) => {
                let (message, violations) = describe(error);
                (error.reason().as_str(), message, violations)
            }
            Self::File { path, source } => {
                ("FILE", format!("{}: {source}", path.display()), &[][..])
            }
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return None,
            Self::Output(error) => ("OUTPUT", format!("cannot write: {error}"), &[][..]),
            Self::Admin { message, .. } => ("ADMIN", message.clone(), &[][..]),
            Self::FailedLines(1) => ("FAILED_LINES", "1 line failed".to_owned(), &[][..]),
            Self::FailedLines(n) => ("FAILED_LINES", format!("{n} lines failed"), &[][..]),
            Self::TooManyFailures => {
                let message = "stopped: too many orders failed again".to_owned();
                ("TOO_MANY_FAILURES", message, &[][..])
            }
            Self::Interrupted => return None,
        };
        Some(Report {
            code,
            message,
            violations,
        })
    }
}

/// What an error says to its user, and the rules that are told one by one.
pub(super) fn describe(error: &Error) -> (String, &[Violation]) {
    if let Error::InvalidArgument { violations } = error {
        return (Reason::InvalidArgument.title().to_owned(), violations);
    }
    let mut message = error.to_string();
    // An answer as gRPC carries it says the same in the words of the protocol. Below it is why
    // there was none, like a connection that was refused.
    let mut source = std::error::Error::source(error);
    if source.is_some_and(is_status) {
        source = source.and_then(std::error::Error::source);
    }
    while let Some(cause) = source {
        // Memory can always be written to.
        let _ = write!(message, ": {cause}");
        source = cause.source();
    }
    (message, &[])
}

/// A failure in words.
pub(super) struct Report<'a> {
    code: &'static str,
    message: String,
    violations: &'a [Violation],
}

impl Report<'_> {
    /// One line for the failure and one for each broken rule, each with its end.
    pub(super) fn to_text(&self, is_coloured: bool) -> String {
        let style = AnsiColor::Red.on_default().bold();
        let title = if is_coloured {
            format!("{style}error:{style:#}")
        } else {
            "error:".to_owned()
        };
        let mut text = format!("{title} {}: {}\n", self.code, escape(&self.message));
        for violation in self.violations {
            // Memory can always be written to.
            let _ = writeln!(text, "  {}", escape(&violation.to_string()));
        }
        text
    }

    /// One line with a JSON object.
    pub(super) fn to_json(&self) -> String {
        let json = FailureJson {
            code: self.code,
            message: &self.message,
            errors: self.violations.iter().map(RuleJson::from).collect(),
        };
        // Strings and lists always serialise.
        serde_json::to_string(&json).unwrap_or_default() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;

    fn order_id() -> order_core::OrderId {
        "0198c5a0-5d5c-7abc-8def-0123456789ab"
            .parse()
            .expect("valid")
    }

    #[test]
    fn each_failure_has_its_exit_code() {
        let unavailable = || Error::ShuttingDown {
            retry_after: Duration::from_secs(1),
        };
        let broken_pipe = io::Error::from(io::ErrorKind::BrokenPipe);
        for (failure, code) in [
            (Failure::Service(Error::invalid("amount", "is bad")), 1),
            (Failure::Service(Error::IdempotencyKeyReused), 1),
            (Failure::Service(Error::Internal { source: None }), 1),
            (Failure::Usage(Error::invalid("amount", "is bad")), 2),
            (
                Failure::Service(Error::OrderNotFound {
                    order_id: order_id(),
                }),
                3,
            ),
            (Failure::Service(unavailable()), 4),
            (Failure::Service(Error::overloaded()), 4),
            (Failure::Service(Error::DeadlineExceeded), 4),
            (Failure::FailedLines(2), 5),
            (Failure::TooManyFailures, 1),
            (Failure::Interrupted, 130),
            (Failure::Output(broken_pipe), 0),
        ] {
            assert_eq!(failure.exit_status().code(), code, "{failure:?}");
        }
    }

    #[test]
    fn help_names_every_code() {
        let help = ExitStatus::help();
        assert_eq!(help.lines().count(), 1 + ExitStatus::TABLE.len());
        assert!(help.contains("\n    0  done\n"), "{help}");
        assert!(help.ends_with("\n  130  interrupted"), "{help}");
    }

    #[test]
    fn broken_rules_have_a_line_each() {
        let failure = Failure::Service(Error::InvalidArgument {
            violations: vec![
                Violation::new("amount", "must be greater than 0"),
                Violation::new("", "must be an object"),
            ],
        });
        let report = failure.report().expect("told");
        assert_eq!(
            report.to_text(false),
            "error: INVALID_ARGUMENT: The request is not valid\n  \
             amount: must be greater than 0\n  must be an object\n"
        );
        assert_eq!(
            report.to_json(),
            "{\"code\":\"INVALID_ARGUMENT\",\"message\":\"The request is not valid\",\"errors\":[\
             {\"pointer\":\"/amount\",\"detail\":\"must be greater than 0\"},\
             {\"pointer\":\"\",\"detail\":\"must be an object\"}]}\n"
        );
    }

    #[test]
    fn the_reason_for_silence_is_told() {
        let mut answer = tonic::Status::unavailable("in the words of the protocol");
        answer.set_source(Arc::new(io::Error::other("connection refused")));
        let failure = Failure::Service(Error::service_unavailable(answer));
        assert_eq!(
            failure.report().expect("told").to_text(false),
            "error: SERVICE_UNAVAILABLE: the order service is unavailable: connection refused\n"
        );
    }
}
