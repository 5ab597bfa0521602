//! A version of a model, and what is known of it while it runs.

use std::sync::Arc;
use std::time::Duration;

use millrace_inference::{Calibration, Output};
use millrace_tags::{Event, EventState};

use crate::model::VersionId;
use crate::model::slot::{Done, Slot, Turn};

/// A version and what is known of it.
pub(in crate::model) struct Seat {
    pub(in crate::model) id: VersionId,
    pub(in crate::model) slot: Arc<Slot>,
    pub(super) done: Done,
    pub(super) is_full: bool,
    /// The newest record of the event that it is in.
    pub(super) event: Option<Event>,
    /// Failed windows, one after the other.
    pub(super) failures: u32,
    /// What it said and nobody was told of yet.
    pub(super) pending: Vec<Output>,
    pub(super) windows_shed: u64,
    /// Processor time of a window, the newest counting most.
    pub(super) window_mean: Option<Duration>,
    /// How far learning is; `None` where it has nothing to learn, or had no turn yet.
    pub(super) calibration: Option<Calibration>,
}

impl Seat {
    pub(in crate::model) fn new(id: VersionId, slot: Arc<Slot>) -> Self {
        Self {
            id,
            slot,
            done: Done::NOTHING,
            is_full: false,
            event: None,
            failures: 0,
            pending: Vec::new(),
            windows_shed: 0,
            window_mean: None,
            calibration: None,
        }
    }

    pub(super) fn take_note(&mut self, turn: &Turn) {
        self.done = turn.done;
        self.is_full = turn.is_full;
        self.windows_shed += turn.windows_shed;
        self.calibration = turn.calibration;
        for spent in &turn.spent {
            let mean = self
                .window_mean
                .map_or(*spent, |mean| (mean * 15 + *spent) / 16);
            self.window_mean = Some(mean);
        }
    }

    pub(super) fn follow(&mut self, event: &Event) {
        self.event = (event.state != EventState::End).then(|| event.clone());
    }
}
