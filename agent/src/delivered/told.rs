//! What one device has handed to the store: its newest values, and its alarms that have begun.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use millrace_drivers::opcua::{Cursor, OpenAlarm};
use millrace_tags::{Clock, Event, EventDetail, EventState, Sample, TagId, Timebase};

use super::file::{KeptAlarm, Tag};

/// Alarms of a device that are kept; a server with more has other worries.
const ALARMS_MAX: usize = 10_000;

/// What one device has handed to the store. Whoever appends holds the lock over the append, so that nobody ever sees
/// one without the other.
#[derive(Default)]
pub(crate) struct Told(Mutex<Table>);

impl Told {
    /// For one append, or one look.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Table> {
        // Whole between any two statements that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Told`].
#[derive(Default)]
pub(crate) struct Table {
    /// In the order of the configuration.
    tags: Vec<Tag>,
    /// Places of those that the file knew: what the store has of others may be of another node.
    names: BTreeMap<String, usize>,
    first: u32,
    /// Places of the tags, from number `first` on.
    places: Vec<Option<usize>>,
    alarms: BTreeMap<String, KeptAlarm>,
}

impl Table {
    /// A tag of the device, and what was kept of it.
    pub(super) fn know(&mut self, id: TagId, tag: &str, kept: Option<Tag>, name: u64, node: u64) {
        if self.tags.is_empty() {
            self.first = id.0;
        }
        let new = || Tag {
            name,
            node,
            cursor: Cursor::default(),
        };
        // Numbers of a device may come in any order where its tags were changed.
        if id.0 < self.first {
            let more = (self.first - id.0) as usize;
            self.places.splice(0..0, std::iter::repeat_n(None, more));
            self.first = id.0;
        }
        let at = (id.0 - self.first) as usize;
        if self.places.len() <= at {
            self.places.resize(at + 1, None);
        }
        self.places[at] = Some(self.tags.len());
        if kept.is_some() {
            self.names.insert(tag.to_owned(), self.tags.len());
        }
        self.tags.push(kept.unwrap_or_else(new));
    }

    /// An alarm that had begun when the file was written.
    pub(super) fn begin(&mut self, mut open: KeptAlarm, clock: &dyn Clock) {
        open.since = open.moment(clock);
        open.boot = clock.timebase().boot;
        self.alarms.insert(open.id.clone(), open);
    }

    pub(super) fn tags(&self) -> impl Iterator<Item = &Tag> {
        self.tags.iter()
    }

    pub(super) fn kept_alarms(&self, device: &str) -> impl Iterator<Item = KeptAlarm> {
        self.alarms.values().map(move |open| KeptAlarm {
            device: device.to_owned(),
            ..open.clone()
        })
    }

    pub(super) fn alarms(&self, clock: &dyn Clock) -> Vec<OpenAlarm> {
        let open = self.alarms.values().map(|open| OpenAlarm {
            id: open.id.clone(),
            since: open.moment(clock),
            detail: open.detail.clone(),
        });
        open.collect()
    }

    fn cursor(&mut self, tag: TagId) -> Option<&mut Cursor> {
        let at = tag.0.checked_sub(self.first)? as usize;
        let place = (*self.places.get(at)?)?;
        Some(&mut self.tags.get_mut(place)?.cursor)
    }

    /// The sample goes to the store now.
    pub(crate) fn take(&mut self, sample: &Sample) {
        if let Some(cursor) = self.cursor(sample.tag) {
            cursor.take(sample);
        }
    }

    /// Whether whoever listens has to be told a value that was stored before: the tag was said to be bad since.
    pub(crate) fn is_bad(&mut self, tag: TagId) -> bool {
        self.cursor(tag).is_none_or(|cursor| cursor.is_bad())
    }

    /// What the store has had of a tag since the file was written.
    pub(super) fn follow(&mut self, tag: &str, newer: Cursor) {
        if let Some(tag) = self.names.get(tag).and_then(|at| self.tags.get_mut(*at)) {
            tag.cursor.follow(newer);
        }
    }

    /// The event goes to the store, or is there.
    pub(crate) fn take_event(&mut self, event: &Event, timebase: Timebase) {
        let EventDetail::Alarm {
            told: Some(told), ..
        } = &event.detail
        else {
            return;
        };
        let Some(id) = &told.id else { return };
        match event.state {
            EventState::End => {
                self.alarms.remove(id);
            }
            EventState::Begin | EventState::Update if self.alarms.len() < ALARMS_MAX => {
                let open = KeptAlarm {
                    device: String::new(),
                    id: id.clone(),
                    since: event.start,
                    boot: timebase.boot,
                    utc: timebase.utc(event.start),
                    detail: event.detail.clone(),
                };
                self.alarms.insert(id.clone(), open);
            }
            EventState::Begin | EventState::Update => {}
        }
    }
}
