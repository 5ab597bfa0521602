//! What was handed over last of each item: where a gap begins, and what must not come twice.
//!
//! The agent keeps the same of what it has committed, over restarts, and gives it to the driver as [`Memory`].

use millrace_tags::{EventDetail, Moment, Quality, Sample, Scaling, Timestamp, Value};

/// Values of one time that are told apart. A server whose clock stands still must not fill the memory.
const PRINTS_MAX: usize = 100;

/// What an agent knows of a device from the one that ran before it.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// What was stored of each item, in their order.
    pub cursors: Vec<Cursor>,
    /// Alarms that were told to have begun, and not to have ended.
    pub alarms: Vec<OpenAlarm>,
    /// The session that may still be at the server, as [`OpcuaDriver::session`](super::OpcuaDriver::session) told it.
    pub session: Option<String>,
}

/// An alarm that has begun.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenAlarm {
    /// The condition's node.
    pub id: String,
    /// Since when.
    pub since: Moment,
    /// What was told of it last.
    pub detail: EventDetail,
}

/// The newest value of an item that was handed over, by its own time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cursor {
    /// Whether anything was handed over at all.
    pub(super) seen: bool,
    /// When the server says that the newest value was taken; `None` where it says nothing.
    pub(super) time: Option<Timestamp>,
    /// The values of that time: a server with a coarse clock has several.
    prints: Vec<u64>,
    /// A mark of ours came after it: for whoever listens, the item is bad.
    marked: bool,
    /// What lies between the samples that this one gets and what it compares them by.
    scaling: Option<Scaling>,
}

impl Cursor {
    /// The sample is handed over.
    pub fn take(&mut self, sample: &Sample) {
        if is_mark(sample) {
            self.marked = true;
            return;
        }
        self.marked = false;
        self.seen = true;
        if self.time != sample.source_time {
            self.time = sample.source_time;
            self.prints.clear();
        }
        if self.prints.len() == PRINTS_MAX {
            self.prints.remove(0);
        }
        self.prints.push(self.print(sample));
    }

    /// The sample was stored. What is stored together may have changed places: the newest time counts.
    pub fn take_stored(&mut self, sample: &Sample) {
        let is_older = sample.source_time < self.time;
        if is_mark(sample) || !(is_older || self.holds(sample)) {
            self.take(sample);
        } else {
            self.marked = false;
        }
    }

    /// Whether the item is bad for whoever listens: nothing was taken, or a mark came after it.
    pub fn is_bad(&self) -> bool {
        self.marked || !self.seen
    }

    /// Goes on where another one of the item stands; that one has seen all that this one has, or more.
    pub fn follow(&mut self, newer: Cursor) {
        if !newer.seen {
            self.marked |= newer.marked;
            return;
        }
        let before = std::mem::replace(self, newer);
        if before.time == self.time {
            let known = |print: &u64| self.prints.contains(print);
            let others: Vec<u64> = before.prints.into_iter().filter(|p| !known(p)).collect();
            self.prints.splice(0..0, others);
        }
    }

    /// Whether this very value was handed over as the newest.
    pub(super) fn holds(&self, sample: &Sample) -> bool {
        self.time.is_some()
            && self.time == sample.source_time
            && self.prints.contains(&self.print(sample))
    }

    fn print(&self, sample: &Sample) -> u64 {
        match self.scaling {
            None => print(sample),
            Some(scaling) => {
                let mut sample = sample.clone();
                scaling.apply(&mut sample);
                print(&sample)
            }
        }
    }

    /// As bytes: flags (1 seen, 2 marked, 4 with a time), the number of prints, the time, the prints, little-endian.
    pub fn write(&self, out: &mut Vec<u8>) {
        let flags =
            u8::from(self.seen) | u8::from(self.marked) << 1 | u8::from(self.time.is_some()) << 2;
        out.push(flags);
        // At most a hundred.
        out.push(self.prints.len() as u8);
        out.extend(self.time.map_or(0, |time| time.0).to_le_bytes());
        self.prints.iter().for_each(|p| out.extend(p.to_le_bytes()));
    }

