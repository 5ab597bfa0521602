//! Stored samples for a command that computes with them: every bit, and the moments they were taken at.

use std::io::{self, Write};

use millrace_tags::LogKind;

use super::super::Global;
use super::{note_outcome, store};
use crate::stored::{ExactSample, Format, Request};

/// Hands over the stored samples of one source, between two times in Unix nanoseconds. They come in the order in which they
/// were committed.
///
/// # Errors
/// Where the store cannot be read, and what `each` says.
pub(in crate::cli) fn samples(
    global: &Global,
    source: &str,
    (from, to): (Option<i64>, Option<i64>),
    each: impl FnMut(ExactSample) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let request = Request {
        log: LogKind::Data,
        format: Format::Exact,
        source: Some(source.to_owned()),
        tag: None,
        from,
        to,
        count: None,
        newest: false,
    };
    let mut lines = Lines {
        rest: Vec::new(),
        each,
        failed: None,
    };
    let read = store::records(global, &request, &mut lines, |_| {});
    if let Some(failed) = lines.failed {
        return Err(failed);
    }
    note_outcome(read?);
    Ok(())
}

/// Takes bytes as they come and hands over whole lines.
struct Lines<F> {
    rest: Vec<u8>,
    each: F,
    /// What stopped it: an error of I/O has no room for it.
    failed: Option<anyhow::Error>,
}

impl<F: FnMut(ExactSample) -> anyhow::Result<()>> Lines<F> {
    fn line(&mut self, line: &[u8]) -> anyhow::Result<()> {
        if line.is_empty() {
            return Ok(());
        }
        (self.each)(serde_json::from_slice(line)?)
    }
}

impl<F: FnMut(ExactSample) -> anyhow::Result<()>> Write for Lines<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.rest.extend_from_slice(bytes);
        let rest = std::mem::take(&mut self.rest);
        let mut pieces = rest.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            if pieces.peek().is_none() {
                self.rest = piece.to_vec();
            } else if let Err(error) = self.line(piece) {
                self.failed = Some(error);
                return Err(io::Error::other("the reader has had enough"));
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
