//! Dead letters: what there are, and a new round of attempts for many of them.

use clap::Args;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use order_core::{DeadLetterFilter, DeadLetterGroup, Redrive, RedriveEnd, RedriveProgress, UserId};
use serde::Serialize;

use super::{client::Client, failure::Failure, output::Output};

/// Arguments of `admin redrive`.
#[derive(Clone, Debug, Args)]
pub struct RedriveArgs {
    /// Only orders that failed with this code.
    #[arg(long)]
    pub code: Option<String>,
    /// Only orders of this user.
    #[arg(long)]
    pub user: Option<String>,
    /// Only orders created after this time, like 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub created_after: Option<Timestamp>,
    /// Only orders created before this time.
    #[arg(long, value_name = "TIME")]
    pub created_before: Option<Timestamp>,
    /// How many orders at most, the newest first.
    #[arg(
        long,
        default_value_t = Redrive::LIMIT_DEFAULT,
        value_parser = clap::value_parser!(u32).range(1..=Redrive::LIMIT_MAX as i64)
    )]
    pub limit: u32,
    /// How many orders a second.
    #[arg(
        long,
        default_value_t = Redrive::RATE_DEFAULT,
        value_parser = clap::value_parser!(u32).range(1..=Redrive::RATE_MAX as i64)
    )]
    pub rate: u32,
    /// Stop when more than this share of the orders that have ended have failed again.
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = Redrive::FAILED_PERCENT_DEFAULT,
        value_parser = clap::value_parser!(u32).range(0..=100)
    )]
    pub stop_above: u32,
    /// Only count the orders.
    #[arg(long)]
    pub dry_run: bool,
}

impl RedriveArgs {
    fn into_request(self) -> Result<Redrive, Failure> {
        let user_id = self.user.as_deref().map(UserId::parse).transpose();
        Ok(Redrive {
            filter: DeadLetterFilter {
                code: self.code,
                user_id: user_id.map_err(Failure::Usage)?,
                created_after: self.created_after,
                created_before: self.created_before,
            },
            limit: self.limit,
            rate: self.rate,
            failed_percent_max: self.stop_above,
            is_dry_run: self.dry_run,
        })
    }
}

/// A group as JSON.
#[derive(Serialize)]
struct GroupJson<'a> {
    code: &'a str,
    count: u32,
    example_order_id: String,
}

/// Prints the groups of dead letters.
pub(super) async fn dead_letters(client: &Client, output: &mut Output) -> Result<(), Failure> {
    let groups = client.admin.dead_letters(&client.context()).await?;
    for DeadLetterGroup {
        code,
        count,
        example,
    } in &groups
    {
        let group = GroupJson {
            code,
            count: *count,
            example_order_id: example.to_string(),
        };
        let row = format_args!("{count:>7}  {code:<40}  {example}");
        let header = format_args!("{:>7}  {:<40}  EXAMPLE", "COUNT", "CODE");
        output.row(&group, header, row)?;
    }
    Ok(())
}

/// The outcome of a redrive as JSON.
#[derive(Serialize)]
struct ProgressJson {
    matched: u32,
    redriven: u32,
    skipped: u32,
    processed: u32,
    failed: u32,
    end: Option<&'static str>,
}

/// Redrives orders and shows the progress.
pub(super) async fn redrive(
    client: &Client,
    args: RedriveArgs,
    output: &mut Output,
) -> Result<(), Failure> {
    let is_dry_run = args.dry_run;
    let request = args.into_request()?;
    let mut steps = client.admin.redrive(&client.context(), request).await?;
    let mut last = RedriveProgress::default();
    output.begin_progress(None);
    while let Some(step) = steps.next().await {
        last = step?;
        output.progress(0, text_of(&last, is_dry_run));
    }
    output.end_progress();
    let end = match last.end {
        Some(RedriveEnd::Done) => Some("done"),
        Some(RedriveEnd::TooManyFailures) => Some("too_many_failures"),
        None => None,
    };
    let outcome = ProgressJson {
        matched: last.matched,
        redriven: last.redriven,
        skipped: last.skipped,
        processed: last.processed,
        failed: last.failed,
        end,
    };
    output.line(&outcome, format_args!("{}", text_of(&last, is_dry_run)))?;
    if last.end == Some(RedriveEnd::TooManyFailures) {
        return Err(Failure::TooManyFailures);
    }
    Ok(())
}

fn text_of(progress: &RedriveProgress, is_dry_run: bool) -> String {
    let RedriveProgress {
        matched,
        redriven,
        skipped,
        processed,
        failed,
        ..
    } = progress;
    if is_dry_run {
        return format!("{matched} orders would be redriven");
    }
    format!(
        "redriven {redriven} of {matched}, skipped {skipped}, processed {processed}, \
         failed again {failed}"
    )
}
