//! Printing data to stdout, where the reader may go away at any time.

use std::io::Write;

use serde::Serialize;

/// Prints the text as it is.
///
/// # Errors
/// Where stdout is closed; [`super::failure::report`] takes a closed pipe for a satisfied reader.
pub(crate) fn text(text: &str) -> std::io::Result<()> {
    bytes(text.as_bytes())
}

/// Prints the bytes as they are.
pub(crate) fn bytes(bytes: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Prints one JSON document, indented.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut document = serde_json::to_string_pretty(value)?;
    document.push('\n');
    Ok(text(&document)?)
}

/// Prints one JSON document on one line, for streams.
pub(crate) fn json_line(value: &impl Serialize) -> anyhow::Result<()> {
    let mut document = serde_json::to_string(value)?;
    document.push('\n');
    Ok(text(&document)?)
}
