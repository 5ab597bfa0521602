//! One poll group, read once and again: the plan, and what it learned of the device.
//!
//! A request that the device refuses as illegal (exceptions 02, 03) is halved until the refused points
//! stand alone, in the same read. They deliver `illegal-address`, are left out of later requests, and
//! are asked for alone now and then. A device that refuses everything (a PLC that is stopped may) is asked
//! for one point with each read, and learned anew when it answers. Where both halves work and the whole does not, the device does not
//! allow to read across the place between: that becomes a [`Barrier`]; or it gives less at once, which
//! [`Limits`] learns.

use std::time::Duration;

use futures_util::future::BoxFuture;
use millrace_tags::{Clock, Moment, Reading, Reason, Sample, TagId};
use tokio_modbus::ExceptionCode;

use super::address::Table;
use super::decode::Extract;
use super::exchange::Exchange;
use super::pace::Pace;
use super::plan::{self, Barrier, Limits, plan_around, span};
use super::point::{Point, PointSpec};
use super::reply::{Answer, Reply};
use super::request::{ReadRequest, Request};
use crate::SessionError;

/// How long an illegal address is left out before it is tried again: often enough that a device whose
/// program was changed is whole within a coffee break, too seldom to cost anything.
pub(crate) const ILLEGAL_RETRY: Duration = Duration::from_secs(600);

/// Illegal addresses tried again in one read, so that a device full of holes is still read in time.
const RETRIES_PER_READ: usize = 4;

/// Reads the points of one poll group.
#[derive(Debug, Clone)]
pub(crate) struct GroupReader {
    points: Points,
    limits: Limits,
    steps: Vec<Step>,
    /// Of ranges that must not be read.
    forbidden: Vec<Barrier>,
    /// Learned, and forbidden ones.
    barriers: Vec<Barrier>,
    excluded: Vec<Excluded>,
}

/// The points by index: `tags[i]` is worth what `specs[i]` says.
#[derive(Debug, Clone)]
struct Points {
    tags: Vec<TagId>,
    specs: Vec<PointSpec>,
}

/// One request, ready to be sent and decoded.
#[derive(Debug, Clone)]
struct Step {
    request: Request,
    slots: Vec<Slot>,
}

/// One point's part of a reply.
#[derive(Debug, Clone, Copy)]
struct Slot {
    point: usize,
    tag: TagId,
    extract: Extract,
}

/// A point that the device does not have.
#[derive(Debug, Clone, Copy)]
struct Excluded {
    point: usize,
    retry_at: Moment,
}

/// What a read taught.
#[derive(Default)]
struct Findings {
    illegal: Vec<usize>,
    barriers: Vec<Barrier>,
}

impl GroupReader {
    pub(crate) fn new(points: &[Point], limits: Limits, forbidden: &[Barrier]) -> Self {
        let mut reader = Self {
            points: Points {
                tags: points.iter().map(|point| point.tag).collect(),
                specs: points.iter().map(|point| point.spec).collect(),
            },
            limits,
            steps: Vec::new(),
            forbidden: forbidden.to_vec(),
            barriers: forbidden.to_vec(),
            excluded: Vec::new(),
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
        let mut samples = Vec::with_capacity(self.points.tags.len());
        let mut findings = Findings::default();
        let mut refused = Vec::new();
        let before = self.limits;
        let (steps, limits) = (&self.steps, &mut self.limits);
        let requests: Vec<&Request> = steps.iter().map(|step| &step.request).collect();
        let mut take = |index: usize, Reply { answer, at }: Reply<'_>| {
            let step: &Step = &steps[index];
            match answer {
                Answer::Exception(code) if is_illegal(code) => refused.push((index, at)),
                answer => {
                    step.note(answer, limits);
                    step.settle(answer, at, &mut samples);
                }
            }
        };
        line.exchange_all(&requests, &mut take).await?;
        for (index, at) in refused {
            let row: Vec<usize> = steps[index].slots.iter().map(|slot| slot.point).collect();
            let mut isolation = Isolation {
                points: &self.points,
                line,
                samples: &mut samples,
                findings: &mut findings,
                limits: &mut self.limits,
            };
            isolation.divide(&row, at).await?;
        }
        let refused_all = self.refuses_all();
        let regained = self.retry_excluded(line, clock, &mut samples).await?;
        if regained && refused_all {
            self.excluded.clear();
            self.barriers.clone_from(&self.forbidden);
        }
        let limits_changed = Table::ALL
            .iter()
            .any(|table| self.limits.max(*table) != before.max(*table));
        if self.learn(findings, clock.now()) || regained || limits_changed {
            self.replan();
        }
        Ok(Reading {
            samples,
            receipt: None,
        })
    }

