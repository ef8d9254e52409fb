//! What the user sees: data on standard output, all else on standard error.
//!
//! The only part that knows tables, colours and the progress bar. It prints what it is
//! given and asks nobody.

use std::{
    fmt,
    io::{self, BufWriter, IsTerminal as _, Write},
};

use clap::{
    ValueEnum,
    builder::styling::{AnsiColor, Style},
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use order_core::{Order, OrderEvent, OrderStatus};
use order_web::json::{EventBody, OrderBody};
use serde::Serialize;

use super::failure::Failure;
use crate::telemetry::escape;

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Columns for people.
    Table,
    /// One JSON document; one per line where there may be several.
    Json,
}

/// Where the program writes.
pub struct Console {
    /// Standard output.
    pub out: Box<dyn Write + Send>,
    /// Standard error.
    pub err: Box<dyn Write + Send>,
    /// Which of them may have colours.
    pub colours: Colours,
    /// Whether a progress bar may be drawn, on standard error.
    pub has_progress: bool,
    /// Whether the whole terminal may be drawn on, and its keys read.
    pub has_screen: bool,
}

/// Where colours are welcome.
#[derive(Clone, Copy, Debug, Default)]
pub struct Colours {
    /// On standard output.
    pub out: bool,
    /// On standard error.
    pub err: bool,
}

impl Console {
    /// The console of the process. Colours and the progress bar are for terminals, and
    /// colours only where `NO_COLOR` is not set.
    pub fn standard() -> Self {
        let may_colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let is_terminal = io::stderr().is_terminal();
        Self {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            colours: Colours {
                out: may_colour && io::stdout().is_terminal(),
                err: may_colour && is_terminal,
            },
            has_progress: is_terminal,
            has_screen: io::stdout().is_terminal() && io::stdin().is_terminal(),
        }
    }
}

/// Prints for one run of the program.
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
pub(super) struct Output {
    out: BufWriter<Box<dyn Write + Send>>,
    err: Box<dyn Write + Send>,
    colours: Colours,
    has_progress: bool,
    has_screen: bool,
    format: OutputFormat,
    is_quiet: bool,
    /// Whether the header of the table is printed.
    has_header: bool,
    bar: ProgressBar,
}

impl Output {
    pub(super) fn new(console: Console, format: OutputFormat, is_quiet: bool) -> Self {
        Self {
            out: BufWriter::new(console.out),
            err: console.err,
            colours: console.colours,
            has_progress: console.has_progress && !is_quiet,
            has_screen: console.has_screen,
            format,
            is_quiet,
            has_header: false,
            bar: ProgressBar::hidden(),
        }
    }

    /// How data is printed.
    pub(super) const fn format(&self) -> OutputFormat {
        self.format
    }

    /// Whether the whole terminal may be drawn on, and its keys read.
    pub(super) const fn has_screen(&self) -> bool {
        self.has_screen
    }

    /// Standard output, for text that has its own form.
    pub(super) fn out(&mut self) -> &mut impl Write {
        &mut self.out
    }

    /// Brings to the reader what was printed so far.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Prints one order with all its fields.
    pub(super) fn order(&mut self, order: &Order) -> io::Result<()> {
        if self.format == OutputFormat::Json {
            return self.json(&OrderBody::from(order));
        }
        let status = self.status(order.status, 0);
        let mut row = |name: &str, value: &dyn fmt::Display| -> io::Result<()> {
            let text = value.to_string();
            // The colours of the status are no text of others.
            let text = if name == "status" {
                text.into()
            } else {
                escape(&text)
            };
            writeln!(self.out, "{name:<11}  {text}")
        };
        row("order_id", &order.id)?;
        row("user_id", &order.user_id)?;
        let amount = format_args!("{} {}", order.money, order.money.currency()).to_string();
        row("amount", &amount)?;
        row("status", &status)?;
        row("version", &order.version)?;
        for (name, value) in order.metadata.iter() {
            row("metadata", &format_args!("{name}={value}"))?;
        }
        if let Some(external_id) = &order.external_id {
            row("external_id", external_id)?;
        }
        if let Some(failure) = &order.failure {
            row(
                "failure",
                &format_args!("{}: {}", failure.code, failure.message),
            )?;
        }
        row("created_at", &format_args!("{:.6}", order.created_at))?;
        row("updated_at", &format_args!("{:.6}", order.updated_at))
    }

    /// Prints one of several orders.
    pub(super) fn order_row(&mut self, order: &Order) -> io::Result<()> {
        if self.format == OutputFormat::Json {
            return self.json(&OrderBody::from(order));
        }
        self.header(format_args!(
            "{:<36}  {:<10}  {:>7}  {:<20}  {:>20}  USER_ID",
            "ORDER_ID", "STATUS", "VERSION", "CREATED_AT", "AMOUNT"
        ))?;
        let status = self.status(order.status, 10);
        let amount = format!("{} {}", order.money, order.money.currency());
        writeln!(
            self.out,
            "{}  {status}  {:>7}  {:.0}  {amount:>20}  {}",
            order.id,
            order.version,
            order.created_at,
            escape(order.user_id.as_str())
        )
    }

