//! One poll group, read once and again: the plan, and what it learned of the device.
//!
//! Of a request that the device refuses as illegal (exceptions 02, 03) the refused points are found in the same read,
//! and all others delivered ([`isolation`]). They deliver `illegal-address`, are left out of later requests, and
//! are asked for alone now and then. A device that refuses everything (a PLC that is stopped may) is asked
//! for one point with each read, and learned anew when it answers. What was learned is kept for the next
//! session ([`learned`]).
//!
//! A value and the register that scales it are one thing to read ([`Item`]). Where the device refuses to give
//! both at once, each is asked for alone from then on, in one read, and put together at its end, until something that
//! was refused is back, or what was learned is forgotten.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use millrace_tags::{Clock, Moment, Reading, Reason};
use tokio_modbus::ExceptionCode;

use super::address::Table;
use super::exchange::Exchange;
use super::pace::Pace;
use super::plan::{Barrier, Limits, plan_around};
use super::point::Point;
use super::reply::{Answer, Reply};
use super::request::Request;
use crate::{Exclusion, SessionError};
use cycle::Cycle;
use isolation::{Findings, Isolation};
use learned::{Excluded, ILLEGAL_RETRY, Learned, Memory};
use points::{Item, Points, Step};

mod cycle;
mod isolation;
mod learned;
mod points;

/// Illegal addresses tried again in one read, so that a device full of holes is still read in time.
const RETRIES_PER_READ: usize = 4;

/// Reads the points of one poll group. Clones know together what any of them learns.
#[derive(Debug, Clone)]
pub(crate) struct GroupReader {
    points: Points,
    /// Of ranges that must not be read.
    forbidden: Vec<Barrier>,
    learned: Learned,
    memory: Memory,
    /// Of what `learned` was taken over from `memory`.
    version: u64,
    steps: Vec<Step>,
    /// What the steps do not read across.
    walls: Vec<Barrier>,
}

impl GroupReader {
    pub(crate) fn new(points: &[Point], limits: Limits, forbidden: &[Barrier]) -> Self {
        let points = Points::new(points);
        let learned = Learned::new(limits, points.never_whole(&limits, forbidden));
        let mut reader = Self {
            points,
            forbidden: forbidden.to_vec(),
            memory: Memory::new(learned.clone()),
            learned,
            version: 0,
            steps: Vec::new(),
            walls: Vec::new(),
        };
        reader.replan();
        reader
    }

    /// What a read would ask first.
    pub(crate) fn first_request(&self) -> Option<&Request> {
        self.steps.first().map(|step| &step.request)
    }

    /// The time that one read takes of a line.
    pub(crate) fn line_time(&self, pace: &Pace) -> Duration {
        let requests = self.steps.iter().map(|step| &step.request);
        requests.map(|request| request.line_time(pace)).sum()
    }

