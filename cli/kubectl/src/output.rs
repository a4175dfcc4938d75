//! Writes results to stdout: text as it is, and values as JSON or YAML.

use std::io::Write;

use serde::Serialize;

use crate::outcome::Failure;
use crate::text::Line;

/// A value as indented JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value);
    let text = text.map_err(|error| Failure::unknown(format!("cannot write JSON: {error}")))?;
    Ok(text + "\n")
}

/// A value as one line of JSON.
pub(crate) fn json_line<T: Serialize>(value: &T) -> Result<Line, Failure> {
    let text = serde_json::to_string(value);
    let text = text.map_err(|error| Failure::unknown(format!("cannot write JSON: {error}")))?;
    Ok(Line::default().plain(text))
}

/// A value as YAML.
pub(crate) fn yaml<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_saphyr::to_string(value)
        .map_err(|error| Failure::unknown(format!("cannot write YAML: {error}")))
}

/// Writes to stdout. A reader that has gone (`| head`) is no failure.
pub(crate) fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::unknown(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Whether the reader of stdout has gone, after writing this text.
pub(crate) fn is_gone(text: &str) -> bool {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .is_err()
}
