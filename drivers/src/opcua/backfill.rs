//! Gaps: where values may have come and did not reach us, and what is done until they are filled.
//!
//! A gap of an item begins after the last value that was handed over and ends with the first that the server sends
//! again. From that one on the item's values are held, until history has brought what lies before them:
//! exactly once, in order. A gap is proved whole when history shows both its ends; where it does not, or
//! where there is no history, a sample of quality bad and reason `lost` stands for what nobody can give
//! back, and then the held values follow.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_tags::{Moment, Quality, Reason, Receipt, Sample, Timestamp};
use opcua::types::ByteString;
use tokio::time::Instant;

use super::delivered::{Cursor, print};
use super::history::{self, Span};

/// Items whose gaps begin this close to each other are asked for in one request, which has one span.
const TOGETHER_NS: i64 = 2_000_000_000;

/// How often a page is asked for again: where the server failed, or has not stored its newest values yet.
const TRIES_MAX: u32 = 5;

/// Held values of all items together; beyond it gaps stay open for good, and are marked.
const HELD_MAX: usize = 100_000;

/// Gaps of a session.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// By place.
    gaps: BTreeMap<usize, Gap>,
    /// Of notifications whose values are held, at least some of them.
    receipts: Vec<Receipt>,
    held: usize,
}

#[derive(Debug)]
struct Gap {
    /// What was handed over before it.
    after: Cursor,
    /// The item's values may have been bad meanwhile: one that has not changed is shown again.
    was_bad: bool,
    /// The first value after it.
    until: Option<Timestamp>,
    /// Values that came since, oldest first.
    held: Vec<Sample>,
    filling: Filling,
}

/// How far history has been read.
#[derive(Debug, Default)]
struct Filling {
    /// A request is under way.
    asked: bool,
    /// The server has said that the node has a history.
    known: bool,
    /// Whether history has shown the value before the gap.
    anchored: bool,
    /// Whether anything was handed over from history, or marked.
    begun: bool,
    /// Where the next page begins, if not at the gap's own beginning.
    from: Option<Timestamp>,
    /// Where the server wants to go on, and the span that this belongs to.
    continuation: Option<(Span, ByteString)>,
    tries: u32,
    not_before: Option<Instant>,
}

/// Pages to ask for in one request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) span: Span,
    pub(super) places: Vec<(usize, ByteString, bool)>,
}

impl Gaps {
    /// Something may be missing of this item, after what was handed over of it.
    pub(super) fn open(&mut self, place: usize, after: Cursor, was_bad: bool) {
        if !after.seen {
            return;
        }
        let gap = self.gaps.entry(place).or_insert_with(|| Gap {
            after: after.clone(),
            was_bad,
            until: None,
            held: Vec::new(),
            filling: Filling::default(),
        });
        // What was held before is still held; the gap ends later now, and is one in the middle, too.
        if let Some(mark) = gap.held.last().map(lost) {
            gap.held.push(mark);
            self.held += 1;
        }
        gap.after = after;
        gap.was_bad |= was_bad;
        gap.until = None;
        gap.filling = Filling::default();
    }

    /// Receipts of an earlier session mean nothing to this one.
    pub(super) fn forget_receipts(&mut self) {
        self.receipts.clear();
    }

