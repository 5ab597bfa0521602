//! An endless answer: one JSON object a line.

use http_body_util::BodyExt;
use hyper::body::{Buf, Incoming};
use serde::de::DeserializeOwned;

use super::unreadable;
use crate::cli::Failure;

/// One line of a stream: a tag, an event, a frame.
const LINE_BYTES_MAX: usize = 4 << 20;

/// The lines of an answer.
pub(crate) struct Lines {
    body: Incoming,
    /// What has come and was not taken; lines end before `taken`.
    pending: Vec<u8>,
    taken: usize,
}

impl Lines {
    pub(super) fn new(body: Incoming) -> Self {
        Self {
            body,
            pending: Vec::new(),
            taken: 0,
        }
    }

    /// The next object; `None` where the agent has ended the answer.
    ///
    /// # Errors
    /// The agent stopped, or speaks another version.
    ///
    /// # Cancel safety
    /// What has come is kept for the next call.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> anyhow::Result<Option<T>> {
        loop {
            let mut rest = self.pending[self.taken..].iter();
            if let Some(bytes) = rest.position(|byte| *byte == b'\n') {
                let line = self.taken..self.taken + bytes;
                self.taken = line.end + 1;
                if line.is_empty() {
                    continue;
                }
                let object = serde_json::from_slice(&self.pending[line]);
                return Ok(Some(object.map_err(unreadable)?));
            }
            self.pending.drain(..self.taken);
            self.taken = 0;
            if self.pending.len() > LINE_BYTES_MAX {
                return Err(Failure::new("the agent sent a line without an end").into());
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| {
                Failure::new("the agent stopped while we were following").because(error)
            })?;
            if let Some(data) = frame.data_ref() {
                self.pending.extend_from_slice(data.chunk());
            }
        }
    }
}
