//! What is done with what lies on the disk: replay, purge, a look.

use super::*;

impl World {
    /// Asks for numbers of a line; what is there of them, and was acked, must come again.
    pub(super) fn replay_numbers(
        &mut self,
        peer: Option<usize>,
        id: LineId,
        first: u64,
        last: u64,
    ) {
        let Some(stream) = self.lines[&id].stream else {
            return;
        };
        let replay = Replay::Numbers {
            source: NAMES[id.0].into(),
            stream,
            first_seq: first,
            last_seq: last,
        };
        let acked: Vec<Vec<u64>> = (0..UPLINKS)
            .map(|at| {
                let marks = self.peers[at].as_ref().map(|p| &p.marks);
                let marks = marks.into_iter().flatten();
                let acked = marks.filter(|(n, mark)| n.0 == id && **mark == Mark::Acked);
                let numbers = acked.map(|(n, _)| n.1);
                numbers.filter(|n| (first..=last).contains(n)).collect()
            })
            .collect();
        let Some(replayed) = self.replay(peer, replay) else {
            return;
        };
        // The alarm log may have the same stream of the same source.
        if self.lines[&(id.0, other(id.1))].stream == Some(stream) {
            return;
        }
        let stored = self.stored(id.1);
        for (at, peer) in self.peers() {
            let Some(to) = replayed.uplinks.get(PEERS[at]) else {
                continue;
            };
            let spans = [&to.again, &to.waiting, &to.missing];
            let mut numbers: Vec<u64> = spans
                .iter()
                .flat_map(|spans| spans.iter())
                .flat_map(|span| span.first_seq..=span.last_seq)
                .collect();
            numbers.sort_unstable();
            assert_eq!(numbers, (first..=last).collect::<Vec<_>>(), "{to:?}");
            for &number in acked[at].iter().filter(|n| self.lines[&id].is_record(**n)) {
                let stays = peer.marks.get(&(id, number)) == Some(&Mark::Acked);
                let there = stored.contains(&(id, number));
                assert!(
                    !(stays && there),
                    "{} {id:?} {number} does not come again",
                    PEERS[at]
                );
            }
        }
    }

    pub(super) fn replay(&mut self, peer: Option<usize>, replay: Replay) -> Option<Replayed> {
        if peer.is_some_and(|at| self.peers[at].is_none()) {
            let name = peer.map(|at| PEERS[at]);
            assert!(self.buffer.replay(name, replay).is_err());
            return None;
        }
        let before = self.buffer.ledger();
        let replayed = self
            .buffer
            .replay(peer.map(|at| PEERS[at]), replay)
            .unwrap();
        let after = self.buffer.ledger();
        for (at, name) in PEERS.iter().enumerate() {
            let acked = |ledger| -> u64 { ids().map(|id| self.row(ledger, at, id).acked).sum() };
            let less = acked(&before) - acked(&after);
            let Some(peer) = &mut self.peers[at] else {
                continue;
            };
            let Some(to) = replayed.uplinks.get(*name) else {
                assert_eq!(less, 0);
                continue;
            };
            assert_eq!(to.records, less, "{to:?}");
            let mut records = 0;
            for span in &to.again {
                let source = source_at(&span.source);
                for number in span.first_seq..=span.last_seq {
                    records += 1;
                    // Two logs may have one stream; then only one of them has the number acked.
                    let found = LOGS
                        .map(|log| ((source, log), number))
                        .into_iter()
                        .find(|n| {
                            let line = &self.lines[&n.0];
                            line.stream.is_some_and(|s| s.to_string() == span.stream)
                                && matches!(peer.marks.get(n), Some(Mark::Acked | Mark::Maybe))
                        });
                    let Some(number) = found else {
                        panic!("{} {span:?}: {number} was not acked", name);
                    };
                    assert!(!peer.heard.contains_key(&number));
                    peer.marks.remove(&number);
                }
            }
            assert_eq!(records, to.records);
        }
        Some(replayed)
    }

    pub(super) fn purge(&mut self, log: Option<LogKind>, minutes: Option<u64>) {
        self.complete = false;
        let now = self.clock.timebase().utc(self.clock.now());
        let before = minutes.and_then(|m| Some(Timestamp(now?.0 - m as i64 * 60_000_000_000)));
        if minutes.is_some() && before.is_none() {
            return;
        }
        let purged = |world: &Self, at| -> u64 {
            let ledger = world.buffer.ledger();
            let rows = ids().map(|id| world.row(&ledger, at, id));
            rows.map(|row| row.dropped.get(&DropReason::Purged).copied().unwrap_or(0))
                .sum()
        };
        let earlier: Vec<u64> = (0..UPLINKS).map(|at| purged(self, at)).collect();
        let done = self.buffer.purge(Purge { before, log }).unwrap();
        for (at, earlier) in earlier.into_iter().enumerate() {
            if self.peers[at].is_some() {
                assert_eq!(done.unsent[PEERS[at]], purged(self, at) - earlier);
            }
        }
        if before.is_none() {
            for id in ids().filter(|id| log.is_none_or(|log| log == id.1)) {
                let left = self.stored(id.1);
                assert!(left.is_empty(), "{} numbers are still there", left.len());
            }
        }
    }

    /// What lies on the disk, each number checked.
    pub(super) fn stored(&mut self, log: LogKind) -> std::collections::BTreeSet<(LineId, u64)> {
        let archive = Archive::open(self.dir.path()).unwrap();
        let mut stored = std::collections::BTreeSet::new();
        let selection = Selection {
            log,
            order: Order::OldestFirst,
            source: &|_| true,
            from: None,
        };
        for piece in archive.read(selection) {
            let id = (source_at(&piece.parcel.source), log);
            let line = self.lines.get_mut(&id).unwrap();
            line.check(&piece.parcel, &self.boots);
            for at in 0..piece.parcel.records.len() as u64 {
                let number = piece.parcel.first_seq + at;
                assert!(stored.insert((id, number)), "{number} is there twice");
            }
        }
        stored
    }

    pub(super) fn look(&mut self, log: LogKind) {
        let durable: Vec<(LineId, u64)> = ids()
            .filter(|id| id.1 == log)
            .flat_map(|id| (1..=self.lines[&id].last()).map(move |n| (id, n)))
            .filter(|&(id, number)| self.is_durable(id, number))
            .collect();
        let stored = self.stored(log);
        if self.complete {
            let missing = durable.iter().find(|number| !stored.contains(number));
            assert_eq!(missing, None, "it is durable and not on the disk");
        }
    }
}

fn other(log: LogKind) -> LogKind {
    match log {
        LogKind::Alarm => LogKind::Data,
        LogKind::Data => LogKind::Alarm,
    }
}
