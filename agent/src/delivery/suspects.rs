//! Which message makes the broker close the connection.
//!
//! MQTT 3.1.1 has no code for a refusal: the broker hangs up. What was under way at several such losses is
//! suspected and goes alone from then on, after the same connection has carried something else.
//! So does what is new of the same source, until something of the source is acknowledged that is as large, or
//! several smaller messages in a row are: fresh messages would always come before the suspect. A suspect over which the connection is lost again is halved, down to one record; one record that costs so many
//! connections in a row is refused. What is acknowledged is cleared, and so is the count where a broker
//! is down or flaps: a connection that fails with nothing suspicious under way proves nothing. Where every part of
//! what was lost is acknowledged, its size was the cause.

use std::collections::HashMap;

use millrace_tags::{Parcel, Records};

use super::numbers::{Line, Numbers};

/// After so many losses with it under way, a message is suspected.
const LOSSES_MAX: u32 = 3;

/// So many messages of a source in a row clear it, even where each is smaller than what was lost: after an outage
/// it sends large ones, then small ones for ever.
const ACKED_ENOUGH: u32 = 8;

/// Suspects that are remembered; what is beyond is suspected later.
const SUSPECTS_MAX: usize = 1024;

#[derive(Debug)]
struct Suspect {
    numbers: Numbers,
    /// Connections that were lost with it under way.
    losses: u32,
    /// Of these in a row, with nothing but it, when it was a single record.
    alone: u32,
}

/// How a parcel may go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// As it is.
    Free,
    /// Only so many of its records: a suspect follows.
    Before(usize),
    /// Only so many of its records, and with nothing else under way.
    Alone(usize),
}

/// What a loss over a message that went alone means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is certain yet.
    TryAgain,
    /// It is refused, after so many losses.
    Refused(u32),
}

/// The suspects of one uplink.
#[derive(Debug)]
pub(super) struct Suspects {
    poison_after: u32,
    list: Vec<Suspect>,
    /// What each source has cost, until it is cleared.
    lines: HashMap<Line, Cost>,
    /// What was halved last of each source.
    splits: HashMap<Line, Split>,
}

/// Connections that were lost with something of a source under way.
#[derive(Debug)]
struct Cost {
    losses: u32,
    /// The largest message of it at that time, the smallest of these.
    bytes: usize,
    /// Smaller messages of it that were acknowledged since.
    acked: u32,
}

impl Cost {
    fn is_suspected(&self) -> bool {
        self.losses >= LOSSES_MAX
    }
}

/// What was halved.
#[derive(Debug)]
struct Split {
    numbers: Numbers,
    /// So many of them are not acknowledged.
    left: u64,
    /// The largest message that was.
    bytes: usize,
}

impl Suspects {
    pub(super) fn new(poison_after: u32) -> Self {
        Self {
            poison_after,
            list: Vec::new(),
            lines: HashMap::new(),
            splits: HashMap::new(),
        }
    }

    /// Whether anything goes alone.
    pub(super) fn is_searching(&self) -> bool {
        self.list.iter().any(|s| s.losses >= LOSSES_MAX)
            || self.lines.values().any(Cost::is_suspected)
    }

    pub(super) fn advise(&self, parcel: &Parcel) -> Advice {
        if self.list.is_empty() && self.lines.is_empty() {
            return Advice::Free;
        }
        let numbers = Numbers::of(parcel);
        // Each event is a message of its own.
        let most = match &parcel.records {
            Records::Samples(_) => usize::MAX,
            Records::Events(_) => 1,
        };
        let suspected = self
            .list
            .iter()
            .filter(|s| s.losses >= LOSSES_MAX && s.numbers.meets(&numbers))
            .min_by_key(|s| s.numbers.first);
        let Some(Suspect { numbers: n, .. }) = suspected else {
            let cost = self.lines.get(&numbers.line());
            return match cost.is_some_and(Cost::is_suspected) {
                true => Advice::Alone(parcel.records.len().min(most)),
                false => Advice::Free,
            };
        };
        if n.first > numbers.first {
            return Advice::Before((n.first - numbers.first) as usize);
        }
        let records = n.last.min(numbers.last) - numbers.first + 1;
        Advice::Alone((records as usize).min(most))
    }