    /// One line for each illegal address, and what the device taught of its limits.
    pub(crate) fn remarks(&self, now: Moment) -> impl Iterator<Item = String> {
        let limits = Table::ALL.iter().filter_map(|table| {
            let most = self.limits.learned_max(*table)?;
            Some(format!(
                "the device gives at most {most} of {table} in one request"
            ))
        });
        let excluded = self.excluded.iter().map(move |excluded| {
            let address = self.points.specs[excluded.point].address();
            if self.refuses_all() {
                return format!(
                    "{address} is no address of the device, nor is any of its poll group"
                );
            }
            let wait = excluded.retry_at.since(now).as_secs();
            format!("{address} is no address of the device; it is tried again in {wait} s")
        });
        limits.chain(excluded)
    }

    /// Samples for the excluded points; asks again for those whose time has come. Whether one is back.
    async fn retry_excluded(
        &mut self,
        line: &mut impl Exchange,
        clock: &dyn Clock,
        samples: &mut Vec<Sample>,
    ) -> Result<bool, SessionError> {
        let mut regained = Vec::new();
        let mut retries = 0;
        if self.refuses_all() {
            // In turn, so that one point that is wrong for good does not hide that the rest is back.
            self.excluded.rotate_left(1);
            self.excluded[0].retry_at = clock.now();
        }
        for excluded in &mut self.excluded {
            let now = clock.now();
            let tag = self.points.tags[excluded.point];
            if excluded.retry_at > now || retries == RETRIES_PER_READ {
                samples.push(Sample::bad(tag, Reason::IllegalAddress, now));
                continue;
            }
            retries += 1;
            let Some(step) = self.points.step(&[excluded.point]) else {
                continue;
            };
            let Reply { answer, at } = line.exchange(&step.request).await?;
            match answer {
                Answer::Data(_) => regained.push(excluded.point),
                Answer::Spoilt(_) => {}
                Answer::Exception(_) | Answer::Written => excluded.retry_at = at + ILLEGAL_RETRY,
            }
            step.settle(answer, at, samples);
        }
        self.excluded.retain(|e| !regained.contains(&e.point));
        for point in &regained {
            let edges = self.points.edges(*point);
            let forbidden = &self.forbidden;
            self.barriers
                .retain(|barrier| !edges.contains(barrier) || forbidden.contains(barrier));
        }
        Ok(!regained.is_empty())
    }

    /// Whether every point was found to be illegal.
    fn refuses_all(&self) -> bool {
        !self.excluded.is_empty() && self.excluded.len() == self.points.specs.len()
    }

    /// Takes over what a read taught; whether that changes the plan.
    fn learn(&mut self, findings: Findings, now: Moment) -> bool {
        let learned = !findings.illegal.is_empty() || !findings.barriers.is_empty();
        for point in findings.illegal {
            self.barriers.extend(self.points.edges(point));
            self.excluded.push(Excluded {
                point,
                retry_at: now + ILLEGAL_RETRY,
            });
        }
        self.barriers.extend(findings.barriers);
        self.barriers.sort_unstable();
        self.barriers.dedup();
        learned
    }

    fn replan(&mut self) {
        let mut chosen: Vec<usize> = (0..self.points.specs.len()).collect();
        chosen.retain(|&i| !self.excluded.iter().any(|e| e.point == i));
        let requests = plan_around(&self.points.specs, &chosen, &self.limits, &self.barriers);
        self.steps = requests.iter().map(|r| self.points.prepare(r)).collect();
    }
}