    /// Prints one of several events.
    pub(super) fn event(&mut self, event: &OrderEvent) -> io::Result<()> {
        if self.format == OutputFormat::Json {
            return self.json(&EventBody::from(event));
        }
        self.header(format_args!(
            "{:<36}  {:>7}  {:<10}  {:<24}  CAUSE",
            "ORDER_ID", "VERSION", "STATUS", "AT"
        ))?;
        let status = self.status(event.status, 10);
        let (id, version, at) = (event.order_id, event.version, event.at);
        write!(self.out, "{id}  {version:>7}  {status}  {at:.3}")?;
        if let Some(cause) = &event.cause {
            let cause = format!("{}: {}", cause.code, cause.message);
            write!(self.out, "  {}", escape(&cause))?;
        }
        writeln!(self.out)
    }

    /// Prints one of several values: as JSON, or as a row under a header.
    pub(super) fn row(
        &mut self,
        value: &impl Serialize,
        header: fmt::Arguments<'_>,
        row: fmt::Arguments<'_>,
    ) -> io::Result<()> {
        if self.format == OutputFormat::Json {
            return self.json(value);
        }
        self.header(header)?;
        writeln!(self.out, "{}", escape(&row.to_string()))
    }

    /// Prints one value: as JSON, or as a line.
    pub(super) fn line(
        &mut self,
        value: &impl Serialize,
        line: fmt::Arguments<'_>,
    ) -> io::Result<()> {
        if self.format == OutputFormat::Json {
            return self.json(value);
        }
        writeln!(self.out, "{}", escape(&line.to_string()))
    }

    /// Prints a line of text of its own form.
    pub(super) fn text(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        writeln!(self.out, "{}", escape(&text.to_string()))
    }

    /// Prints an empty line.
    pub(super) fn blank(&mut self) -> io::Result<()> {
        writeln!(self.out)
    }

    /// Prints how many of what there are, for people.
    pub(super) fn summary(&mut self, counts: &[(&str, u64)]) -> io::Result<()> {
        let counts: Vec<String> = counts
            .iter()
            .map(|(what, count)| format!("{what} {count}"))
            .collect();
        writeln!(self.out, "{}", counts.join(", "))
    }

    /// Prints a JSON document in one line.
    pub(super) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let json = serde_json::to_string(value)?;
        writeln!(self.out, "{}", escape(&json))
    }

    /// Tells something that is not an error, unless the user wants quiet.
    pub(super) fn note(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        if self.is_quiet {
            return Ok(());
        }
        self.complain(text)
    }

    /// Tells something that went wrong while the command goes on.
    pub(super) fn complain(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        let (err, text) = (&mut self.err, text.to_string());
        self.bar.suspend(|| writeln!(err, "{}", escape(&text)))
    }

    /// Tells why the command failed, if there is anything to tell.
    pub(super) fn failure(&mut self, failure: &Failure) -> io::Result<()> {
        let Some(report) = failure.report() else {
            return Ok(());
        };
        let text = report.to_text(self.colours.err);
        self.err.write_all(text.as_bytes())?;
        if self.format == OutputFormat::Json {
            self.err.write_all(report.to_json().as_bytes())?;
        }
        self.err.flush()
    }

    /// Begins a progress bar over `bytes`, or a counter if there is no telling how many.
    pub(super) fn begin_progress(&mut self, bytes: Option<u64>) {
        if !self.has_progress {
            return;
        }
        let template = match bytes {
            Some(_) => "{bar:32} {percent:>3}%  {msg}  ETA {eta}",
            None => "{spinner} {msg}",
        };
        let target = ProgressDrawTarget::stderr();
        self.bar = ProgressBar::with_draw_target(bytes, target);
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
    }

    /// Moves the progress bar.
    pub(super) fn progress(&self, bytes: u64, message: String) {
        self.bar.set_position(bytes);
        self.bar.set_message(message);
    }

    /// Removes the progress bar.
    pub(super) fn end_progress(&self) {
        self.bar.finish_and_clear();
    }

    fn header(&mut self, header: fmt::Arguments<'_>) -> io::Result<()> {
        if !self.has_header {
            self.has_header = true;
            writeln!(self.out, "{header}")?;
        }
        Ok(())
    }

    /// A status, filled up to `width`, in its colour.
    fn status(&self, status: OrderStatus, width: usize) -> String {
        let text = format!("{:<width$}", status.as_str());
        if !self.colours.out {
            return text;
        }
        let style: Style = match status {
            OrderStatus::Pending => return text,
            OrderStatus::Processing => AnsiColor::Cyan.on_default(),
            OrderStatus::Processed => AnsiColor::Green.on_default(),
            OrderStatus::Failed => AnsiColor::Red.on_default(),
            OrderStatus::Cancelled => AnsiColor::Yellow.on_default(),
        };
        format!("{style}{text}{style:#}")
    }
}
