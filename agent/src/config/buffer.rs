//! `[buffer]`: how much the store-and-forward buffer keeps, and how safely.

use std::time::Duration;

use super::keys::{KeyDoc, Kind, SectionDoc};
use super::section::Section;

/// The table of keys.
pub(crate) const BUFFER: SectionDoc = SectionDoc {
    heading: "[buffer]",
    keys: &[
        KeyDoc::new(
            "commit_interval",
            Kind::Duration {
                min: Duration::from_millis(10),
                max: Duration::from_secs(60),
            },
            "How often samples are made safe on disk: the most that a power cut can take. Shorter \
             intervals wear flash memory more.",
        )
        .default("1s"),
        KeyDoc::new(
            "max_bytes",
            Kind::Size {
                min: 16 << 20,
                max: 1 << 44,
            },
            "The most that the buffer takes on disk. Over it, the oldest data go, are counted and are \
             announced to the uplink.",
        )
        .default("4GiB"),
        KeyDoc::new(
            "max_age",
            Kind::Duration {
                min: Duration::from_secs(60),
                max: Duration::from_secs(3650 * 86_400),
            },
            "The longest that data wait for an uplink.",
        )
        .default("30d"),
        KeyDoc::new(
            "keep",
            Kind::Duration {
                min: Duration::ZERO,
                max: Duration::from_secs(3650 * 86_400),
            },
            "How long delivered data stay, so that the core can ask for them again. Without effect in this \
             version: delivered data may go at once.",
        )
        .default("24h"),
        KeyDoc::new(
            "when_full",
            Kind::Choice {
                now: &["drop-oldest"],
                later: &["drop-newest", "block"],
            },
            "What gives way when max_bytes is reached.",
        )
        .default("drop-oldest"),
    ],
};

/// How much the buffer keeps, and how safely. When it is full, the oldest data go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Buffer {
    /// From one commit to the next.
    pub(crate) commit_interval: Duration,
    /// Most bytes on disk.
    pub(crate) max_bytes: u64,
    /// The longest that data wait for an uplink.
    pub(crate) max_age: Duration,
}

impl Buffer {
    /// Reads the table.
    pub(crate) fn read(section: &Section<'_>) -> Option<Self> {
        section.finish(None);
        // `drop-oldest` is all that this version does: reading it refuses the rest.
        section.choice("when_full");
        let commit_interval = section.duration("commit_interval");
        let max_bytes = section.size("max_bytes");
        let max_age = section.duration("max_age");
        let keep = section.duration("keep");
        if section.has("keep") {
            let message = "keep has no effect in this version yet: delivered data may go at once";
            section.note("keep", message.to_owned(), None);
        }
        keep?;
        Some(Self {
            commit_interval: commit_interval?,
            max_bytes: max_bytes?,
            max_age: max_age?,
        })
    }
}
