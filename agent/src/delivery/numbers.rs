//! Records by their numbers: what went together in a message, and what of it is looked at.

use std::sync::Arc;

use millrace_tags::{LogKind, Parcel, StreamId};

/// A source in one of the logs.
pub(super) type Line = (LogKind, Arc<str>);

/// Consecutive numbers of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Numbers {
    log: LogKind,
    stream: StreamId,
    source: Arc<str>,
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Numbers {
    pub(super) fn of(parcel: &Parcel) -> Self {
        Self {
            log: parcel.log,
            stream: parcel.stream,
            source: parcel.source.clone(),
            first: parcel.first_seq,
            last: (parcel.first_seq + parcel.records.len() as u64).saturating_sub(1),
        }
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn log(&self) -> LogKind {
        self.log
    }

    /// Their source in its log.
    pub(super) fn line(&self) -> Line {
        (self.log, self.source.clone())
    }

    /// One of them.
    pub(super) fn only(&self, number: u64) -> Self {
        self.with(number, number)
    }

    pub(super) fn is_single(&self) -> bool {
        self.first == self.last
    }

    pub(super) fn count(&self) -> u64 {
        self.last - self.first + 1
    }

    pub(super) fn with(&self, first: u64, last: u64) -> Self {
        Self {
            first,
            last,
            ..self.clone()
        }
    }

    pub(super) fn meets(&self, other: &Numbers) -> bool {
        self.log == other.log
            && self.stream == other.stream
            && self.source == other.source
            && self.first <= other.last
            && self.last >= other.first
    }
    /// What of them is not among `others`, of the same line.
    pub(super) fn without(&self, others: &Numbers) -> Vec<Self> {
        if !self.meets(others) {
            return vec![self.clone()];
        }
        let mut rest = Vec::new();
        if self.first < others.first {
            rest.push(self.with(self.first, others.first - 1));
        }
        if self.last > others.last {
            rest.push(self.with(others.last + 1, self.last));
        }
        rest
    }
}
