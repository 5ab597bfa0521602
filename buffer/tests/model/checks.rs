//! What must hold after every step, and at the end.

use super::*;

impl World {
    pub(super) fn check(&mut self) {
        // Both of one moment: the buffer's own thread may make room at any time.
        let (ledger, status) = loop {
            let ledger = self.verified();
            let status = self.buffer.status();
            if self.buffer.ledger() == ledger {
                break (ledger, status);
            }
        };
        for (at, peer) in self.peers() {
            for id in ids() {
                peer.check_row(id, &self.lines[&id], &self.row(&ledger, at, id));
            }
            let status = status.uplinks[PEERS[at]];
            let queued: u64 = ids().map(|id| self.row(&ledger, at, id).queued).sum();
            let said = status.alarm + status.live + status.backlog;
            assert_eq!(said, queued, "{status:?}");
        }
        self.check_asides();
    }

    /// The recount, which must be the running count.
    fn verified(&self) -> Ledger {
        let mut running = self.buffer.ledger();
        loop {
            let recounted = self.buffer.verify().unwrap();
            // A commit that came in between may have made room.
            let now = self.buffer.ledger();
            if recounted == now {
                return now;
            }
            assert_ne!(running, now, "the recount says {recounted:#?}");
            running = now;
        }
    }

    pub(super) fn check_asides(&mut self) {
        let rows = self.buffer.set_aside();
        for peer in self.peers.iter_mut().flatten() {
            let marks = &mut peer.marks;
            peer.asides.retain(|aside| {
                let there = rows.iter().any(|row| row.id == aside.id);
                for number in aside.numbers.iter().filter(|_| !there) {
                    if let Some(mark) = marks.get_mut(&(aside.line, *number))
                        && *mark == Mark::Aside
                    {
                        *mark = Mark::Lost;
                    }
                }
                there
            });
        }
        let known: usize = self.peers().map(|(_, peer)| peer.asides.len()).sum();
        assert_eq!(known, rows.len(), "{rows:?}");
    }

    /// Everything that is left goes out; then each number came, or was announced, or is counted.
    pub(crate) fn finish(mut self, reconnect: bool) {
        self.buffer.commit().unwrap();
        for at in 0..UPLINKS {
            if let Some(peer) = self.peers[at].as_mut().filter(|_| reconnect) {
                peer.outbox.reconnected();
                peer.reconnected();
            }
            self.drain(at, Self::waiting);
        }
        for nth in 0.. {
            let left: usize = self.peers().map(|(_, peer)| peer.asides.len()).sum();
            if left == 0 {
                break;
            }
            self.resolve(0, nth % 2 == 0);
        }
        for at in 0..UPLINKS {
            self.drain(at, Self::waiting);
        }
        // Saving makes room, and then what was refused for lack of it is written down.
        self.retain_uplinks();
        self.buffer.commit().unwrap();
        for at in 0..UPLINKS {
            self.drain(at, Self::missing);
        }
        self.check();
        for log in LOGS {
            self.look(log);
        }
    }

    /// Takes and acks until nothing is `left`.
    fn drain(&mut self, at: usize, left: fn(&Self, usize) -> Option<String>) {
        let mut since = Instant::now();
        let budget = Budget {
            records: 500,
            backlog: true,
        };
        while self.peers[at].is_some() {
            let flying = self.peers[at]
                .as_ref()
                .is_some_and(|p| !p.flights.is_empty());
            self.ack_all(at);
            if self.take(at, budget, None).is_some() || flying {
                since = Instant::now();
                continue;
            }
            self.check_asides();
            match left(self, at) {
                None => return,
                Some(what) => assert!(
                    since.elapsed() < STUCK,
                    "{}: {what}: {:?}",
                    PEERS[at],
                    self.buffer.status()
                ),
            }
        }
    }

    /// What is queued and not set aside.
    fn waiting(&self, at: usize) -> Option<String> {
        let ledger = self.buffer.ledger();
        let aside = self.buffer.set_aside();
        let aside = aside.iter().filter(|row| &*row.uplink == PEERS[at]);
        let aside: u64 = aside.map(|row| row.records).sum();
        let queued: u64 = ids().map(|id| self.row(&ledger, at, id).queued).sum();
        (queued != aside).then(|| format!("{queued} are queued, {aside} set aside"))
    }

    fn missing(&self, at: usize) -> Option<String> {
        let peer = self.peers[at].as_ref()?;
        let ledger = self.buffer.ledger();
        let mut missing =
            ids().filter_map(|id| peer.missing(id, &self.lines[&id], &self.row(&ledger, at, id)));
        self.waiting(at).or_else(|| missing.next())
    }
}