impl Points {
    fn prepare(&self, request: &plan::Request) -> Step {
        let slot = |&point: &usize| Slot {
            point,
            tag: self.tags[point],
            extract: Extract::new(&self.specs[point], request),
        };
        Step {
            request: Request::Read(ReadRequest {
                table: request.table,
                start: request.start,
                count: request.count,
            }),
            slots: request.points.iter().map(slot).collect(),
        }
    }

    /// The step that reads these points alone.
    fn step(&self, row: &[usize]) -> Option<Step> {
        plan::request(&self.specs, row).map(|request| self.prepare(&request))
    }

    /// No request may read across a point that the device does not have.
    fn edges(&self, point: usize) -> [Barrier; 2] {
        let spec = &self.specs[point];
        let table = spec.address().table;
        [spec.start(), spec.end()].map(|at| Barrier { table, at })
    }
}

impl Step {
    /// Takes note of a length that the device gives at once.
    fn note(&self, answer: Answer<'_>, limits: &mut Limits) {
        if let (Answer::Data(_), Request::Read(read)) = (answer, &self.request) {
            limits.answered(read.table, read.count);
        }
    }

    /// Samples for what came of the request.
    fn settle(&self, answer: Answer<'_>, at: Moment, samples: &mut Vec<Sample>) {
        match answer {
            Answer::Data(data) => self.deliver(data, at, samples),
            Answer::Exception(code) => self.fail(reason(code), at, samples),
            Answer::Spoilt(reason) => self.fail(reason, at, samples),
            // A read is never answered so.
            Answer::Written => self.fail(Reason::InvalidReply, at, samples),
        }
    }

    fn deliver(&self, data: &[u8], at: Moment, samples: &mut Vec<Sample>) {
        samples.extend(
            self.slots
                .iter()
                .map(|slot| match slot.extract.value(data) {
                    Ok(value) => Sample::good(slot.tag, value, at),
                    Err(reason) => Sample::bad(slot.tag, reason, at),
                }),
        );
    }

    fn fail(&self, reason: Reason, at: Moment, samples: &mut Vec<Sample>) {
        samples.extend(
            self.slots
                .iter()
                .map(|slot| Sample::bad(slot.tag, reason, at)),
        );
    }
}

/// The search for the illegal points of a refused request.
struct Isolation<'a, E> {
    points: &'a Points,
    line: &'a mut E,
    samples: &'a mut Vec<Sample>,
    findings: &'a mut Findings,
    limits: &'a mut Limits,
}

impl<E: Exchange> Isolation<'_, E> {
    /// Delivers the points of `row`, a request for which was refused at `refused_at`.
    ///
    /// Ends because each half is smaller; costs two requests a halving, 2 n at the very worst.
    fn divide<'b>(
        &'b mut self,
        row: &'b [usize],
        refused_at: Moment,
    ) -> BoxFuture<'b, Result<(), SessionError>> {
        Box::pin(async move {
            if let &[point] = row {
                let tag = self.points.tags[point];
                let bad = Sample::bad(tag, Reason::IllegalAddress, refused_at);
                self.samples.push(bad);
                self.findings.illegal.push(point);
                return Ok(());
            }
            let (left, right) = row.split_at(row.len() / 2);
            let left_works = self.ask(left).await?;
            let right_works = self.ask(right).await?;
            if !(left_works && right_works) {
                return Ok(());
            }
            let table = self.points.specs[left[0]].address().table;
            let whole = span(&self.points.specs, row);
            let count = u16::try_from(whole.end - whole.start).unwrap_or(u16::MAX);
            if !self.limits.refused(table, count) {
                let at = span(&self.points.specs, right).start;
                self.findings.barriers.push(Barrier { table, at });
            }
            Ok(())
        })
    }

    /// Asks for one half; whether it worked as a whole.
    async fn ask(&mut self, row: &[usize]) -> Result<bool, SessionError> {
        let Some(step) = self.points.step(row) else {
            return Ok(true);
        };
        let Reply { answer, at } = self.line.exchange(&step.request).await?;
        if let Answer::Exception(code) = answer
            && is_illegal(code)
        {
            self.divide(row, at).await?;
            return Ok(false);
        }
        step.note(answer, self.limits);
        step.settle(answer, at, self.samples);
        Ok(matches!(answer, Answer::Data(_)))
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