    /// Requests of an earlier connection are not answered any more.
    pub(super) fn forget_requests(&mut self) {
        for gap in self.gaps.values_mut() {
            gap.filling.asked = false;
            gap.filling.continuation = None;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.gaps.is_empty()
    }

    /// Takes a sample of an item with a gap; what may be handed over now goes to `out`. Returns the sample where it is
    /// known already and the item's values were bad meanwhile.
    pub(super) fn offer(
        &mut self,
        place: usize,
        sample: Sample,
        out: &mut Vec<(usize, Sample)>,
    ) -> Option<Sample> {
        let Some(gap) = self.gaps.get_mut(&place) else {
            out.push((place, sample));
            return None;
        };
        if gap.until.is_none() {
            match gap.end(&sample) {
                End::Nothing => {
                    let was_bad = gap.was_bad;
                    self.close(place, out);
                    return was_bad.then_some(sample);
                }
                End::Unknown => {
                    gap.hold(sample, &mut self.held);
                    self.give_up(place, out);
                    return None;
                }
                End::At(time) => gap.until = Some(time),
                // The server itself has nothing yet, or bad news that has no time.
                End::Later => {}
            }
        }
        gap.hold(sample, &mut self.held);
        if self.held > HELD_MAX {
            self.give_up_all(out);
        }
        None
    }

    /// The receipt of a notification, unless some of its values are held.
    pub(super) fn receipt(&mut self, receipt: Receipt) -> Option<Receipt> {
        if self.held == 0 {
            return Some(receipt);
        }
        self.receipts.push(receipt);
        None
    }

    /// Receipts that have waited, once nothing is held any more.
    pub(super) fn free_receipts(&mut self) -> Vec<Receipt> {
        if self.held > 0 {
            return Vec::new();
        }
        std::mem::take(&mut self.receipts)
    }

    /// What to ask for next: at most so many nodes.
    pub(super) fn next_request(&mut self, nodes_max: usize, now: Instant) -> Option<Request> {
        let (span, continued) = self.gaps.values().find_map(|gap| gap.wants(now))?;
        let mut request = Request {
            span,
            places: Vec::new(),
        };
        for (&place, gap) in &mut self.gaps {
            let Some((own, own_continued)) = gap.wants(now) else {
                continue;
            };
            let fits = match continued {
                true => own_continued && own == span,
                false => !own_continued && (own.from.0 - span.from.0).abs() <= TOGETHER_NS,
            };
            if !fits || request.places.len() >= nodes_max.max(1) {
                continue;
            }
            request.span.from = request.span.from.min(own.from);
            request.span.until = request.span.until.max(own.until);
            gap.filling.asked = true;
            let continuation = gap.filling.continuation.take();
            let known = gap.filling.known;
            let continuation = continuation.map(|(_, point)| point).unwrap_or_default();
            request.places.push((place, continuation, known));
        }
        Some(request)
    }

    /// When the next page may be asked for, where some gap waits for that.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let ready = self.gaps.values().filter(|gap| gap.until.is_some());
        let waiting = ready.filter(|gap| !gap.filling.asked);
        waiting.filter_map(|gap| gap.filling.not_before).min()
    }

    /// A page of the item's history, oldest first, of the span that was asked for. Returns how many of its values
    /// nobody else had.
    pub(super) fn filled(
        &mut self,
        place: usize,
        values: Vec<Sample>,
        span: Span,
        continuation: ByteString,
        out: &mut Vec<(usize, Sample)>,
    ) -> u64 {
        let Some(gap) = self.gaps.get_mut(&place) else {
            return 0;
        };
        let Some(until) = gap.until else {
            return 0;
        };
        let mut brought = 0;
        let newest = values.iter().filter_map(|sample| sample.source_time).max();
        gap.filling.known = true;
        let mut fresh = Vec::new();
        for sample in values {
            let Some(time) = sample.source_time else {
                continue;
            };
            if gap.after.holds(&sample) {
                gap.filling.anchored = true;
            } else if gap.after.time.is_none_or(|after| time >= after) && time <= until {
                let before = gap.held.len();
                let seen = (sample.source_time, print(&sample));
                gap.held
                    .retain(|held| (held.source_time, print(held)) != seen);
                self.held -= before - gap.held.len();
                brought += u64::from(before == gap.held.len());
                gap.after.take(&sample);
                fresh.push((place, sample));
            }
        }
        let reached = newest.is_some_and(|newest| newest >= until);
        if (reached || !fresh.is_empty()) && !gap.filling.begun {
            gap.filling.begun = true;
            if !gap.filling.anchored {
                gap.mark(place, &fresh, out);
            }
        }
        out.append(&mut fresh);
        gap.filling.asked = false;
        if reached {
            let before = gap.held.len();
            gap.held.retain(|held| !is_lost(held));
            self.held -= before - gap.held.len();
            self.close(place, out);
        } else if !continuation.is_null_or_empty() {
            gap.filling.continuation = Some((span, continuation));
        } else if newest.is_some_and(|newest| newest > span.from) {
            // Some servers end a page without a word of what follows.
            gap.filling.from = newest;
        } else {
            self.not_yet(place, history::LAG, out);
        }
        brought
    }

