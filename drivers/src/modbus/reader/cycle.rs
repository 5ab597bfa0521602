//! What one read has brought: samples, and the parts of those that come in parts.

use std::collections::HashMap;

use millrace_tags::{Moment, Reason, Sample, Value};

use super::points::{Item, Points};
use crate::modbus::point::Point;

/// What one read has brought so far.
pub(super) struct Cycle {
    pub(super) samples: Vec<Sample>,
    /// Of points that are read in parts.
    pub(super) halves: HashMap<usize, Halves>,
}

/// A value and what scales it, which came by themselves.
#[derive(Default)]
pub(super) struct Halves {
    value: Option<(Result<Value, Reason>, Moment)>,
    scale: Option<Result<Value, Reason>>,
}

impl Cycle {
    /// What was read of an item; `scale` where the same reply has brought that, too.
    pub(super) fn take(
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

    pub(super) fn fail(&mut self, points: &Points, item: usize, reason: Reason, at: Moment) {
        let scale = match points.items[item] {
            Item::Whole { parts: Some(_), .. } => Some(Err(reason)),
            _ => None,
        };
        self.take(points, item, Err(reason), scale, at);
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
