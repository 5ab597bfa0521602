//! What happens to a sample between its device and the buffer: scale, live table and model taps,
//! deadband filter, append.
//!
//! One pipeline a device, driven by that device's poller: there is no queue in between, and nothing
//! here waits for a disk or a network.

use std::sync::Arc;
use std::time::Duration;

use millrace_buffer::{Buffer, Ticket};
use millrace_tags::{Event, Moment, Quality, Sample, SourceId, TagId, Timebase, Value};

use crate::config::{Deadband, Scaling};
use crate::delivered::Told;
use crate::live::LiveTable;
use crate::model::ModelTap;

/// What is done with the samples of one tag.
#[derive(Debug, Clone, Default)]
pub(crate) struct Treatment {
    /// Applied to numbers; `None` leaves the device's type.
    pub(crate) scaling: Option<Scaling>,
    /// Changes smaller than this are not reported.
    pub(crate) deadband: Option<Deadband>,
    /// A value now and then, although it did not leave the deadband.
    pub(crate) report_at_least: Option<Duration>,
}

/// The way of one device's samples.
pub(crate) struct Pipeline {
    source: SourceId,
    buffer: Buffer,
    live: Arc<LiveTable>,
    taps: Vec<ModelTap>,
    first_tag: u32,
    stages: Vec<Option<Stage>>,
    /// Where it is noted what a device has delivered.
    told: Option<Arc<Told>>,
}

struct Stage {
    treatment: Treatment,
    reported: Option<Reported>,
}

/// The sample that the deadband measures from.
struct Reported {
    value: Option<Value>,
    quality: Quality,
    at: Moment,
}

impl Pipeline {
    /// A pipeline for the tags of one source.
    pub(crate) fn new(
        source: SourceId,
        buffer: Buffer,
        live: Arc<LiveTable>,
        taps: Vec<ModelTap>,
        tags: Vec<(TagId, Treatment)>,
    ) -> Self {
        let first_tag = tags.iter().map(|(tag, _)| tag.0).min().unwrap_or(0);
        let mut stages = Vec::new();
        for (tag, treatment) in tags {
            let index = (tag.0 - first_tag) as usize;
            if stages.len() <= index {
                stages.resize_with(index + 1, || None);
            }
            stages[index] = Some(Stage {
                treatment,
                reported: None,
            });
        }
        Self {
            source,
            buffer,
            live,
            taps,
            first_tag,
            stages,
            told: None,
        }
    }

    /// Notes what is delivered, for the agent that runs after this one.
    pub(crate) fn noting(self, told: Option<Arc<Told>>) -> Self {
        Self { told, ..self }
    }

    /// Takes the samples of one read or notification. Returns the ticket to wait for before the device
    /// may forget them; `None` where the filter kept them all back.
    pub(crate) fn accept(&mut self, samples: Vec<Sample>) -> Option<Ticket> {
        self.append(samples, Buffer::append)
    }

    /// The same for what was read while the buffer had room, by a poller that reads no more without.
    pub(crate) fn accept_held(&mut self, samples: Vec<Sample>) -> Option<Ticket> {
        self.append(samples, Buffer::append_held)
    }

    /// Takes values that were stored before and hold still. Those of tags that are bad for whoever listens are to be
    /// stored again, and are returned; the others are shown.
    pub(crate) fn confirm(&mut self, known: Vec<Sample>) -> Vec<Sample> {
        let Some(told) = self.told.clone() else {
            return known;
        };
        let mut table = told.lock();
        let (again, mut known): (Vec<Sample>, Vec<Sample>) = known
            .into_iter()
            .partition(|sample| table.is_bad(sample.tag));
        drop(table);
        self.show(&mut known);
        again
    }

    /// Keeps what the device told of by itself.
    pub(crate) fn tell(&self, event: Event, timebase: Timebase) -> Ticket {
        let mut table = self.told.as_ref().map(|told| told.lock());
        if let Some(table) = &mut table {
            table.take_event(&event, timebase);
        }
        self.buffer.append_event(self.source, event)
    }

