//! What the gateway tells of its store.

use std::collections::BTreeMap;

use millrace_buffer::{Ledger, WhenFull};
use millrace_tags::DropReason;

use super::Gateway;
use crate::report::{BufferStatus, Damage, Lanes, LogStatus, Refused};

impl Gateway {
    /// The store.
    pub(crate) fn buffer_report(&self) -> BufferStatus {
        let status = self.buffer.status();
        let queued = status
            .uplinks
            .iter()
            .map(|(name, queued)| (name.clone(), queued.alarm + queued.live + queued.backlog));
        let lanes = status.uplinks.iter().map(|(name, queued)| {
            let lanes = Lanes {
                alarm: queued.alarm,
                live: queued.live,
                backlog: queued.backlog,
            };
            (name.clone(), lanes)
        });
        let config = &self.config.buffer;
        let logs = [
            ("data", &status.data, config.when_full),
            ("alarm", &status.alarm, config.alarm_when_full),
        ];
        let recovery = self.buffer.recovery();
        let damage = Damage {
            epochs: recovery.damaged_epochs + recovery.quarantined_epochs,
            numbers: recovery.damaged,
        };
        let mut refused: BTreeMap<String, Refused> = BTreeMap::new();
        for row in self.buffer.set_aside() {
            let of_uplink = refused.entry(row.uplink.to_string()).or_default();
            of_uplink.messages += 1;
            of_uplink.records += row.records;
        }
        BufferStatus {
            lanes: lanes.collect(),
            poison: poison(&self.buffer.ledger()),
            logs: logs
                .map(|(name, log, when_full)| (name.to_owned(), log_status(log, when_full)))
                .into(),
            runway_s: status.runway.map(|left| left.as_secs()),
            free_bytes: status.free_bytes,
            reserve_bytes: status.reserve_bytes,
            uncommitted: status.uncommitted,
            dir: match &self.stand_in {
                Some(stand_in) => stand_in.dir.display().to_string(),
                None => self.config.buffer_dir().display().to_string(),
            },
            bytes: status.bytes,
            max_bytes: status.max_bytes,
            epochs: status.alarm.epochs + status.data.epochs,
            queued: queued.collect(),
            commit_age_s: status.last_commit_age.map(|age| age.as_secs_f64()),
            commit_error: match &self.stand_in {
                Some(stand_in) => Some(stand_in.why.clone()),
                None => status.last_error,
            },
            held_back: status.held_back,
            refused,
            damage: (damage.epochs + damage.numbers > 0).then_some(damage),
            unread: status.unread,
            recovery: recovery.notes.clone(),
            set_aside: self.set_aside(),
        }
    }

    /// What is on the disk that this program cannot read.
    fn set_aside(&self) -> Vec<String> {
        let mut set_aside = crate::supervisor::store::set_aside(&self.config.buffer_dir());
        let newer = self.buffer.recovery().newer_epochs;
        if newer > 0 {
            set_aside.push(format!(
                "a newer millrace wrote {newer} epochs of the store; they are kept there as .newer, and nothing in them is sent"
            ));
        }
        set_aside
    }

    /// Whether everything that was stored is sent.
    pub(crate) fn is_sent(&self) -> bool {
        let status = self.buffer.status();
        let mut queued = status.uplinks.values();
        status.uncommitted == 0 && queued.all(|q| q.alarm + q.live + q.backlog == 0)
    }
}

fn log_status(log: &millrace_buffer::LogStatus, when_full: WhenFull) -> LogStatus {
    let when_full = match when_full {
        WhenFull::DropOldest => "drop-oldest",
        WhenFull::DropNewest => "drop-newest",
        WhenFull::Block => "block",
    };
    LogStatus {
        when_full: when_full.to_owned(),
        bytes: log.bytes,
        max_bytes: log.max_bytes,
        kept_bytes: log.kept_bytes,
        epochs: log.epochs,
        chunks: log.chunks,
        full: log.full,
        bytes_per_hour: log.bytes_per_hour,
        runway_s: log.runway.map(|left| left.as_secs()),
        oldest: log.oldest.map(|time| time.unix_ms()),
    }
}

/// What each uplink has given up, where that is anything.
fn poison(ledger: &Ledger) -> BTreeMap<String, u64> {
    let given_up = ledger.uplinks.iter().map(|(name, uplink)| {
        let rows = uplink.devices.values().chain(uplink.events.values());
        let count = rows.filter_map(|row| row.dropped.get(&DropReason::Poison));
        (name.clone(), count.sum())
    });
    given_up.filter(|(_, count)| *count > 0).collect()
}
