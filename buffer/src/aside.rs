//! What an uplink has set aside, because the other side refuses it.
//!
//! Such numbers are not offered and stay queued: their chunk is not settled, and goes with its epoch when
//! the limits need the room. They survive restarts in the state file.

use std::sync::Arc;

use millrace_tags::{LogKind, StreamId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::log::LineKey;
use crate::ranges::Ranges;
use crate::uplink::Lost;

/// What one uplink may set aside; beyond, the oldest is given up and counted. So many refusals have one
/// cause that is better removed than listed.
pub const SET_ASIDE_MAX: usize = 64;

/// A refused message: its numbers were set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// Its name for [`crate::Buffer::retry`] and [`crate::Buffer::discard`], never given twice.
    pub id: u64,
    /// Who refuses it.
    pub uplink: Arc<str>,
    /// The device or model.
    pub source: Arc<str>,
    /// Samples or events.
    pub log: LogKind,
    /// The stream of the numbers.
    pub stream: StreamId,
    /// The first number.
    pub first_seq: u64,
    /// The last number.
    pub last_seq: u64,
    /// How many records it holds.
    pub records: u64,
    /// Why it was refused, a sentence.
    pub reason: String,
    /// How often it was tried; 0: it was withheld untried, see [`crate::Outbox::withhold`].
    pub tries: u32,
    /// Since when, where the clock was set.
    pub since: Option<Timestamp>,
}

/// Numbers that are set aside together.
#[derive(Debug, Clone)]
pub(crate) struct Aside {
    pub(crate) id: u64,
    pub(crate) log: LogKind,
    pub(crate) line: LineKey,
    pub(crate) numbers: Ranges,
    pub(crate) reason: String,
    pub(crate) tries: u32,
    pub(crate) since: Option<Timestamp>,
}

impl Aside {
    pub(crate) fn is_withheld(&self) -> bool {
        self.tries == 0
    }
}

/// All that one uplink has set aside, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Asides(Vec<Aside>);

impl Asides {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Aside> {
        self.0.iter()
    }

    pub(crate) fn push(&mut self, aside: Aside) {
        self.0.push(aside);
    }

    /// The oldest, where there are too many. What is withheld does not count: it is one for each line.
    pub(crate) fn surplus(&mut self) -> Option<Aside> {
        let refused = self.0.iter().filter(|aside| !aside.is_withheld());
        if refused.count() <= SET_ASIDE_MAX {
            return None;
        }
        let oldest = self.0.iter().position(|aside| !aside.is_withheld())?;
        Some(self.0.remove(oldest))
    }

    /// What is withheld of a line.
    pub(crate) fn withheld(&mut self, log: LogKind, line: LineKey) -> Option<&mut Aside> {
        let mut all = self.0.iter_mut();
        all.find(|aside| aside.is_withheld() && aside.log == log && aside.line == line)
    }

    /// Takes out what a line had refused in several tries.
    pub(crate) fn take_tried(&mut self, log: LogKind, line: LineKey) -> Vec<Aside> {
        let tried = |aside: &mut Aside| aside.tries > 1 && aside.log == log && aside.line == line;
        self.0.extract_if(.., tried).collect()
    }

    /// Takes out the one of this id.
    pub(crate) fn take(&mut self, id: u64) -> Option<Aside> {
        let at = self.0.iter().position(|aside| aside.id == id)?;
        Some(self.0.remove(at))
    }

    /// Forgets numbers that are gone.
    pub(crate) fn forget(&mut self, kind: LogKind, gone: &[Lost]) {
        for aside in self.0.iter_mut().filter(|aside| aside.log == kind) {
            for &(line, first, last, _) in gone {
                if line == aside.line {
                    aside.numbers.remove(first, last);
                }
            }
        }
        self.0.retain(|aside| !aside.numbers.is_empty());
    }
}