    fn append(
        &mut self,
        mut samples: Vec<Sample>,
        append: impl FnOnce(&Buffer, SourceId, Vec<Sample>) -> Ticket,
    ) -> Option<Ticket> {
        self.show(&mut samples);
        let mut table = self.told.as_ref().map(|told| told.lock());
        if let Some(table) = &mut table {
            samples.iter().for_each(|sample| table.take(sample));
        }
        let stages = &mut self.stages;
        let first_tag = self.first_tag;
        samples.retain(|sample| {
            let stage =
                index(first_tag, sample.tag).and_then(|index| stages.get_mut(index)?.as_mut());
            stage.is_some_and(|stage| stage.passes(sample))
        });
        (!samples.is_empty()).then(|| append(&self.buffer, self.source, samples))
    }

    /// Scales, shows and taps the samples.
    fn show(&mut self, samples: &mut [Sample]) {
        for sample in &mut *samples {
            if let Some(scaling) = self.stage(sample.tag).and_then(|s| s.treatment.scaling) {
                scaling.apply(sample);
            }
        }
        self.live.confirm(samples);
        for tap in &mut self.taps {
            tap.offer(samples);
        }
    }

    /// A poll cycle of the device is over: models that take one row a cycle may score.
    pub(crate) fn end_scan(&mut self, at: Moment) {
        for tap in &mut self.taps {
            tap.end_scan(at);
        }
    }

    fn stage(&self, tag: TagId) -> Option<&Stage> {
        self.stages.get(index(self.first_tag, tag)?)?.as_ref()
    }
}

fn index(first: u32, tag: TagId) -> Option<usize> {
    tag.0.checked_sub(first).map(|index| index as usize)
}

impl Stage {
    /// Whether the sample says something new; remembers it if so.
    fn passes(&mut self, sample: &Sample) -> bool {
        let Some(deadband) = self.treatment.deadband else {
            return true;
        };
        let news = self.reported.as_ref().is_none_or(|last| {
            last.quality != sample.quality
                || self
                    .treatment
                    .report_at_least
                    .is_some_and(|after| sample.gateway_time.since(last.at) >= after)
                || leaves(deadband, last.value.as_ref(), sample.value.as_ref())
        });
        if news {
            self.reported = Some(Reported {
                value: sample.value.clone(),
                quality: sample.quality,
                at: sample.gateway_time,
            });
        }
        news
    }
}

/// Whether the value left the deadband around the last reported one. What is not a number leaves it by
/// any change. A percentage is of the last reported value.
fn leaves(deadband: Deadband, last: Option<&Value>, now: Option<&Value>) -> bool {
    let numbers = (last.and_then(Value::as_f64), now.and_then(Value::as_f64));
    let (Some(last), Some(now)) = numbers else {
        return last != now;
    };
    let band = match deadband {
        Deadband::Absolute(band) => band,
        Deadband::Percent(percent) => last.abs() * percent / 100.0,
    };
    (now - last).abs() > band
}

#[cfg(test)]
mod tests {
    use millrace_tags::Reason;

    use super::*;

    fn stage(deadband: Deadband, report_at_least: Option<Duration>) -> Stage {
        let treatment = Treatment {
            scaling: None,
            deadband: Some(deadband),
            report_at_least,
        };
        Stage {
            treatment,
            reported: None,
        }
    }

    fn good(value: f64, at_s: i64) -> Sample {
        Sample::good(TagId(0), Value::F64(value), Moment(at_s * 1_000_000_000))
    }

    #[test]
    fn deadband_measures_from_the_last_reported_value() {
        let mut stage = stage(Deadband::Absolute(0.5), None);
        let passed: Vec<bool> = [10.0, 10.4, 10.5, 10.6, 10.9, 11.2]
            .iter()
            .map(|v| stage.passes(&good(*v, 0)))
            .collect();
        assert_eq!(passed, [true, false, false, true, false, true]);
    }

    #[test]
    fn percent_is_of_the_last_reported_value() {
        let mut stage = stage(Deadband::Percent(1.0), None);
        assert!(stage.passes(&good(200.0, 0)));
        assert!(!stage.passes(&good(202.0, 0)));
        assert!(stage.passes(&good(202.1, 0)));
    }

