//! Stops and crashes.

use super::*;

impl World {
    pub(super) fn restart(&mut self, crash: bool, reboot: Option<bool>, setup: Setup) {
        let durable: BTreeMap<LineId, u64> = ids()
            .map(|id| {
                let last = (1..=self.lines[&id].last()).rev();
                let last = last.into_iter().find(|n| self.is_durable(id, *n));
                (id, last.unwrap_or(0))
            })
            .collect();
        match crash {
            true => self.buffer.crash(),
            false => self.buffer.close().unwrap(),
        }
        let before = self.buffer.set_aside();
        self.setup = setup;
        self.complete &= setup.keeps_all();
        if let Some(set) = reboot {
            self.boot += 1;
            let offset = set.then_some(Timestamp(EPOCH + self.boot as i64 * 24 * HOUR));
            self.clock = Arc::new(TestClock::new(self.boot, offset));
            self.note_clock();
        }
        let settings = setup.settings(self.dir.path());
        self.buffer = Buffer::open_exactly(settings, self.clock.clone()).unwrap();
        let recovery = self.buffer.recovery();
        assert_eq!(recovery.clean, !crash);
        assert_eq!(
            (recovery.damaged, recovery.quarantined_epochs),
            (0, 0),
            "{recovery:?}"
        );
        for (at, name) in PEERS.iter().enumerate() {
            if let Some(peer) = &mut self.peers[at] {
                peer.restarted(self.buffer.outbox(name, Start::Now), crash);
            }
        }
        self.retain_uplinks();
        for id in ids() {
            self.crashed(id, durable[&id], crash);
        }
        if crash {
            self.find_asides();
        } else if self.complete {
            assert_eq!(self.buffer.set_aside(), before);
        }
    }

    /// Takes note of what a crash made of a line.
    fn crashed(&mut self, id: LineId, durable: u64, crash: bool) {
        let row = self.row(&self.buffer.ledger(), 0, id);
        let voids = row.dropped.get(&DropReason::Crash).copied().unwrap_or(0);
        let line = self.lines.get_mut(&id).unwrap();
        let void = voids - line.voids(DropReason::Crash);
        let kept = row.acquired - void;
        assert!(kept >= durable, "{id:?}: {durable} was durable: {row:?}");
        assert!(kept <= line.last(), "{id:?}: {row:?}");
        assert!(
            crash || (void == 0 && kept == line.last()),
            "{id:?}: {row:?}"
        );
        line.entries.truncate(kept as usize);
        for _ in 0..void {
            line.entries.push(Entry::Void(DropReason::Crash));
        }
        for entry in &mut line.entries {
            if let Entry::Record(record) = entry {
                record.ticket = None;
            }
        }
        let last = line.last();
        for peer in self.peers.iter_mut().flatten() {
            peer.cut(id, kept, last);
        }
        if last == 0 {
            line.stream = None;
        }
    }

    /// After a crash: what was set aside and durable is so still.
    fn find_asides(&mut self) {
        let rows = self.buffer.set_aside();
        for peer in self.peers.iter_mut().flatten() {
            let marks = &mut peer.marks;
            peer.asides.retain(|aside| {
                let row = rows.iter().find(|row| row.id == aside.id);
                let records = row.map_or(0, |row| row.records);
                if records == aside.numbers.len() as u64 {
                    return true;
                }
                // Not saved since it became durable; or dropped.
                let mark = match aside.durable {
                    true => Mark::Lost,
                    false => Mark::Maybe,
                };
                for number in &aside.numbers {
                    if let Some(old) = marks.get_mut(&(aside.line, *number))
                        && *old == Mark::Aside
                    {
                        *old = mark;
                    }
                }
                records > 0
            });
        }
    }
}
