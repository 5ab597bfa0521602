//! Where what the server sends becomes readings: noted as delivered, held back behind gaps, and released.

use std::time::Duration;

use millrace_tags::{Event, Reading, Reason, Receipt, Sample};
use opcua::types::ByteString;
use tokio::time::Instant;

use super::backfill::{Gaps, Request};
use super::delivered::Delivered;
use super::history::Span;
use super::notes::Notes;

/// A sample, and the place of its item.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) place: usize,
    pub(super) sample: Sample,
    /// The server's queue ran over: what came before it may be lost.
    pub(super) lost_before: bool,
}

/// What one notification, or one read of ours, brought.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) samples: Vec<Arrived>,
    pub(super) events: Vec<Event>,
    pub(super) receipt: Option<Receipt>,
}

impl Batch {
    /// Samples that the server did not send by itself.
    pub(super) fn unasked(samples: Vec<(usize, Sample)>) -> Self {
        let arrived = |(place, sample)| Arrived {
            place,
            sample,
            lost_before: false,
        };
        Self {
            samples: samples.into_iter().map(arrived).collect(),
            events: Vec::new(),
            receipt: None,
        }
    }
}

/// What is known of the values of a device from one session to the next.
#[derive(Debug, Default)]
pub(super) struct Intake {
    delivered: Delivered,
    gaps: Gaps,
    /// Whether anybody may be asked for history.
    history: bool,
    /// Whether some node of the session has brought history.
    proven: bool,
}

impl Intake {
    /// Nothing has come yet; this much was handed over by an agent before this one.
    pub(super) fn after(delivered: Delivered) -> Self {
        Self {
            delivered,
            ..Self::default()
        }
    }

    /// A session of so many items begins that knows nothing of the one before: whatever was handed over
    /// of an item, something may be missing after it.
    pub(super) fn begin(&mut self, items: usize, history: bool) {
        self.delivered = std::mem::take(&mut self.delivered).of(items);
        self.history = history;
        self.proven = false;
        self.gaps.forget_requests();
        self.gaps.forget_receipts();
        for place in self.delivered.seen() {
            self.gaps.open(place, self.delivered.cursor(place), true);
        }
    }

    /// The session goes on, on another connection.
    pub(super) fn go_on(&mut self) {
        self.gaps.forget_requests();
    }

    /// Values of these items were lost in the running session.
    pub(super) fn lost(&mut self, places: &[usize]) {
        for &place in places {
            self.gaps.open(place, self.delivered.cursor(place), false);
        }
    }

    /// What may be handed over of it now; `None` where that is nothing.
    pub(super) fn take(&mut self, batch: Batch, notes: &Notes) -> Option<Reading> {
        let mut samples = Vec::with_capacity(batch.samples.len());
        let (mut out, mut known) = (Vec::new(), Vec::new());
        for arrived in batch.samples {
            let place = arrived.place;
            if arrived.lost_before {
                self.gaps.open(place, self.delivered.cursor(place), false);
            }
            if self.gaps.is_empty() {
                self.delivered.take(place, &arrived.sample);
                samples.push(arrived.sample);
            } else {
                known.extend(self.gaps.offer(place, arrived.sample, &mut out));
                self.release(&mut out, &mut samples, notes);
            }
        }
        if !self.history {
            self.gaps.give_up_all(&mut out);
            self.release(&mut out, &mut samples, notes);
        }
        let receipt = batch.receipt.and_then(|receipt| self.gaps.receipt(receipt));
        let reading = Reading {
            samples,
            known,
            events: batch.events,
            receipt,
        };
        (reading != Reading::default()).then_some(reading)
    }

    /// Receipts that have waited for held values: each a reading of its own, without samples.
    pub(super) fn free_receipts(&mut self) -> Vec<Reading> {
        let receipts = self.gaps.free_receipts().into_iter();
        let alone = |receipt| Reading {
            receipt: Some(receipt),
            ..Reading::default()
        };
        receipts.map(alone).collect()
    }

    /// Whether this value of an item was the newest that was handed over.
    pub(super) fn is_known(&self, place: usize, sample: &Sample) -> bool {
        self.delivered.cursor(place).holds(sample)
    }

    fn release(
        &mut self,
        out: &mut Vec<(usize, Sample)>,
        samples: &mut Vec<Sample>,
        notes: &Notes,
    ) {
        for (place, sample) in out.drain(..) {
            if sample.quality.reason() == Some(Reason::Lost) {
                notes.hole();
            }
            self.delivered.take(place, &sample);
            samples.push(sample);
        }
    }

    /// What history should be asked for next.
    pub(super) fn request(&mut self, nodes_max: usize) -> Option<Request> {
        if self.gaps.is_empty() {
            return None;
        }
        self.gaps.next_request(nodes_max, Instant::now())
    }

    /// When there may be something to ask for, although there is nothing now.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.gaps.wake_at()
    }

    /// Answers of history: at the end, everything that they set free.
    pub(super) fn answers(&mut self) -> Answers<'_> {
        Answers {
            intake: self,
            out: Vec::new(),
            brought: 0,
            refused: false,
        }
    }
}

/// Takes the answers to one request.
pub(super) struct Answers<'i> {
    intake: &'i mut Intake,
    out: Vec<(usize, Sample)>,
    /// Values that only history had.
    brought: u64,
    refused: bool,
}

impl Answers<'_> {
    pub(super) fn values(
        &mut self,
        place: usize,
        values: Vec<Sample>,
        span: Span,
        continuation: ByteString,
    ) {
        self.intake.proven = true;
        let gaps = &mut self.intake.gaps;
        self.brought += gaps.filled(place, values, span, continuation, &mut self.out);
    }

    /// The item has no history.
    pub(super) fn nothing(&mut self, place: usize) {
        self.refused = true;
        self.intake.gaps.give_up(place, &mut self.out);
    }

    /// Not now.
    pub(super) fn not_yet(&mut self, place: usize, pause: Duration) {
        self.intake.gaps.not_yet(place, pause, &mut self.out);
    }

    /// Fewer nodes at once may do; this is no failure of theirs.
    pub(super) fn again(&mut self) {
        self.intake.gaps.forget_requests();
    }

    /// The server keeps no history at all: nobody is asked again in this session.
    pub(super) fn none_at_all(&mut self) {
        self.intake.history = false;
    }

    /// Everything that is free now.
    pub(super) fn end(mut self, notes: &Notes) -> Option<Reading> {
        notes.filled(self.brought);
        if self.refused && !self.intake.proven {
            self.none_at_all();
        }
        if !self.intake.history {
            self.intake.gaps.give_up_all(&mut self.out);
        }
        let mut samples = Vec::with_capacity(self.out.len());
        self.intake.release(&mut self.out, &mut samples, notes);
        (!samples.is_empty()).then_some(Reading {
            samples,
            ..Reading::default()
        })
    }
}