    /// One sample for each point, in order of arrival.
    pub(crate) async fn read(
        &mut self,
        line: &mut impl Exchange,
        clock: &dyn Clock,
    ) -> Result<Reading, SessionError> {
        self.recall(clock.now());
        let mut cycle = Cycle {
            samples: Vec::with_capacity(self.points.points.len()),
            halves: HashMap::new(),
        };
        let mut findings = Findings::default();
        let mut refused = Vec::new();
        let before = self.learned.limits;
        let (steps, limits, points) = (&self.steps, &mut self.learned.limits, &self.points);
        let requests: Vec<&Request> = steps.iter().map(|step| &step.request).collect();
        let mut take = |index: usize, Reply { answer, at }: Reply<'_>| {
            let step: &Step = &steps[index];
            match answer {
                Answer::Exception(code) if is_illegal(code) => refused.push((index, at)),
                answer => {
                    step.note(answer, limits);
                    step.settle(answer, at, points, &mut cycle);
                }
            }
        };
        line.exchange_all(&requests, &mut take).await?;
        for (index, at) in refused {
            let row: Vec<usize> = steps[index].slots.iter().map(|slot| slot.item).collect();
            let mut isolation = Isolation {
                points: &self.points,
                line,
                cycle: &mut cycle,
                findings: &mut findings,
                limits: &mut self.learned.limits,
                walls: &self.walls,
            };
            isolation.resolve(&row, at).await?;
        }
        let retried = self.retry_excluded(line, clock, &mut cycle).await?;
        let limits_changed = Table::ALL
            .iter()
            .any(|table| self.learned.limits.max(*table) != before.max(*table));
        if self.learn(findings, clock.now()) || retried || limits_changed {
            self.version = self.memory.keep(&self.learned);
            self.replan();
        }
        Ok(Reading {
            samples: cycle.samples,
            ..Reading::default()
        })
    }

    /// What the device taught of its limits, one line each.
    pub(crate) fn remarks(&self) -> impl Iterator<Item = String> {
        Table::ALL.iter().filter_map(|table| {
            let most = self.learned.limits.learned_max(*table)?;
            Some(format!(
                "the device gives at most {most} of {table} in one request"
            ))
        })
    }

    /// The addresses that the device does not have, in order; neighbours are one range.
    pub(crate) fn excluded(&self) -> Vec<Exclusion> {
        let mut excluded = self.learned.excluded.clone();
        let place = |excluded: &Excluded| {
            let spec = &self.points.specs[excluded.item];
            (spec.address().table, spec.start(), spec.end())
        };
        excluded.sort_by_key(place);
        let mut ranges: Vec<(Table, u32, u32, Exclusion)> = Vec::new();
        for one in &excluded {
            let (table, start, end) = place(one);
            match ranges.last_mut() {
                Some((of, _, until, range)) if *of == table && start <= *until => {
                    *until = end.max(*until);
                    range.tags += 1;
                    range.since = range.since.min(one.since);
                    range.retry_at = range.retry_at.min(one.retry_at);
                }
                _ => {
                    let range = Exclusion {
                        addresses: String::new(),
                        cause: None,
                        tags: 1,
                        since: one.since,
                        retry_at: one.retry_at,
                    };
                    ranges.push((table, start, end, range));
                }
            }
        }
        let named = ranges.into_iter().map(|(table, start, end, range)| {
            let addresses = match end - start {
                1 => format!("{table}:{start}"),
                _ => format!("{table}:{start}-{}", end - 1),
            };
            Exclusion { addresses, ..range }
        });
        named.collect()
    }

    /// Takes over what another session has learned, and forgets what is old.
    fn recall(&mut self, now: Moment) {
        let newer = self.memory.newer(self.version);
        let is_news = newer.is_some();
        if let Some((version, learned)) = newer {
            (self.version, self.learned) = (version, learned);
        }
        let forgotten = self.learned.forget(now);
        if forgotten {
            self.rejoin();
        }
        if forgotten || is_news {
            self.replan();
        }
    }

    /// Results for the excluded items; asks again for those whose time has come. Whether any was asked for.
    async fn retry_excluded(
        &mut self,
        line: &mut impl Exchange,
        clock: &dyn Clock,
        cycle: &mut Cycle,
    ) -> Result<bool, SessionError> {
        let refused_all = self.refuses_all();
        let mut regained = Vec::new();
        let mut retries = 0;
        if refused_all {
            // In turn, so that one point that is wrong for good does not hide that the rest is back.
            self.learned.excluded.rotate_left(1);
            self.learned.excluded[0].retry_at = clock.now();
        }
        for excluded in &mut self.learned.excluded {
            let now = clock.now();
            if excluded.retry_at > now || retries == RETRIES_PER_READ {
                cycle.fail(&self.points, excluded.item, Reason::IllegalAddress, now);
                continue;
            }
            retries += 1;
            let Some(step) = self.points.step(&[excluded.item]) else {
                continue;
            };
            let Reply { answer, at } = line.exchange(&step.request).await?;
            match answer {
                Answer::Data(_) => regained.push(excluded.item),
                Answer::Spoilt(_) => {}
                Answer::Exception(_) | Answer::Written => excluded.retry_at = at + ILLEGAL_RETRY,
            }
            step.settle(answer, at, &self.points, cycle);
        }
        let excluded = &mut self.learned.excluded;
        excluded.retain(|e| !regained.contains(&e.item));
        if refused_all && !regained.is_empty() {
            excluded.clear();
            self.learned.barriers.clear();
        }
        if !regained.is_empty() {
            self.rejoin();
        }
        Ok(retries > 0)
    }

    /// From now on asks for values together with their scales again, except where a part of them is not there.
    fn rejoin(&mut self) {
        let limits = &self.learned.limits;
        let mut apart = self.points.never_whole(limits, &self.forbidden);
        let items = &self.points.items;
        apart.extend(
            self.learned
                .excluded
                .iter()
                .filter_map(|e| match items[e.item] {
                    Item::Whole { .. } => None,
                    part => Some(part.point()),
                }),
        );
        self.learned.apart = apart;
    }

    /// Whether every point was found to be illegal.
    fn refuses_all(&self) -> bool {
        let Learned {
            excluded, apart, ..
        } = &self.learned;
        !excluded.is_empty() && excluded.len() == self.points.points.len() + apart.len()
    }

    /// Takes over what a read taught; whether that changes the plan.
    fn learn(&mut self, findings: Findings, now: Moment) -> bool {
        let is_news = !findings.illegal.is_empty()
            || !findings.barriers.is_empty()
            || !findings.apart.is_empty();
        let illegal = findings.illegal.into_iter().map(|(item, at)| Excluded {
            item,
            since: at,
            retry_at: at + ILLEGAL_RETRY,
        });
        self.learned.excluded.extend(illegal);
        self.learned.apart.extend(findings.apart);
        self.learned.barriers.extend(findings.barriers);
        self.learned.barriers.sort_unstable();
        self.learned.barriers.dedup();
        self.learned.believe(now);
        is_news
    }

    fn replan(&mut self) {
        let excluded = &self.learned.excluded;
        let left_out: HashSet<usize> = excluded.iter().map(|e| e.item).collect();
        let asked = self.asked().filter(|item| !left_out.contains(item));
        let chosen: Vec<usize> = asked.collect();
        let edges = excluded.iter().flat_map(|e| self.points.edges(e.item));
        self.walls = (self.forbidden.iter().chain(&self.learned.barriers).copied())
            .chain(edges)
            .collect();
        let limits = &self.learned.limits;
        let requests = plan_around(&self.points.specs, &chosen, limits, &self.walls);
        self.steps = requests.iter().map(|r| self.points.prepare(r)).collect();
    }

    /// The items that bring every point once.
    fn asked(&self) -> impl Iterator<Item = usize> {
        let items = self.points.items.iter().enumerate();
        items
            .filter(|(_, item)| {
                let whole = matches!(item, Item::Whole { .. });
                whole != self.learned.apart.contains(&item.point())
            })
            .map(|(index, _)| index)
    }
}

/// Whether the device refuses the place, not the moment.
fn is_illegal(code: ExceptionCode) -> bool {
    matches!(
        code,
        ExceptionCode::IllegalDataAddress | ExceptionCode::IllegalDataValue
    )
}

/// The reason that an exception gives to the tags of its request.
pub(crate) fn reason(code: ExceptionCode) -> Reason {
    match code {
        ExceptionCode::IllegalFunction => Reason::IllegalFunction,
        code if is_illegal(code) => Reason::IllegalAddress,
        _ => Reason::DeviceFailure,
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests;
