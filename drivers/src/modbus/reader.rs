//! One poll group, read once and again: the plan, and what it learned of the device.
//!
//! A request that the device refuses as illegal (exceptions 02, 03) is halved until the refused points
//! stand alone, in the same read. They deliver `illegal-address`, are left out of later requests, and
//! are asked for alone now and then. A device that refuses everything (a PLC that is stopped may) is asked
//! for one point with each read, and learned anew when it answers. Where both halves work and the whole does not, the device does not
//! allow to read across the place between: that becomes a [`Barrier`]; or it gives less at once, which
//! [`Limits`] learns.
//!
//! A value and the register that scales it are one thing to read ([`Item`]). Where the device refuses to give
//! both at once, each is asked for alone from then on, in one read, and put together at its end.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures_util::future::BoxFuture;
use millrace_tags::{Clock, Moment, Reading, Reason, Sample, Value};
use tokio_modbus::ExceptionCode;

use super::address::Table;
use super::decode::Extract;
use super::exchange::Exchange;
use super::pace::Pace;
use super::plan::{self, Barrier, Limits, is_whole, plan_around, span};
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
    /// Points whose value and scale are asked for by themselves.
    apart: BTreeSet<usize>,
}

/// The points, and what can be asked for to read them: `specs[i]` is where `items[i]` is.
#[derive(Debug, Clone)]
struct Points {
    points: Vec<Point>,
    /// One for each point in their order, then the parts of those that are scaled by a register.
    items: Vec<Item>,
    specs: Vec<PointSpec>,
}

/// Something that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    /// A point, with what scales it; where that is a register, its parts as items.
    Whole {
        point: usize,
        parts: Option<[usize; 2]>,
    },
    /// A point without what scales it.
    Value { point: usize },
    /// What scales a point.
    Scale { point: usize },
}

impl Item {
    fn point(self) -> usize {
        match self {
            Item::Whole { point, .. } | Item::Value { point } | Item::Scale { point } => point,
        }
    }
}

/// One request, ready to be sent and decoded.
#[derive(Debug, Clone)]
struct Step {
    request: Request,
    slots: Vec<Slot>,
}

/// One item's part of a reply.
#[derive(Debug, Clone, Copy)]
struct Slot {
    item: usize,
    extract: Extract,
    /// What scales it, in the same reply.
    scale: Option<Extract>,
}

/// An item that the device does not have.
#[derive(Debug, Clone, Copy)]
struct Excluded {
    item: usize,
    retry_at: Moment,
}

/// What a read taught.
#[derive(Default)]
struct Findings {
    illegal: Vec<usize>,
    barriers: Vec<Barrier>,
    apart: Vec<usize>,
}

/// What one read has brought so far.
struct Cycle {
    samples: Vec<Sample>,
    /// Of points that are read in parts.
    halves: HashMap<usize, Halves>,
}

/// A value and what scales it, which came by themselves.
#[derive(Default)]
struct Halves {
    value: Option<(Result<Value, Reason>, Moment)>,
    scale: Option<Result<Value, Reason>>,
}

impl Cycle {
    /// What was read of an item; `scale` where the same reply has brought that, too.
    fn take(
        &mut self,
        points: &Points,
        item: usize,
        read: Result<Value, Reason>,
        scale: Option<Result<Value, Reason>>,
        at: Moment,
    ) {
        let item = points.items[item];
        let halves = match item {
            Item::Whole { point, .. } => {
                let sample = sample(&points.points[point], read, scale, at);
                self.samples.push(sample);
                return;
            }
            Item::Value { point } => {
                let halves = self.halves.entry(point).or_default();
                halves.value = Some((read, at));
                halves
            }
            Item::Scale { point } => {
                let halves = self.halves.entry(point).or_default();
                halves.scale = Some(read);
                halves
            }
        };
        if halves.value.is_some() && halves.scale.is_some() {
            let halves = std::mem::take(halves);
            if let Some((value, at)) = halves.value {
                let point = &points.points[item.point()];
                self.samples.push(sample(point, value, halves.scale, at));
            }
        }
    }

