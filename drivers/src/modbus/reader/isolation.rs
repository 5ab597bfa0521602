//! The search for the illegal points of a refused request.
//!
//! The first of them is found by asking for ever shorter beginnings of what was refused: each answer
//! halves what is left, and what is answered is delivered at once. The rest is then read as one, and searched
//! in its turn where it is refused. So a point that the device does not have costs the refusal by which it is
//! met, and at most `ceil(log2 n)` requests more than a plan that knows it, where n is how many places the
//! refused request held. Where points are missing in a row, the next one is asked for alone as long as that keeps to
//! this budget.
//!
//! A point is only called illegal when it was refused alone. Where every part is answered and the whole is
//! not, the device gives less at once ([`Limits::refused`]), or does not allow to read across a place
//! ([`Barrier`]).

use std::ops::Range;

use millrace_tags::{Moment, Reason};

use super::cycle::Cycle;
use super::is_illegal;
use super::points::{Item, Points};
use crate::SessionError;
use crate::modbus::exchange::Exchange;
use crate::modbus::plan::{Barrier, Limits, plan_around, span};
use crate::modbus::reply::{Answer, Reply};

/// What a read taught.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) illegal: Vec<(usize, Moment)>,
    pub(super) barriers: Vec<Barrier>,
    /// Points whose value and scale must be asked for by themselves.
    pub(super) apart: Vec<usize>,
}

/// The search, with what it needs of the reader.
pub(super) struct Isolation<'a, E> {
    pub(super) points: &'a Points,
    pub(super) line: &'a mut E,
    pub(super) cycle: &'a mut Cycle,
    pub(super) findings: &'a mut Findings,
    pub(super) limits: &'a mut Limits,
    /// What no request may read across.
    pub(super) walls: &'a [Barrier],
}

/// What came of a request.
enum Outcome {
    Answered,
    Refused(Moment),
    /// Nothing that says anything of the addresses.
    Spoilt,
}

/// A row of items, as places: those that are read from the same addresses are missing together.
struct Row<'r> {
    items: &'r [usize],
    /// Where each place begins in `items`, and the end.
    bounds: Vec<usize>,
}

/// Requests that the search of one refused request may cost.
struct Budget {
    a_hole: usize,
    holes: usize,
    spent: usize,
}