    /// The item has no history that could be read.
    pub(super) fn give_up(&mut self, place: usize, out: &mut Vec<(usize, Sample)>) {
        if let Some(gap) = self.gaps.get_mut(&place) {
            gap.mark(place, &[], out);
        }
        self.close(place, out);
    }

    /// The page did not come, or the newest values are not in it: it is asked for again, a few times.
    pub(super) fn not_yet(
        &mut self,
        place: usize,
        pause: Duration,
        out: &mut Vec<(usize, Sample)>,
    ) {
        let Some(gap) = self.gaps.get_mut(&place) else {
            return;
        };
        gap.filling.asked = false;
        gap.filling.tries += 1;
        gap.filling.not_before = Some(Instant::now() + pause);
        if gap.filling.tries >= TRIES_MAX {
            self.give_up(place, out);
        }
    }

    /// Nobody will fill the gaps whose ends are known.
    pub(super) fn give_up_all(&mut self, out: &mut Vec<(usize, Sample)>) {
        let ended = self.gaps.iter().filter(|(_, gap)| gap.until.is_some());
        let places: Vec<usize> = ended.map(|(&place, _)| place).collect();
        for place in places {
            self.give_up(place, out);
        }
    }

    /// The gap is over: what was held follows.
    fn close(&mut self, place: usize, out: &mut Vec<(usize, Sample)>) {
        if let Some(gap) = self.gaps.remove(&place) {
            self.held -= gap.held.len();
            out.extend(gap.held.into_iter().map(|sample| (place, sample)));
        }
    }
}

/// What the first sample after a gap says of its end.
enum End {
    /// Nothing changed meanwhile.
    Nothing,
    /// It ends here.
    At(Timestamp),
    /// It cannot be said: values without times, or a clock that was set back.
    Unknown,
    /// A later sample will say.
    Later,
}

impl Gap {
    fn end(&self, sample: &Sample) -> End {
        if self.after.holds(sample) && self.held.is_empty() {
            return End::Nothing;
        }
        match (self.after.time, sample.source_time) {
            (_, None) if matches!(sample.quality, Quality::Bad(_)) => End::Later,
            (Some(after), Some(time)) if time >= after => End::At(time),
            _ => End::Unknown,
        }
    }

    fn hold(&mut self, sample: Sample, held: &mut usize) {
        let seen = (sample.source_time, print(&sample));
        let known = |held: &Sample| (held.source_time, print(held)) == seen;
        if sample.source_time.is_some() && self.held.iter().any(known) {
            // What has not changed since has no gap behind it.
            if let [.., last, mark] = self.held.as_slice()
                && is_lost(mark)
                && known(last)
            {
                self.held.pop();
                *held -= 1;
            }
            return;
        }
        *held += 1;
        self.held.push(sample);
    }

    /// The span that history should be asked for, and whether the server wants to go on in it.
    fn wants(&self, now: Instant) -> Option<(Span, bool)> {
        let until = self.until?;
        if self.filling.asked || self.filling.not_before.is_some_and(|at| now < at) {
            return None;
        }
        if let Some((span, _)) = &self.filling.continuation {
            return Some((*span, true));
        }
        let from = self.filling.from.or(self.after.time)?;
        Some((Span { from, until }, false))
    }

    /// A bad sample in place of what is lost, with the time of arrival of what follows it.
    fn mark(&self, place: usize, fresh: &[(usize, Sample)], out: &mut Vec<(usize, Sample)>) {
        let next = fresh.first().map(|(_, sample)| sample);
        if let Some(next) = next.or(self.held.first()) {
            out.push((place, lost(next)));
        }
    }
}

fn is_lost(sample: &Sample) -> bool {
    sample.quality.reason() == Some(Reason::Lost)
}

fn lost(next: &Sample) -> Sample {
    let at: Moment = next.gateway_time;
    Sample::bad(next.tag, Reason::Lost, at)
}

#[cfg(test)]
mod tests;
