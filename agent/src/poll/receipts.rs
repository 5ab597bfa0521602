//! Receipts that wait for the commit of their samples.

use std::collections::VecDeque;

use millrace_buffer::{Buffer, Ticket};
use millrace_drivers::Session;
use millrace_tags::Receipt;

/// While the disk refuses, receipts wait. One that is given up is never settled: its device keeps the
/// samples, or drops them by its own limit.
const RECEIPTS_WAITING_MAX: usize = 10_000;

/// Receipts of samples and events that are not on disk yet, oldest first.
#[derive(Default)]
pub(super) struct Receipts {
    waiting: VecDeque<(Tickets, Option<Receipt>)>,
}

/// What one reading left in the two logs: its samples and its last event.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tickets {
    pub(super) samples: Option<Ticket>,
    pub(super) events: Option<Ticket>,
}

impl Tickets {
    fn durable(self, buffer: &Buffer) -> bool {
        let mut tickets = [self.samples, self.events].into_iter().flatten();
        tickets.all(|ticket| buffer.durable(ticket))
    }
}

impl Receipts {
    /// A reading without a ticket holds nothing to wait for, but its turn comes in order. Events without a receipt
    /// have theirs in a later reading, which waits for them here.
    pub(super) fn keep(&mut self, tickets: Tickets, receipt: Option<Receipt>) {
        if self.waiting.len() == RECEIPTS_WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back((tickets, receipt));
    }

    /// Tells the session of those that are on disk by now.
    pub(super) fn settle(&mut self, buffer: &Buffer, session: &mut dyn Session) {
        while let Some((tickets, receipt)) = self.waiting.front() {
            if !tickets.durable(buffer) {
                return;
            }
            if let Some(receipt) = receipt {
                session.settle(*receipt);
            }
            self.waiting.pop_front();
        }
    }
}
