//! What is asked for of a poll group's points, and the requests that ask for it.

use std::collections::BTreeSet;

use millrace_tags::TagId;

use super::cycle::Cycle;
use super::reason;
use crate::modbus::decode::Extract;
use crate::modbus::plan::{self, Barrier, Limits, is_whole};
use crate::modbus::point::{Meaning, Point, PointSpec};
use crate::modbus::reply::Answer;
use crate::modbus::request::{ReadRequest, Request};
use millrace_tags::{Moment, Reason, Sample};

/// The points, and what can be asked for to read them: `specs[i]` is where `items[i]` is.
#[derive(Debug, Clone)]
pub(super) struct Points {
    pub(super) points: Vec<Point>,
    /// One for each point in their order, then the parts of those that are scaled by a register.
    pub(super) items: Vec<Item>,
    pub(super) specs: Vec<PointSpec>,
}

/// Something that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
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
    pub(super) fn point(self) -> usize {
        match self {
            Item::Whole { point, .. } | Item::Value { point } | Item::Scale { point } => point,
        }
    }
}

/// One request, ready to be sent and decoded.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) request: Request,
    pub(super) slots: Vec<Slot>,
}

/// One item's part of a reply.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) item: usize,
    /// The tag of a value that stands for itself, as nearly all do: the short way to a sample.
    plain: Option<TagId>,
    extract: Extract,
    /// What scales it, in the same reply.
    scale: Option<Extract>,
}

impl Points {
    pub(super) fn new(points: &[Point]) -> Self {
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

    /// Points whose scale no one request may bring with them.
    pub(super) fn never_whole(&self, limits: &Limits, forbidden: &[Barrier]) -> BTreeSet<usize> {
        let specs = self.specs.iter().take(self.points.len()).enumerate();
        specs
            .filter(|(_, spec)| !is_whole(spec, limits, forbidden))
            .map(|(point, _)| point)
            .collect()
    }

    pub(super) fn prepare(&self, request: &plan::Request) -> Step {
        let slot = |&item: &usize| {
            let spec = &self.specs[item];
            let point = &self.points[self.items[item].point()];
            let is_plain = matches!(point.meaning, Meaning::Plain) && point.spec.scale().is_none();
            Slot {
                item,
                plain: is_plain.then_some(point.tag),
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
    pub(super) fn step(&self, row: &[usize]) -> Option<Step> {
        plan::request(&self.specs, row).map(|request| self.prepare(&request))
    }

    /// No request may read across an item that the device does not have.
    pub(super) fn edges(&self, item: usize) -> [Barrier; 2] {
        let spec = &self.specs[item];
        let table = spec.address().table;
        [spec.start(), spec.end()].map(|at| Barrier { table, at })
    }
}

impl Step {
    /// Takes note of a length that the device gives at once.
    pub(super) fn note(&self, answer: Answer<'_>, limits: &mut Limits) {
        if let (Answer::Data(_), Request::Read(read)) = (answer, &self.request) {
            limits.answered(read.table, read.count);
        }
    }

    /// Takes what came of the request.
    pub(super) fn settle(
        &self,
        answer: Answer<'_>,
        at: Moment,
        points: &Points,
        cycle: &mut Cycle,
    ) {
        let reason = match answer {
            Answer::Data(data) => {
                for slot in &self.slots {
                    let read = slot.extract.value(data);
                    if let Some(tag) = slot.plain {
                        cycle.samples.push(match read {
                            Ok(value) => Sample::good(tag, value, at),
                            Err(reason) => Sample::bad(tag, reason, at),
                        });
                        continue;
                    }
                    let scale = slot.scale.map(|scale| scale.value(data));
                    cycle.take(points, slot.item, read, scale, at);
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