    fn fail(&mut self, points: &Points, item: usize, reason: Reason, at: Moment) {
        let scale = match points.items[item] {
            Item::Whole { parts: Some(_), .. } => Some(Err(reason)),
            _ => None,
        };
        self.take(points, item, Err(reason), scale, at);
    }
}

impl GroupReader {
    pub(crate) fn new(points: &[Point], limits: Limits, forbidden: &[Barrier]) -> Self {
        let mut reader = Self {
            apart: (0..points.len())
                .filter(|&point| !is_whole(&points[point].spec, &limits, forbidden))
                .collect(),
            points: Points::new(points),
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
        let mut cycle = Cycle {
            samples: Vec::with_capacity(self.points.points.len()),
            halves: HashMap::new(),
        };
        let mut findings = Findings::default();
        let mut refused = Vec::new();
        let before = self.limits;
        let (steps, limits, points) = (&self.steps, &mut self.limits, &self.points);
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
                limits: &mut self.limits,
            };
            isolation.divide(&row, at).await?;
        }
        let refused_all = self.refuses_all();
        let regained = self.retry_excluded(line, clock, &mut cycle).await?;
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
            samples: cycle.samples,
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
            let address = self.points.specs[excluded.item].address();
            if self.refuses_all() {
                return format!(
                    "{address} is no address of the device, nor is any of its poll group"
                );
            }
            let wait = excluded.retry_at.since(now).as_secs();
            let item = match self.points.items[excluded.item] {
                Item::Scale { .. } => ", which scales another register,",
                _ => "",
            };
            format!("{address}{item} is no address of the device; it is tried again in {wait} s")
        });
        limits.chain(excluded)
    }

    /// Results for the excluded items; asks again for those whose time has come. Whether one is back.
    async fn retry_excluded(
        &mut self,
        line: &mut impl Exchange,
        clock: &dyn Clock,
        cycle: &mut Cycle,
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
        self.excluded.retain(|e| !regained.contains(&e.item));
        for item in &regained {
            let edges = self.points.edges(*item);
            let forbidden = &self.forbidden;
            self.barriers
                .retain(|barrier| !edges.contains(barrier) || forbidden.contains(barrier));
        }
        Ok(!regained.is_empty())
    }

    /// Whether every point was found to be illegal.
    fn refuses_all(&self) -> bool {
        !self.excluded.is_empty()
            && self.excluded.len() == self.points.points.len() + self.apart.len()
    }

    /// Takes over what a read taught; whether that changes the plan.
    fn learn(&mut self, findings: Findings, now: Moment) -> bool {
        let learned = !findings.illegal.is_empty()
            || !findings.barriers.is_empty()
            || !findings.apart.is_empty();
        self.apart.extend(findings.apart);
        for item in findings.illegal {
            self.barriers.extend(self.points.edges(item));
            self.excluded.push(Excluded {
                item,
                retry_at: now + ILLEGAL_RETRY,
            });
        }
        self.barriers.extend(findings.barriers);
        self.barriers.sort_unstable();
        self.barriers.dedup();
        learned
    }

    fn replan(&mut self) {
        let mut chosen: Vec<usize> = self.asked().collect();
        chosen.retain(|&i| !self.excluded.iter().any(|e| e.item == i));
        let requests = plan_around(&self.points.specs, &chosen, &self.limits, &self.barriers);
        self.steps = requests.iter().map(|r| self.points.prepare(r)).collect();
    }
}

impl GroupReader {
    /// The items that bring every point once.
    fn asked(&self) -> impl Iterator<Item = usize> {
        let items = self.points.items.iter().enumerate();
        items
            .filter(|(_, item)| {
                let whole = matches!(item, Item::Whole { .. });
                whole != self.apart.contains(&item.point())
            })
            .map(|(index, _)| index)
    }
}

