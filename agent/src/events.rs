//! The newest events, for `millrace events` and the local API. The alarm log keeps them all; this is
//! only what fits on a screen.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use millrace_tags::{Clock, Event};
use tokio::sync::broadcast;

use crate::report::EventRow;

/// Enough for a day of a noisy plant, small enough for a 1 GB gateway.
const EVENTS_KEPT: usize = 1_000;

/// A follower that falls this far behind is told so by a hole in what it sees.
const EVENTS_FOLLOWED: usize = 256;

/// The newest events.
pub(crate) struct EventLog {
    clock: Arc<dyn Clock>,
    rows: Mutex<VecDeque<EventRow>>,
    news: broadcast::Sender<EventRow>,
}

impl EventLog {
    /// An empty log.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let news = broadcast::Sender::new(EVENTS_FOLLOWED);
        Self {
            clock,
            rows: Mutex::default(),
            news,
        }
    }

    /// Adds an event of `source`.
    pub(crate) fn record(&self, source: &str, event: &Event) {
        let row = self.row(source, event);
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if rows.len() == EVENTS_KEPT {
            rows.pop_front();
        }
        rows.push_back(row.clone());
        // Nobody follows: that is no error.
        let _ = self.news.send(row);
    }

    /// The events so far, oldest first.
    pub(crate) fn report(&self) -> Vec<EventRow> {
        self.rows
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }

    /// The events so far, and a stream of those to come.
    pub(crate) fn follow(&self) -> (Vec<EventRow>, broadcast::Receiver<EventRow>) {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        (rows.iter().cloned().collect(), self.news.subscribe())
    }

    fn row(&self, source: &str, event: &Event) -> EventRow {
        let timebase = self.clock.timebase();
        let ms = |moment| timebase.utc(moment).map(|t| t.unix_ms());
        let mut detail = serde_json::to_value(&event.detail).unwrap_or_default();
        if let Some(fields) = detail.as_object_mut() {
            fields.remove("kind");
        }
        EventRow {
            source: source.to_owned(),
            kind: event.detail.kind().to_owned(),
            state: format!("{:?}", event.state).to_lowercase(),
            start: ms(event.start),
            end: event.end.and_then(ms),
            detail,
        }
    }
}
