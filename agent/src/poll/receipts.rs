//! Receipts that wait for the commit of their samples.

use std::collections::VecDeque;

use millrace_buffer::{Buffer, Ticket};
use millrace_drivers::Session;
use millrace_tags::Receipt;

/// While the disk refuses, receipts wait. One that is given up is never settled: its device keeps the
/// samples, or drops them by its own limit.
const RECEIPTS_WAITING_MAX: usize = 10_000;

/// Receipts of samples that are not on disk yet, oldest first.
#[derive(Default)]
pub(super) struct Receipts {
    waiting: VecDeque<(Option<Ticket>, Receipt)>,
}

impl Receipts {
    /// A reading without a ticket holds nothing to wait for, but its turn comes in order.
    pub(super) fn keep(&mut self, ticket: Option<Ticket>, receipt: Receipt) {
        if self.waiting.len() == RECEIPTS_WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back((ticket, receipt));
    }

    /// Tells the session of those that are on disk by now.
    pub(super) fn settle(&mut self, buffer: &Buffer, session: &mut dyn Session) {
        while let Some((ticket, receipt)) = self.waiting.front() {
            if ticket.is_some_and(|ticket| !buffer.durable(ticket)) {
                return;
            }
            session.settle(*receipt);
            self.waiting.pop_front();
        }
    }
}