    /// They were acknowledged, in messages of at most so many bytes. `Some`: what was lost before came in parts
    /// of at most so many bytes, and was too large as a whole.
    pub(super) fn acked(&mut self, numbers: &Numbers, bytes: usize) -> Option<usize> {
        self.clear(numbers);
        if self.lines.is_empty() && self.splits.is_empty() {
            return None;
        }
        let line = numbers.line();
        if let Some(cost) = self.lines.get_mut(&line) {
            cost.acked += 1;
            if bytes >= cost.bytes || cost.acked >= ACKED_ENOUGH {
                self.lines.remove(&line);
            }
        }
        let split = self.splits.get_mut(&line)?;
        if split.numbers.meets(numbers) {
            let (first, last) = (split.numbers.first, split.numbers.last);
            let common = last.min(numbers.last) - first.max(numbers.first) + 1;
            split.left = split.left.saturating_sub(common);
            split.bytes = split.bytes.max(bytes);
        }
        if split.left > 0 {
            return None;
        }
        let bytes = split.bytes;
        // Whatever was lost before was too large, too.
        self.splits.clear();
        self.lines.clear();
        Some(bytes)
    }

    fn clear(&mut self, numbers: &Numbers) {
        if self.list.is_empty() {
            return;
        }
        let mut rest = Vec::new();
        self.list.retain(|s| {
            if !s.numbers.meets(numbers) {
                return true;
            }
            if s.numbers.first < numbers.first {
                rest.push((s.numbers.with(s.numbers.first, numbers.first - 1), s.losses));
            }
            if s.numbers.last > numbers.last {
                rest.push((s.numbers.with(numbers.last + 1, s.numbers.last), s.losses));
            }
            false
        });
        for (numbers, losses) in rest {
            self.add(numbers, losses);
        }
    }

    /// The broker closed the connection with these under way, in messages of at most so many bytes.
    pub(super) fn lost(&mut self, under_way: &[(Numbers, usize)]) {
        let known = self.list.len();
        let mut lines: HashMap<Line, usize> = HashMap::new();
        for (numbers, bytes) in under_way {
            let largest = lines.entry(numbers.line()).or_default();
            *largest = (*largest).max(*bytes);
        }
        for (line, bytes) in lines {
            let new = Cost {
                losses: 0,
                bytes,
                acked: 0,
            };
            let cost = self.lines.entry(line).or_insert(new);
            cost.losses += 1;
            cost.bytes = cost.bytes.min(bytes);
            cost.acked = 0;
        }
        for (numbers, _) in under_way {
            let mut free = vec![numbers.clone()];
            for suspect in &mut self.list[..known] {
                if suspect.numbers.meets(numbers) {
                    suspect.losses += 1;
                    free = free
                        .iter()
                        .flat_map(|n| n.without(&suspect.numbers))
                        .collect();
                }
            }
            for numbers in free {
                self.add(numbers, 1);
            }
        }
    }

    /// The broker closed a connection that was good until it got these, and nothing else was under way.
    pub(super) fn lost_alone(&mut self, numbers: &Numbers) -> Verdict {
        let suspected = |s: &Suspect| s.losses >= LOSSES_MAX && s.numbers.meets(numbers);
        let suspect = match self.list.iter().position(suspected) {
            Some(at) => self.list.swap_remove(at),
            // It went alone for what its source had cost before, whatever else is known of parts of it.
            None => {
                self.clear(numbers);
                Suspect {
                    numbers: numbers.clone(),
                    losses: LOSSES_MAX,
                    alone: 0,
                }
            }
        };
        let losses = suspect.losses + 1;
        let (first, last) = (suspect.numbers.first, suspect.numbers.last);
        // What did not go along this time stays suspected.
        for rest in suspect.numbers.without(numbers) {
            self.add(rest, suspect.losses);
        }
        let tried = numbers.with(numbers.first.max(first), numbers.last.min(last));
        if tried.count() > 1 {
            let split = Split {
                numbers: tried.clone(),
                left: tried.count(),
                bytes: 0,
            };
            self.splits.insert(tried.line(), split);
            let middle = tried.first + tried.count() / 2 - 1;
            self.add(tried.with(tried.first, middle), losses);
            self.add(tried.with(middle + 1, tried.last), losses);
            return Verdict::TryAgain;
        }
        // It is not the size of several together.
        self.splits.remove(&tried.line());
        let alone = suspect.alone + 1;
        if alone >= self.poison_after {
            return Verdict::Refused(losses);
        }
        self.list.push(Suspect {
            numbers: tried,
            losses,
            alone,
        });
        Verdict::TryAgain
    }

