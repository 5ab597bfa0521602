//! What is kept in memory of a sealed epoch.

use millrace_tags::{BootId, Moment, Timebase, Timestamp};

use crate::boots::Boots;
use crate::manifest::Summary;

/// An epoch that is complete.
#[derive(Debug, Clone)]
pub(crate) struct Sealed {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
    pub(crate) newest: Option<Timestamp>,
    /// What was stored before a clock was set that has never become known.
    pub(crate) undated: Vec<(BootId, Moment)>,
    /// When its newest record was written, if this process did it: no step of the wall clock touches that.
    pub(crate) written: Option<Moment>,
    /// How many numbers it holds; none in an epoch that only says where the lines stand.
    pub(crate) numbers: u64,
    /// Since when every uplink has settled it, as far as this process knows.
    pub(crate) settled_since: Option<Moment>,
    pub(crate) records: u64,
    /// It was made of other epochs, or must not be: it is left as it is.
    pub(crate) merged: bool,
}

impl Sealed {
    /// What is kept in memory of an epoch.
    pub(crate) fn of(summary: &Summary, bytes: u64) -> Self {
        Self {
            first: summary.first,
            last: summary.last,
            chunks: summary.chunks,
            bytes,
            newest: summary.newest,
            undated: summary.undated(),
            written: None,
            numbers: summary.numbers(),
            settled_since: None,
            records: summary.records(),
            merged: summary.merged,
        }
    }

    /// Brings in what has become known of its boots.
    pub(super) fn date(&mut self, boots: &Boots) {
        let newest = &mut self.newest;
        self.undated.retain(|&(boot, moment)| {
            let unset = Timebase {
                boot,
                offset_ns: None,
            };
            let time = boots.complete(unset).utc(moment);
            *newest = (*newest).max(time);
            time.is_none()
        });
    }
}
