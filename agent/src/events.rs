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

    /// Takes over what was said before a new configuration. Followers of the old log come back by themselves.
    pub(crate) fn inherit(&self, before: &EventLog) {
        let earlier = before.report();
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        for row in earlier.into_iter().rev() {
            if rows.len() == EVENTS_KEPT {
                break;
            }
            rows.push_front(row);
        }
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

#[cfg(test)]
mod tests {
    use millrace_tags::{EventDetail, EventState, Moment, TestClock};

    use super::*;

    fn log() -> EventLog {
        EventLog::new(Arc::new(TestClock::new(1, None)))
    }

    fn comms(message: &str) -> Event {
        let detail = EventDetail::Comms {
            message: message.to_owned(),
        };
        Event {
            state: EventState::Begin,
            at: Moment(0),
            start: Moment(0),
            end: None,
            detail,
        }
    }

    #[test]
    fn only_the_newest_are_kept() {
        let log = log();
        for number in 0..=EVENTS_KEPT {
            log.record("pump", &comms(&number.to_string()));
        }
        let rows = log.report();
        assert_eq!(rows.len(), EVENTS_KEPT);
        assert_eq!(rows[0].detail["message"], "1");
    }

    #[test]
    fn a_new_configuration_does_not_forget_what_was_said() {
        let (before, after) = (log(), log());
        before.record("pump", &comms("first"));
        before.record("pump", &comms("second"));
        after.record("pump", &comms("third"));
        after.inherit(&before);
        let rows = after.report();
        let said: Vec<_> = rows.iter().map(|row| &row.detail["message"]).collect();
        assert_eq!(said, ["first", "second", "third"]);
    }
}