    /// There is no connection, or it was lost for another reason: what was counted proves nothing.
    pub(super) fn no_connection(&mut self) {
        for suspect in &mut self.list {
            suspect.alone = 0;
        }
    }

    /// Nothing of this source is looked for any more.
    pub(super) fn forget(&mut self, source: &Numbers) {
        let line = source.line();
        self.list.retain(|s| s.numbers.line() != line);
        self.lines.remove(&line);
        self.splits.remove(&line);
    }

    fn add(&mut self, numbers: Numbers, losses: u32) {
        if self.list.len() < SUSPECTS_MAX {
            self.list.push(Suspect {
                numbers,
                losses,
                alone: 0,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millrace_tags::{
        Clock, Lane, LogKind, Moment, Sample, StreamId, TagId, TagTable, TestClock, Value,
    };

    use super::*;

    const POISON_AFTER: u32 = 5;

    fn parcel(first: u64, last: u64) -> Parcel {
        let count = (last - first + 1) as usize;
        Parcel {
            source: "pump".into(),
            stream: StreamId(Default::default()),
            log: LogKind::Data,
            lane: Lane::Backlog,
            first_seq: first,
            timebase: TestClock::new(1, None).timebase(),
            tags: Arc::new(TagTable::default()),
            records: Records::Samples(vec![
                Sample::good(TagId(0), Value::I64(1), Moment(0));
                count
            ]),
        }
    }

    fn numbers(first: u64, last: u64) -> Numbers {
        Numbers::of(&parcel(first, last))
    }

    fn suspects(first: u64, last: u64) -> Suspects {
        let mut suspects = Suspects::new(POISON_AFTER);
        for _ in 0..LOSSES_MAX {
            suspects.lost(&[(numbers(first, last), 100)]);
        }
        suspects
    }

    /// Offers 1..=last as the outbox does, to a broker that hangs up on `culprit`. Returns what was found
    /// and the losses that it took.
    fn search(last: u64, culprit: u64) -> (Numbers, u32) {
        let mut suspects = suspects(1, last);
        let mut losses = LOSSES_MAX;
        let mut next = 1;
        loop {
            let Advice::Alone(records) = suspects.advise(&parcel(next, last)) else {
                panic!("all of it is suspected");
            };
            let sent = numbers(next, next + records as u64 - 1);
            if !(sent.first..=sent.last).contains(&culprit) {
                suspects.acked(&sent, 1);
                next = sent.last + 1;
                continue;
            }
            losses += 1;
            if let Verdict::Refused(tries) = suspects.lost_alone(&sent) {
                assert_eq!(tries, losses);
                return (sent, losses);
            }
        }
    }

    #[test]
    fn the_culprit_is_found_to_the_record() {
        for culprit in [1, 2, 777, 1999, 2000] {
            let (found, losses) = search(2000, culprit);
            assert_eq!((found.first, found.last), (culprit, culprit));
            assert!(losses <= LOSSES_MAX + 11 + POISON_AFTER, "{losses}");
        }
    }

    #[test]
    fn several_records_are_never_refused_for_one_of_them() {
        let mut suspects = Suspects::new(2);
        suspects.lost(&[(numbers(7, 7), 100)]);
        // The source has cost so much by now that whatever is new of it goes alone.
        for first in [20, 30] {
            suspects.lost(&[(numbers(first, first), 100)]);
        }
        assert_eq!(suspects.advise(&parcel(7, 11)), Advice::Alone(5));
        assert_eq!(suspects.lost_alone(&numbers(7, 11)), Verdict::TryAgain);
        assert_eq!(suspects.advise(&parcel(7, 11)), Advice::Alone(2));
        assert_eq!(suspects.lost_alone(&numbers(7, 8)), Verdict::TryAgain);
        assert_eq!(suspects.lost_alone(&numbers(7, 7)), Verdict::TryAgain);
        let refused = suspects.lost_alone(&numbers(7, 7));
        assert!(matches!(refused, Verdict::Refused(_)), "{refused:?}");
    }

    #[test]
    fn what_is_acknowledged_is_cleared() {
        let mut suspects = suspects(1, 10);
        suspects.acked(&numbers(4, 6), 100);
        assert_eq!(suspects.advise(&parcel(4, 6)), Advice::Free);
        assert_eq!(suspects.advise(&parcel(1, 10)), Advice::Alone(3));
        assert_eq!(suspects.advise(&parcel(4, 10)), Advice::Before(3));
        suspects.acked(&numbers(1, 10), 100);
        assert!(!suspects.is_searching());
    }

    #[test]
    fn small_messages_in_between_do_not_clear_a_source_that_loses_large_ones() {
        let mut suspects = Suspects::new(POISON_AFTER);
        for first in [1, 12, 23] {
            assert_eq!(suspects.advise(&parcel(first, first + 9)), Advice::Free);
            suspects.lost(&[(numbers(first, first + 9), 100)]);
            suspects.acked(&numbers(first + 10, first + 10), 40);
        }
        assert_eq!(suspects.advise(&parcel(34, 43)), Advice::Alone(10));
        // Others of the same size are taken, or many small ones without a loss.
        suspects.acked(&numbers(34, 43), 100);
        assert_eq!(suspects.advise(&parcel(44, 53)), Advice::Free);
        for _ in 0..LOSSES_MAX {
            suspects.lost(&[(numbers(44, 53), 100)]);
        }
        for number in 60..60 + u64::from(ACKED_ENOUGH) {
            assert_eq!(suspects.advise(&parcel(number, number)), Advice::Alone(1));
            suspects.acked(&numbers(number, number), 40);
        }
        assert_eq!(suspects.advise(&parcel(70, 70)), Advice::Free);
    }

    #[test]
    fn two_sources_are_halved_at_once() {
        let mut suspects = suspects(1, 10);
        let other = |first, last| {
            Numbers::of(&Parcel {
                source: "fan".into(),
                ..parcel(first, last)
            })
        };
        suspects.lost_alone(&numbers(1, 10));
        suspects.lost_alone(&other(1, 4));
        assert_eq!(suspects.acked(&numbers(1, 5), 60), None);
        assert_eq!(suspects.acked(&numbers(6, 10), 50), Some(60));
    }

    #[test]
    fn a_loss_now_and_then_suspects_nobody() {
        let mut suspects = Suspects::new(POISON_AFTER);
        for _ in 0..20 {
            suspects.lost(&[(numbers(1, 10), 100), (numbers(11, 20), 100)]);
            suspects.lost(&[(numbers(1, 10), 100)]);
            assert_eq!(suspects.advise(&parcel(1, 10)), Advice::Free);
            suspects.acked(&numbers(1, 20), 100);
        }
    }

    #[test]
    fn a_broker_that_is_down_in_between_makes_no_poison() {
        let mut suspects = suspects(7, 7);
        for _ in 0..50 {
            for _ in 1..POISON_AFTER {
                assert_eq!(suspects.lost_alone(&numbers(7, 7)), Verdict::TryAgain);
            }
            suspects.no_connection();
        }
        assert_eq!(suspects.advise(&parcel(7, 7)), Advice::Alone(1));
    }

    #[test]
    fn what_comes_in_parts_was_too_large() {
        let mut suspects = suspects(1, 10);
        suspects.lost_alone(&numbers(1, 10));
        suspects.lost_alone(&numbers(1, 5));
        assert_eq!(suspects.acked(&numbers(1, 2), 40), None);
        assert_eq!(suspects.acked(&numbers(3, 5), 60), Some(60));
        assert_eq!(suspects.acked(&numbers(6, 10), 90), None);
    }

    #[test]
    fn one_bad_record_says_nothing_of_sizes() {
        let mut suspects = suspects(1, 2);
        suspects.lost_alone(&numbers(1, 2));
        assert_eq!(suspects.acked(&numbers(2, 2), 40), None);
        suspects.lost_alone(&numbers(1, 1));
        assert_eq!(suspects.acked(&numbers(1, 1), 40), None);
    }
}