    /// Takes what [`Cursor::write`] wrote off the front of `bytes`; `None` where it is something else.
    pub fn read(bytes: &mut &[u8]) -> Option<Cursor> {
        let (&[flags, prints], rest) = bytes.split_first_chunk()?;
        let (&time, mut rest) = rest.split_first_chunk()?;
        let mut cursor = Cursor {
            seen: flags & 1 != 0,
            marked: flags & 2 != 0,
            time: (flags & 4 != 0).then_some(Timestamp(i64::from_le_bytes(time))),
            ..Cursor::default()
        };
        for _ in 0..prints {
            let (&print, after) = rest.split_first_chunk()?;
            cursor.prints.push(u64::from_le_bytes(print));
            rest = after;
        }
        *bytes = rest;
        Some(cursor)
    }
}

/// What has no time and no value is a mark of ours, and says nothing of where the server is.
fn is_mark(sample: &Sample) -> bool {
    sample.source_time.is_none() && sample.value.is_none()
}

/// The cursors of a device's items, by place.
#[derive(Debug, Default)]
pub(super) struct Delivered(Vec<Cursor>);

impl Delivered {
    /// Goes on from these. They are of what is stored: `scalings` lies between that and what the server sends.
    pub(super) fn after(
        cursors: Vec<Cursor>,
        scalings: impl Iterator<Item = Option<Scaling>>,
    ) -> Self {
        let mut cursors = cursors.into_iter();
        let scaled = |scaling| Cursor {
            scaling,
            ..cursors.next().unwrap_or_default()
        };
        Self(scalings.map(scaled).collect())
    }

    /// Of so many items; what is known of them stays.
    pub(super) fn of(mut self, items: usize) -> Self {
        self.0.resize_with(items, Cursor::default);
        self
    }

    pub(super) fn take(&mut self, place: usize, sample: &Sample) {
        if let Some(cursor) = self.0.get_mut(place) {
            cursor.take(sample);
        }
    }

    pub(super) fn cursor(&self, place: usize) -> Cursor {
        self.0.get(place).cloned().unwrap_or_default()
    }

    /// The places of which something was handed over.
    pub(super) fn seen(&self) -> Vec<usize> {
        let cursors = self.0.iter().enumerate();
        cursors
            .filter(|(_, cursor)| cursor.seen)
            .map(|(place, _)| place)
            .collect()
    }
}

/// Two samples of one time with the same print are the same value. It is stored, so it stays the same in every
/// version: FNV-1a over what the buffer stores.
pub(super) fn print(sample: &Sample) -> u64 {
    let mut print = Fnv::default();
    let (severity, reason) = match &sample.quality {
        Quality::Good => (0, (0, 0)),
        Quality::Uncertain(reason) => (1, reason.code()),
        Quality::Bad(reason) => (2, reason.code()),
    };
    print.add(&[severity, reason.0]);
    print.add(&reason.1.to_le_bytes());
    match &sample.value {
        None => {}
        Some(Value::Bool(v)) => print.add(&[1, u8::from(*v)]),
        Some(Value::I64(v)) => print.add(&v.to_le_bytes()),
        Some(Value::U64(v)) => print.add(&v.to_le_bytes()),
        Some(Value::F32(v)) => print.add(&v.to_le_bytes()),
        Some(Value::F64(v)) => print.add(&v.to_le_bytes()),
        Some(Value::Text(v) | Value::Json(v)) => print.add(v.as_bytes()),
        Some(Value::Bytes(v)) => print.add(v),
    }
    print.0
}