    #[test]
    fn quality_change_always_passes_and_repeats_do_not() {
        let mut stage = stage(Deadband::Absolute(1.0), None);
        assert!(stage.passes(&good(1.0, 0)));
        let bad = Sample::bad(TagId(0), Reason::Timeout, Moment(1));
        assert!(stage.passes(&bad));
        assert!(!stage.passes(&bad));
        assert!(stage.passes(&good(1.0, 2)));
    }

    #[test]
    fn still_value_is_reported_now_and_then() {
        let mut stage = stage(Deadband::Absolute(1.0), Some(Duration::from_secs(10)));
        let passed: Vec<bool> = [0, 4, 9, 10, 15, 20]
            .iter()
            .map(|s| stage.passes(&good(1.0, *s)))
            .collect();
        assert_eq!(passed, [true, false, false, true, false, true]);
    }

    #[test]
    fn scaling_overflow_is_bad_not_infinite() {
        let mut sample = good(1e300, 0);
        let scaling = Scaling {
            scale: 1e300,
            offset: 0.0,
        };
        scaling.apply(&mut sample);
        assert_eq!(sample.quality, Quality::Bad(Reason::NotANumber));
        assert_eq!(sample.value, None);
    }

    /// A pipeline of two tags, the second with a scaling and a deadband.
    fn pipeline(dir: &std::path::Path) -> (Pipeline, Buffer, Arc<LiveTable>, Vec<TagId>) {
        let clock = Arc::new(millrace_tags::TestClock::new(1, None));
        let buffer = Buffer::open(millrace_buffer::Settings::new(dir), clock).unwrap();
        let spec = |name: &str| millrace_buffer::TagSpec {
            name: name.into(),
            value_type: millrace_tags::ValueType::F64,
            unit: None,
        };
        let kind = millrace_tags::SourceKind::Device;
        let registration = buffer.register("pump", kind, &[spec("raw"), spec("bar")]);
        let live = Arc::new(LiveTable::default());
        for tag in &registration.tags {
            let full_name = format!("pump/{}", tag.0);
            let unit = None;
            live.add(*tag, crate::live::TagLabel { full_name, unit });
        }
        let scaled = Treatment {
            scaling: Some(Scaling {
                scale: 0.1,
                offset: -1.0,
            }),
            deadband: Some(Deadband::Absolute(1.0)),
            report_at_least: None,
        };
        let tags = registration.tags.clone();
        let treatments = vec![(tags[0], Treatment::default()), (tags[1], scaled)];
        let pipeline = Pipeline::new(
            registration.source,
            buffer.clone(),
            live.clone(),
            Vec::new(),
            treatments,
        );
        (pipeline, buffer, live, tags)
    }

    #[test]
    fn the_live_table_sees_what_the_deadband_keeps_back() {
        let dir = tempfile::tempdir().unwrap();
        let (mut pipeline, buffer, live, tags) = pipeline(dir.path());
        let sample = |raw: f64| Sample::good(tags[1], Value::F64(raw), Moment(0));
        assert!(pipeline.accept(vec![sample(100.0)]).is_some());
        assert!(
            pipeline.accept(vec![sample(101.0)]).is_none(),
            "9.1 is within 1 of 9"
        );
        let rows = live.report(&millrace_tags::TestClock::new(1, None), |name| {
            name == format!("pump/{}", tags[1].0)
        });
        assert_eq!(
            rows[0].value.as_f64().map(|v| (v * 10.0).round()),
            Some(91.0)
        );
        assert_eq!(buffer.ledger().devices["pump"].acquired, 1);
        buffer.close().unwrap();
    }

    #[test]
    fn a_sample_of_another_device_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (mut pipeline, buffer, _, tags) = pipeline(dir.path());
        let foreign = Sample::good(TagId(tags[1].0 + 1), Value::Bool(true), Moment(0));
        assert!(pipeline.accept(vec![foreign]).is_none());
        assert_eq!(
            buffer
                .ledger()
                .devices
                .get("pump")
                .map_or(0, |row| row.acquired),
            0
        );
        buffer.close().unwrap();
    }
}
