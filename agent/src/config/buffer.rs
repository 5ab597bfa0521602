//! `[buffer]`: how much the store-and-forward buffer keeps, and how safely.

use std::time::Duration;

use millrace_buffer::WhenFull;

use super::complaint::Complaint;
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
            "How long delivered data stay, so that the core can ask for them again (`replay`). They take at \
             most a quarter of max_bytes and go first when room is needed. A restart counts anew.",
        )
        .default("24h"),
        KeyDoc::new(
            "when_full",
            Kind::Choice(&["drop-oldest", "drop-newest", "block"]),
            "What gives way when there is no room for more samples: the oldest, the newest, or sources that \
             can wait (`block`: subscribed OPC UA devices are not read meanwhile, what others read is \
             refused). All that is lost is counted and announced.",
        )
        .default("drop-oldest"),
        KeyDoc::new(
            "reserve",
            Kind::Size {
                min: 0,
                max: 1 << 44,
            },
            "How much of the file system the buffer leaves free, whoever fills it; never more than a quarter of it.",
        )
        .default("256MiB"),
        KeyDoc::new(
            "alarm_max_bytes",
            Kind::Size {
                min: 2 << 20,
                max: 1 << 43,
            },
            "The part of max_bytes that events may take; they have a log of their own.",
        )
        .means("an eighth of max_bytes"),
        KeyDoc::new(
            "alarm_when_full",
            Kind::Choice(&["drop-oldest", "drop-newest"]),
            "What gives way when there is no room for more events; no source can wait with one.",
        )
        .default("drop-oldest"),
    ],
};

/// How much the buffer keeps, how safely, and what gives way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Buffer {
    /// From one commit to the next.
    pub(crate) commit_interval: Duration,
    /// Most bytes on disk.
    pub(crate) max_bytes: u64,
    /// The longest that data wait for an uplink.
    pub(crate) max_age: Duration,
    /// How long delivered data stay.
    pub(crate) keep: Duration,
    /// What gives way in the data log.
    pub(crate) when_full: WhenFull,
    /// Bytes of the file system that stay free.
    pub(crate) reserve: u64,
    /// The alarm log's part of `max_bytes`.
    pub(crate) alarm_max_bytes: Option<u64>,
    /// What gives way in the alarm log.
    pub(crate) alarm_when_full: WhenFull,
}

impl Buffer {
    /// Reads the table.
    pub(crate) fn read(section: &Section<'_>) -> Option<Self> {
        section.finish(None);
        let commit_interval = section.duration("commit_interval");
        let max_bytes = section.size("max_bytes");
        let max_age = section.duration("max_age");
        let keep = section.duration("keep");
        let when_full = read_when_full(section, "when_full");
        let reserve = section.size("reserve");
        let alarm_max_bytes = section.size("alarm_max_bytes");
        let alarm_when_full = read_when_full(section, "alarm_when_full");
        if let (Some(alarm), Some(max)) = (alarm_max_bytes, max_bytes)
            && alarm > max / 2
        {
            let complaint = Complaint::new("at most half of max_bytes is expected");
            section.complain("alarm_max_bytes", complaint);
            return None;
        }
        Some(Self {
            commit_interval: commit_interval?,
            max_bytes: max_bytes?,
            max_age: max_age?,
            keep: keep?,
            when_full: when_full?,
            reserve: reserve?,
            alarm_max_bytes,
            alarm_when_full: alarm_when_full?,
        })
    }
}

fn read_when_full(section: &Section<'_>, key: &str) -> Option<WhenFull> {
    Some(match section.choice(key)? {
        "drop-newest" => WhenFull::DropNewest,
        "block" => WhenFull::Block,
        _ => WhenFull::DropOldest,
    })
}
