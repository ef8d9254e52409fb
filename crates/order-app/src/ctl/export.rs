//! Writing orders to a file that `import` reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::PathBuf,
};

use clap::Args;
use order_core::{Error, ExternalId, Money, Order};
use serde::{Serialize, Serializer, ser};
use serde_json::value::RawValue;

use super::{
    client::Client,
    csv,
    failure::Failure,
    import::FileFormat,
    list::{Filters, Pages},
    output::Output,
};

/// Arguments of `export`.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    /// Which orders.
    #[command(flatten)]
    pub filters: Filters,
    /// How the file is written; by the ending of its name, or else jsonl.
    #[arg(long)]
    pub format: Option<FileFormat>,
    /// Where to write instead of standard output; appears when it is complete.
    #[arg(short = 'o', long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// The most names of metadata that a table has room for.
const METADATA_COLUMNS_MAX: usize = 1_000;

pub(super) async fn export(
    client: &Client,
    args: ExportArgs,
    output: &mut Output,
) -> Result<(), Failure> {
    let by_name = args.file.as_deref().and_then(FileFormat::of_path);
    let format = args.format.or(by_name).unwrap_or(FileFormat::Jsonl);
    // The header comes before the first order, so the names have to be collected first.
    let names = match format {
        FileFormat::Jsonl => None,
        FileFormat::Csv => Some(metadata_names(client, args.filters.clone()).await?),
    };
    let mut file = args.file.map(PartialFile::create).transpose()?;
    let (mut n_written, mut n_left_out) = (0_u64, 0_u64);
    if let Some(names) = &names {
        write(output, file.as_mut(), |out| write_header(out, names))?;
    }
    let mut pages = Pages::new(args.filters, u64::MAX)?;
    while let Some(orders) = pages.next(client).await? {
        write(output, file.as_mut(), |out| {
            for order in &orders {
                match &names {
                    None => write_json(out, order)?,
                    Some(names) if !is_covered(order, names) => {
                        n_left_out += 1;
                        continue;
                    }
                    Some(names) => write_row(out, order, names)?,
                }
                n_written += 1;
            }
            Ok(())
        })?;
    }
    if let Some(file) = file {
        file.finish()?;
    }
    output.flush()?;
    output.note(format_args!("exported {n_written} orders"))?;
    if n_left_out > 0 {
        output.complain(format_args!(
            "left out {n_left_out} orders that came meanwhile and have metadata without a column"
        ))?;
    }
    Ok(())
}

/// Writes to the file, or to standard output if there is none.
fn write(
    output: &mut Output,
    file: Option<&mut PartialFile>,
    work: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Failure> {
    match file {
        Some(file) => work(&mut file.writer).map_err(|source| file.failure(source)),
        None => Ok(work(output.out())?),
    }
}

async fn metadata_names(client: &Client, filters: Filters) -> Result<BTreeSet<String>, Failure> {
    let mut names = BTreeSet::new();
    let mut pages = Pages::new(filters, u64::MAX)?;
    while let Some(orders) = pages.next(client).await? {
        for (name, _) in orders.iter().flat_map(|order| order.metadata.iter()) {
            if !names.contains(name) {
                names.insert(name.to_owned());
            }
        }
        if names.len() > METADATA_COLUMNS_MAX {
            let rule = "csv has no room for more than 1000 names of metadata; use jsonl";
            return Err(Failure::Usage(Error::invalid("format", rule)));
        }
    }
    Ok(names)
}

fn is_covered(order: &Order, names: &BTreeSet<String>) -> bool {
    order.metadata.iter().all(|(name, _)| names.contains(name))
}

fn write_header(out: &mut dyn Write, names: &BTreeSet<String>) -> io::Result<()> {
    let columns: Vec<String> = ["user_id", "amount", "currency", "external_id"]
        .into_iter()
        .map(str::to_owned)
        .chain(names.iter().map(|name| format!("metadata.{name}")))
        .collect();
    csv::write_row(out, columns.iter().map(|column| Some(column.as_str())))
}

fn write_row(out: &mut dyn Write, order: &Order, names: &BTreeSet<String>) -> io::Result<()> {
    let amount = order.money.to_string();
    let fixed = [
        Some(order.user_id.as_str()),
        Some(amount.as_str()),
        Some(order.money.currency()),
        order.external_id.as_ref().map(ExternalId::as_str),
    ];
    // Both are in the order of the names, so one walk finds the cells of this order.
    let mut entries = order.metadata.iter().peekable();
    let metadata = names.iter().map(|name| {
        entries
            .next_if(|(entry, _)| entry == name)
            .map(|(_, value)| value)
    });
    csv::write_row(out, fixed.into_iter().chain(metadata))
}

fn write_json(out: &mut dyn Write, order: &Order) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &ImportJson::from(order))?;
    out.write_all(b"\n")
}

/// A file that gets its name when it is complete: one that is cut short never looks whole.
struct PartialFile {
    writer: BufWriter<File>,
    path: PathBuf,
    /// Where it is written meanwhile; `None` for a pipe or a device, which is written as it
    /// is.
    partial: Option<PathBuf>,
}

impl PartialFile {
    fn create(path: PathBuf) -> Result<Self, Failure> {
        let is_special = fs::metadata(&path).is_ok_and(|found| !found.is_file());
        let partial = (!is_special).then(|| {
            let mut name = path.clone().into_os_string();
            name.push(".partial");
            PathBuf::from(name)
        });
        match File::create(partial.as_ref().unwrap_or(&path)) {
            Ok(file) => Ok(Self {
                writer: BufWriter::new(file),
                path,
                partial,
            }),
            Err(source) => Err(Failure::File { path, source }),
        }
    }

    fn finish(mut self) -> Result<(), Failure> {
        self.writer.flush().map_err(|source| self.failure(source))?;
        if let Some(partial) = &self.partial {
            fs::rename(partial, &self.path).map_err(|source| self.failure(source))?;
            self.partial = None;
        }
        Ok(())
    }

    fn failure(&self, source: io::Error) -> Failure {
        Failure::File {
            path: self.path.clone(),
            source,
        }
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial {
            // What cannot be removed is at least named for what it is.
            let _ = fs::remove_file(partial);
        }
    }
}

/// What of an order an import makes again: the line that `orderctl import` reads.
#[derive(Serialize)]
struct ImportJson<'a> {
    user_id: &'a str,
    #[serde(serialize_with = "as_number")]
    amount: Money,
    currency: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_id: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<&'a str, &'a str>,
}

impl<'a> From<&'a Order> for ImportJson<'a> {
    fn from(order: &'a Order) -> Self {
        Self {
            user_id: order.user_id.as_str(),
            amount: order.money,
            currency: order.money.currency(),
            external_id: order.external_id.as_ref().map(ExternalId::as_str),
            metadata: order.metadata.iter().collect(),
        }
    }
}

/// Writes the exact decimal number, not the nearest double.
fn as_number<S: Serializer>(money: &Money, serializer: S) -> Result<S::Ok, S::Error> {
    RawValue::from_string(money.to_string())
        .map_err(ser::Error::custom)?
        .serialize(serializer)
}
