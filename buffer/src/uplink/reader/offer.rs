//! What an uplink is offered next: records of the tail, or of chunks that were loaded.

use millrace_tags::{DropReason, Records};

use super::Reader;
use crate::chunk::{Run, Shared};
use crate::log::{Batch, Content, Log};
use crate::routes::Routes;
use crate::uplink::Taken;
use crate::uplink::marks::Marks;

/// How many batches a parcel gathers its records from at most.
const GATHER_BATCHES: u64 = 64;

/// How far [`Reader::next_live`] looks past batches that may not be offered yet.
const LOOK_AHEAD_BATCHES: u64 = 4096;

impl Reader {
    /// The next records of the tail.
    pub(in crate::uplink) fn next_live(
        &mut self,
        log: &Log,
        routes: &Routes,
        budget: usize,
    ) -> Option<Taken> {
        self.live = self.live.max(log.oldest());
        let end = log.newest().min(self.live + LOOK_AHEAD_BATCHES);
        let mut blocked = false;
        for no in self.live..=end {
            let batch = log.batch(no)?;
            if batch.chunk > 0 && batch.chunk <= self.begins {
                // It has no marks that say so: it is not for this uplink.
                self.live = no + 1;
                continue;
            }
            if !routes.takes(batch.line.source) {
                self.pass_over(batch);
                if !blocked {
                    self.live = no + 1;
                }
                continue;
            }
            let limit = log.limit(batch.line);
            let marks = self.marks.entry(batch.line).or_default();
            let Some((first, last)) = marks.taken.first_free(batch.first, batch.last) else {
                if !blocked {
                    self.live = no + 1;
                }
                continue;
            };
            if first > limit {
                blocked = true;
                continue;
            }
            let last = last.min(limit);
            return Some(take(marks, log, batch, first, last, budget));
        }
        None
    }

    /// Settles what the uplink's routes do not ask for.
    fn pass_over(&mut self, batch: &Batch) {
        let marks = self.marks.entry(batch.line).or_default();
        let free = marks.taken.free(batch.first, batch.last);
        marks.taken.insert(batch.first, batch.last);
        let void = matches!(batch.content, Content::Void(_));
        for (first, last) in free {
            self.ack(batch.line, first, last, void, Some(DropReason::NotRouted));
        }
    }

    /// The next records of the chunks that were loaded.
    pub(in crate::uplink) fn next_loaded(
        &mut self,
        routes: &Routes,
        budget: usize,
    ) -> Option<Taken> {
        loop {
            let chunk = self.loaded.front_mut()?;
            let Some(&(line, first, last, void)) = chunk.directory.entries.get(chunk.at) else {
                self.loaded.pop_front();
                continue;
            };
            let marks = self.marks.entry(line).or_default();
            let Some((a, b)) = marks.taken.first_free(first, last) else {
                chunk.at += 1;
                chunk.runs.pop_front();
                continue;
            };
            if !routes.takes(line.source) {
                marks.taken.insert(a, b);
                self.ack(line, a, b, void.is_some(), Some(DropReason::NotRouted));
                continue;
            }
            let b = match void {
                Some(_) => b,
                None => b.min(a + budget as u64 - 1),
            };
            marks.taken.insert(a, b);
            let records = match void {
                Some(reason) => Err(reason),
                None => Ok(cut_run(chunk.runs.front(), first, (a, b))),
            };
            return Some(Taken {
                line,
                first: a,
                last: b,
                batch: 0,
                chunk: chunk.directory.number,
                timebase: chunk.timebase,
                tags: Some(chunk.tags.clone()),
                records,
            });
        }
    }
}

/// Takes `first..=last` of a batch, cut to the budget; goes on with the batches behind it where they
/// continue the line.
fn take(
    marks: &mut Marks,
    log: &Log,
    batch: &Batch,
    first: u64,
    last: u64,
    budget: usize,
) -> Taken {
    let mut taken = Taken {
        line: batch.line,
        first,
        last,
        batch: batch.no,
        chunk: 0,
        timebase: batch.timebase,
        tags: None,
        records: Err(DropReason::Newest),
    };
    let shared = match &batch.content {
        Content::Void(reason) => {
            taken.records = Err(*reason);
            marks.taken.insert(first, last);
            return taken;
        }
        Content::Records(shared) => shared,
    };
    taken.last = last.min(first + budget as u64 - 1);
    let mut records = copy(shared, batch.positions(first, taken.last));
    let limit = log.limit(batch.line);
    for no in batch.no + 1..=log.newest().min(batch.no + GATHER_BATCHES) {
        let Some(next) = log.batch(no) else { break };
        let room = budget as u64 - (taken.last - first + 1);
        if room == 0 || taken.last < batch.last {
            break;
        }
        if next.line != batch.line {
            continue;
        }
        let Content::Records(shared) = &next.content else {
            break;
        };
        let fits = next.first == taken.last + 1 && next.timebase == batch.timebase;
        let last = next.last.min(limit).min(taken.last + room);
        if !fits || last < next.first || marks.taken.overlap(next.first, last) > 0 {
            break;
        }
        extend(&mut records, shared, next.positions(next.first, last));
        taken.last = last;
        if last < next.last {
            break;
        }
    }
    marks.taken.insert(first, taken.last);
    taken.records = Ok(records);
    taken
}

fn copy(shared: &Shared, positions: std::ops::Range<usize>) -> Records {
    match shared {
        Shared::Samples(samples) => Records::Samples(samples[positions].to_vec()),
        Shared::Events(events) => Records::Events(events[positions].to_vec()),
    }
}

fn extend(records: &mut Records, shared: &Shared, positions: std::ops::Range<usize>) {
    match (records, shared) {
        (Records::Samples(out), Shared::Samples(samples)) => {
            out.extend_from_slice(&samples[positions]);
        }
        (Records::Events(out), Shared::Events(events)) => {
            out.extend_from_slice(&events[positions]);
        }
        // A log holds records of one kind.
        _ => {}
    }
}

/// The numbers `part` of a run that holds the numbers from `first` on.
fn cut_run(run: Option<&Option<Run>>, first: u64, part: (u64, u64)) -> Records {
    let run = run.and_then(Option::as_ref);
    let rows = (part.0 - first) as usize..(part.1 - first + 1) as usize;
    run.and_then(|run| run.cut(rows))
        .unwrap_or(Records::Samples(Vec::new()))
}