impl Points {
    fn new(points: &[Point]) -> Self {
        let mut specs: Vec<PointSpec> = points.iter().map(|point| point.spec).collect();
        let (mut items, mut parts) = (Vec::new(), Vec::new());
        for (point, Point { spec, .. }) in points.iter().enumerate() {
            let own = spec.scale_spec().map(|scale| {
                parts.extend([Item::Value { point }, Item::Scale { point }]);
                specs.extend([spec.bare(), scale]);
                [specs.len() - 2, specs.len() - 1]
            });
            items.push(Item::Whole { point, parts: own });
        }
        items.extend(parts);
        Self {
            points: points.to_vec(),
            items,
            specs,
        }
    }

    fn prepare(&self, request: &plan::Request) -> Step {
        let slot = |&item: &usize| {
            let spec = &self.specs[item];
            Slot {
                item,
                extract: Extract::new(spec, request),
                scale: (spec.near_scale()).map(|scale| Extract::new(&scale, request)),
            }
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

    /// The step that reads these items alone.
    fn step(&self, row: &[usize]) -> Option<Step> {
        plan::request(&self.specs, row).map(|request| self.prepare(&request))
    }

    /// No request may read across an item that the device does not have.
    fn edges(&self, item: usize) -> [Barrier; 2] {
        let spec = &self.specs[item];
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

    /// Takes what came of the request.
    fn settle(&self, answer: Answer<'_>, at: Moment, points: &Points, cycle: &mut Cycle) {
        let reason = match answer {
            Answer::Data(data) => {
                for slot in &self.slots {
                    let scale = slot.scale.map(|scale| scale.value(data));
                    cycle.take(points, slot.item, slot.extract.value(data), scale, at);
                }
                return;
            }
            Answer::Exception(code) => reason(code),
            Answer::Spoilt(reason) => reason,
            // A read is never answered so.
            Answer::Written => Reason::InvalidReply,
        };
        for slot in &self.slots {
            cycle.fail(points, slot.item, reason, at);
        }
    }
}

/// A point's sample: what was read of it, as it is meant. A counter counts also where its scale is bad.
fn sample(
    point: &Point,
    read: Result<Value, Reason>,
    scale: Option<Result<Value, Reason>>,
    at: Moment,
) -> Sample {
    let meant = read.and_then(|raw| point.meaning.of(raw, at));
    let scaled = meant.and_then(|(value, quality)| match (point.spec.scale(), scale) {
        (None, _) => Ok((value, quality)),
        (Some(register), Some(scale)) => {
            let scale = register.read(&scale?).ok_or(Reason::BadScale)?;
            let scaled = value.as_f64().and_then(|value| scale.apply(value));
            let scaled = scaled.ok_or(Reason::NotANumber)?;
            Ok((Value::F64(scaled), quality))
        }
        // Never without it.
        (Some(_), None) => Err(Reason::BadScale),
    });
    match scaled {
        Ok((value, quality)) => Sample {
            quality,
            ..Sample::good(point.tag, value, at)
        },
        Err(reason) => Sample::bad(point.tag, reason, at),
    }
}

/// The search for the illegal points of a refused request.
struct Isolation<'a, E> {
    points: &'a Points,
    line: &'a mut E,
    cycle: &'a mut Cycle,
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
            let parts;
            let (left, right) = match *row {
                [item] => match self.points.items[item] {
                    Item::Whole {
                        point,
                        parts: Some(own),
                    } => {
                        self.findings.apart.push(point);
                        parts = own;
                        parts.split_at(1)
                    }
                    _ => {
                        let reason = Reason::IllegalAddress;
                        self.cycle.fail(self.points, item, reason, refused_at);
                        self.findings.illegal.push(item);
                        return Ok(());
                    }
                },
                _ => row.split_at(row.len() / 2),
            };
            let left_works = self.ask(left).await?;
            let right_works = self.ask(right).await?;
            if !(left_works && right_works) {
                return Ok(());
            }
            let table = self.points.specs[left[0]].address().table;
            let whole = span(&self.points.specs, row);
            let count = u16::try_from(whole.end - whole.start).unwrap_or(u16::MAX);
            if !self.limits.refused(table, count) {
                let starts = [left, right].map(|row| span(&self.points.specs, row).start);
                let at = starts[0].max(starts[1]);
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
        step.settle(answer, at, self.points, self.cycle);
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