/// FNV-1a, 64 bits: small, and the same for ever.
#[derive(Debug, Clone, Copy)]
pub struct Fnv(pub u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Takes bytes in.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_tags::{Moment, Reason, TagId};

    use super::*;

    fn sample(value: u64, time: i64) -> Sample {
        Sample {
            source_time: Some(Timestamp(time)),
            ..Sample::good(TagId(0), Value::U64(value), Moment(0))
        }
    }

    fn lost() -> Sample {
        Sample::bad(TagId(0), Reason::Lost, Moment(0))
    }

    #[test]
    fn newest_time_and_every_value_of_it_are_known() {
        let mut cursor = Cursor::default();
        cursor.take(&sample(1, 10));
        cursor.take(&sample(2, 20));
        cursor.take(&sample(3, 20));
        assert!(!cursor.holds(&sample(1, 10)));
        assert!(cursor.holds(&sample(2, 20)) && cursor.holds(&sample(3, 20)));
        assert!(!cursor.holds(&sample(4, 20)));
    }

    #[test]
    fn a_mark_of_ours_moves_nothing() {
        let mut cursor = Cursor::default();
        cursor.take(&lost());
        assert!(!cursor.seen);
        cursor.take(&sample(1, 10));
        assert!(!cursor.is_bad());
        cursor.take(&lost());
        assert!(cursor.holds(&sample(1, 10)) && cursor.is_bad());
    }

    #[test]
    fn a_value_without_a_time_is_seen_and_never_held() {
        let mut cursor = Cursor::default();
        let timeless = Sample::good(TagId(0), Value::Bool(true), Moment(0));
        cursor.take(&timeless);
        assert!(cursor.seen && !cursor.holds(&timeless));
    }

    #[test]
    fn a_clock_that_stands_still_does_not_fill_the_memory() {
        let mut cursor = Cursor::default();
        (0..1000).for_each(|value| cursor.take(&sample(value, 10)));
        assert_eq!(cursor.prints.len(), PRINTS_MAX);
        assert!(cursor.holds(&sample(999, 10)));
    }

    #[test]
    fn bytes_bring_the_cursor_back_and_damage_brings_none() {
        let mut cursor = Cursor::default();
        cursor.take(&sample(1, -10));
        cursor.take(&sample(2, -10));
        cursor.take(&lost());
        let mut bytes = Vec::new();
        Cursor::default().write(&mut bytes);
        cursor.write(&mut bytes);
        let mut left = bytes.as_slice();
        assert_eq!(Cursor::read(&mut left), Some(Cursor::default()));
        assert_eq!(Cursor::read(&mut left), Some(cursor));
        assert!(left.is_empty());
        for length in 11..bytes.len() {
            let mut cut = &bytes[10..length];
            assert_eq!(Cursor::read(&mut cut), None);
        }
    }

    #[test]
    fn what_is_stored_in_another_order_ends_at_the_newest() {
        let mut cursor = Cursor::default();
        for stored in [sample(3, 30), lost(), sample(1, 10), sample(4, 30)] {
            cursor.take_stored(&stored);
        }
        assert!(cursor.holds(&sample(3, 30)) && cursor.holds(&sample(4, 30)));
        let mut older = Cursor::default();
        older.take(&sample(2, 30));
        older.follow(cursor);
        assert!(
            [2, 3, 4]
                .iter()
                .all(|&value| older.holds(&sample(value, 30)))
        );
        assert!(!older.is_bad());
    }

    #[test]
    fn what_is_stored_is_known_by_what_the_server_sends() {
        let scaling = Scaling {
            scale: 0.1,
            offset: -40.0,
        };
        let mut stored = sample(7, 10);
        scaling.apply(&mut stored);
        let mut cursor = Cursor::default();
        cursor.take(&stored);
        let delivered = Delivered::after(vec![cursor], [Some(scaling)].into_iter());
        assert!(delivered.cursor(0).holds(&sample(7, 10)));
        assert!(!delivered.cursor(0).holds(&sample(8, 10)));
    }

    /// What an older version has stored is still known.
    #[test]
    fn prints_are_pinned() {
        assert_eq!(print(&sample(7, 10)), 0x3102_fdb9_d92c_5c7a);
    }
}
