//! Secrets from files, as orchestrators mount them: `DATABASE_URL_FILE` names a file with the value
//! of `DATABASE_URL`.

use std::{
    env,
    ffi::OsString,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use clap::{Arg, Command, Error, error::ErrorKind};

/// The longest secret, in bytes: no large file is read by mistake.
const LEN_MAX: usize = 64 * 1024;

const HELP: &str = "A setting whose value is not shown can be read from a file: append _FILE to \
                    the name of its variable.";

/// Whether a setting may hold a secret: its value is not shown by `--help`.
pub(super) fn is_secret(arg: &Arg) -> bool {
    arg.is_hide_env_values_set()
}

/// Adds the secrets in files to the arguments of the program. A flag has precedence over a file.
///
/// # Errors
/// A file that cannot be read or does not hold one line of text, and a secret that a variable sets
/// as well.
pub(super) fn add(
    command: &mut Command,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Vec<OsString>, Error> {
    let secrets = command.get_arguments().filter(|arg| is_secret(arg));
    let secrets: Vec<_> = secrets
        .filter_map(|arg| Some((arg.get_id().clone(), arg.get_env()?.to_str()?.to_owned())))
        .collect();
    if !secrets.is_empty() {
        *command = std::mem::take(command).after_help(HELP);
    }
    let mut arguments: Vec<_> = arguments.into_iter().collect();
    for (id, variable) in secrets {
        let file_variable = format!("{variable}_FILE");
        let Some(path) = value(&file_variable) else {
            continue;
        };
        if value(&variable).is_some() {
            let text = format!("{variable} and {file_variable} cannot both be set");
            return Err(command.error(ErrorKind::ArgumentConflict, text));
        }
        let secret = read(path.as_ref()).map_err(|error| {
            let text = format!(
                "{file_variable} cannot be used: {}: {error}",
                path.display()
            );
            command.error(ErrorKind::Io, text)
        })?;
        // Of a flag that is given twice the last counts, which is that of the command line.
        *command = std::mem::take(command).mut_arg(&id, |arg| arg.overrides_with(&id));
        let flag = variable.to_lowercase().replace('_', "-");
        arguments.insert(arguments.len().min(1), format!("--{flag}={secret}").into());
    }
    Ok(arguments)
}

/// The value of a variable that is set and not empty.
fn value(variable: &str) -> Option<OsString> {
    env::var_os(variable).filter(|value| !value.is_empty())
}

/// Reads a secret, without the line end that editors add.
fn read(path: &Path) -> io::Result<String> {
    let invalid = |rule| io::Error::new(io::ErrorKind::InvalidData, rule);
    let mut bytes = Vec::new();
    let limit = u64::try_from(LEN_MAX).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() > LEN_MAX {
        return Err(invalid("must be at most 64 KiB long"));
    }
    let text = String::from_utf8(bytes).unwrap_or_default();
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    if secret.is_empty() || secret.contains(char::is_control) {
        return Err(invalid("must hold one line of text"));
    }
    Ok(secret.to_owned())
}