impl<E: Exchange> Isolation<'_, E> {
    /// Delivers the items of `row`, a request for which was refused at `refused_at`.
    pub(super) async fn resolve(
        &mut self,
        row: &[usize],
        refused_at: Moment,
    ) -> Result<(), SessionError> {
        let mut budget = Budget {
            a_hole: halvings(Row::new(self.points, row).places()),
            holes: 0,
            spent: 0,
        };
        let mut refused = vec![(row.to_vec(), refused_at)];
        // Ends because each search is done with one place at least.
        while let Some((row, refused_at)) = refused.pop() {
            let done = self.search(&row, refused_at, &mut budget).await?;
            let walls: Vec<Barrier> = [self.walls, &self.findings.barriers].concat();
            let rest = plan_around(&self.points.specs, &row[done..], self.limits, &walls);
            for request in rest {
                if let Outcome::Refused(at) = self.read(&request.points).await? {
                    refused.push((request.points, at));
                }
            }
        }
        Ok(())
    }

    /// Delivers the beginning of `row` up to the first illegal place, and that; how many items these are. All of
    /// them where no place is illegal.
    async fn search(
        &mut self,
        items: &[usize],
        refused_at: Moment,
        budget: &mut Budget,
    ) -> Result<usize, SessionError> {
        let row = Row::new(self.points, items);
        let first_alone = budget.allows_one_alone(row.places());
        // All before `good` is delivered; `refused` holds something that is not.
        let (mut good, mut refused, mut at) = (0, 0..row.places(), refused_at);
        let mut answered = Vec::new();
        let mut is_conclusive = true;
        while refused.end - good > 1 {
            let middle = match good {
                0 if first_alone && refused.end == row.places() => 1,
                _ => good + (refused.end - good) / 2,
            };
            budget.spent += 1;
            match self.read(row.slice(good..middle)).await? {
                Outcome::Refused(now) => {
                    (refused, at) = (good..middle, now);
                    answered.clear();
                }
                Outcome::Answered => {
                    good = middle;
                    answered.push(middle);
                }
                Outcome::Spoilt => {
                    good = middle;
                    is_conclusive = false;
                }
            }
        }
        let last = good..refused.end;
        if refused != last {
            // What is left may be illegal, and was not asked for alone.
            match self.read(row.slice(last.clone())).await? {
                Outcome::Refused(now) => at = now,
                Outcome::Answered if is_conclusive => {
                    answered.push(last.end);
                    self.explain(&row, refused.start, &answered).await?;
                    return Ok(row.bounds[last.end]);
                }
                Outcome::Answered | Outcome::Spoilt => return Ok(row.bounds[last.end]),
            }
        }
        for item in row.slice(last.clone()) {
            self.miss(*item, at).await?;
        }
        budget.holes += 1;
        Ok(row.bounds[last.end])
    }

    /// An item that was refused alone. What a register scales may still be there in parts.
    async fn miss(&mut self, item: usize, at: Moment) -> Result<(), SessionError> {
        let Item::Whole {
            point,
            parts: Some(parts),
        } = self.points.items[item]
        else {
            self.is_illegal(item, at);
            return Ok(());
        };
        self.findings.apart.push(point);
        let mut answered = 0;
        for part in parts {
            match self.read(&[part]).await? {
                Outcome::Answered => answered += 1,
                Outcome::Refused(at) => self.is_illegal(part, at),
                Outcome::Spoilt => {}
            }
        }
        let table = self.points.specs[item].address().table;
        let count = self.count(&[item]);
        if answered == parts.len() && !self.limits.refused(table, count) {
            let starts = parts.map(|part| self.points.specs[part].start());
            let at = starts[0].max(starts[1]);
            self.findings.barriers.push(Barrier { table, at });
        }
        Ok(())
    }

    fn is_illegal(&mut self, item: usize, at: Moment) {
        let reason = Reason::IllegalAddress;
        self.cycle.fail(self.points, item, reason, at);
        self.findings.illegal.push((item, at));
    }

    /// Finds out why a request was refused from `start` to the last of `ends`, while all parts of it, which end
    /// there, were answered.
    async fn explain(
        &mut self,
        row: &Row<'_>,
        start: usize,
        ends: &[usize],
    ) -> Result<(), SessionError> {
        let Some(&end) = ends.last() else {
            return Ok(());
        };
        let table = self.points.specs[row.items[0]].address().table;
        let count = self.count(row.slice(start..end));
        if self.limits.refused(table, count) {
            return Ok(());
        }
        // It is answered up to the first of these, and refused up to the second.
        let (mut across, mut short) = (0, ends.len() - 1);
        while short - across > 1 {
            let middle = (across + short) / 2;
            match self.ask(row.slice(start..ends[middle]), false).await? {
                Outcome::Answered => across = middle,
                Outcome::Refused(_) => short = middle,
                Outcome::Spoilt => return Ok(()),
            }
        }
        let at = span(&self.points.specs, row.slice(ends[across]..ends[short])).start;
        self.findings.barriers.push(Barrier { table, at });
        Ok(())
    }

    /// How many addresses a request for these items asks for.
    fn count(&self, row: &[usize]) -> u16 {
        let whole = span(&self.points.specs, row);
        u16::try_from(whole.end - whole.start).unwrap_or(u16::MAX)
    }

    /// Reads the items with one request, and delivers them unless it is refused.
    async fn read(&mut self, row: &[usize]) -> Result<Outcome, SessionError> {
        self.ask(row, true).await
    }

    async fn ask(&mut self, row: &[usize], deliver: bool) -> Result<Outcome, SessionError> {
        let Some(step) = self.points.step(row) else {
            return Ok(Outcome::Spoilt);
        };
        let Reply { answer, at } = self.line.exchange(&step.request).await?;
        if let Answer::Exception(code) = answer
            && is_illegal(code)
        {
            return Ok(Outcome::Refused(at));
        }
        step.note(answer, self.limits);
        if deliver {
            step.settle(answer, at, self.points, self.cycle);
        }
        Ok(match answer {
            Answer::Data(_) => Outcome::Answered,
            _ => Outcome::Spoilt,
        })
    }
}

impl<'r> Row<'r> {
    fn new(points: &Points, row: &'r [usize]) -> Self {
        let place = |item: &usize| {
            let spec = &points.specs[*item];
            (spec.start(), spec.end())
        };
        let mut bounds = vec![0];
        for place in row.chunk_by(|a, b| place(a) == place(b)) {
            bounds.push(bounds[bounds.len() - 1] + place.len());
        }
        Self { items: row, bounds }
    }

    fn places(&self) -> usize {
        self.bounds.len() - 1
    }

    fn slice(&self, places: Range<usize>) -> &'r [usize] {
        &self.items[self.bounds[places.start]..self.bounds[places.end]]
    }
}

impl Budget {
    /// Whether the first of so many places can be asked for alone, which is quick where holes stand in a row,
    /// and in vain elsewhere.
    fn allows_one_alone(&self, places: usize) -> bool {
        let in_vain = 1 + halvings(places - 1);
        self.holes > 0 && self.spent + in_vain <= (self.holes + 1) * self.a_hole
    }
}

/// ceil(log2 n).
fn halvings(places: usize) -> usize {
    places.max(1).next_power_of_two().trailing_zeros() as usize
}

#[cfg(test)]
mod tests;
