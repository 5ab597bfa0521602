//! Samples as the store has them: one at a time, of any device, in the order in which they were committed.
//!
//! They are put in the order of their times and fed as they came live. With `grid = "scan"` a row ends where a tag of the
//! device comes again: that is the poll cycle, where all tags of the device are read at one interval.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use millrace_inference::eval::{Evaluation, Run};
use millrace_tags::{BootId, Moment};

use super::super::super::Failure;
use super::file::CsvFile;
use super::{Wanted, sample};
use crate::stored::ExactSample;

/// More are not held in memory: 0.6 GB of them.
const SAMPLES_MAX: usize = 16_000_000;

/// One sample.
struct Point {
    at: Moment,
    source: u32,
    tag: u32,
    value: Option<f64>,
}

/// The samples of one boot: their moments count from the same zero.
struct Part {
    boot: Option<BootId>,
    /// UTC nanoseconds of moment zero, where that is known.
    offset_ns: Option<i64>,
    points: Vec<Point>,
}

impl Part {
    /// When its first sample was taken, in UTC nanoseconds.
    fn begun(&self) -> Option<i64> {
        let first = self.points.first()?;
        Some(self.offset_ns?.saturating_add(first.at.0))
    }
}

/// Samples by boot, with the tags by number.
pub(super) struct Samples {
    /// The inputs that each wanted tag is for.
    wanted: HashMap<String, Vec<usize>>,
    /// Devices that have a wanted tag: all of their tags tell where a poll cycle ends.
    sources: HashSet<String>,
    numbers: HashMap<(Arc<str>, Arc<str>), (u32, u32)>,
    /// The inputs of each tag, by its number.
    inputs: Vec<Vec<usize>>,
    names: HashMap<Arc<str>, u32>,
    parts: Vec<Part>,
    count: usize,
}

impl Samples {
    /// None yet. Every role needs a tag.
    pub(super) fn new(wanted: &Wanted) -> Result<Self, Failure> {
        let mut tags: HashMap<String, Vec<usize>> = HashMap::new();
        let mut missing = Vec::new();
        for (input, role) in wanted.roles.iter().enumerate() {
            match wanted.mapped(role) {
                Some(tag) => tags.entry(tag.to_owned()).or_default().push(input),
                None => missing.push(role.as_str()),
            }
        }
        if !missing.is_empty() {
            return Err(Failure::usage(format!(
                "no tag is given for {}",
                missing.join(", ")
            ))
            .hint("--map ROLE=DEVICE/TAG names it; of a configured model the name alone is enough"));
        }
        let source = |tag: &String| Some(tag.rsplit_once('/')?.0.to_owned());
        Ok(Self {
            sources: tags.keys().filter_map(source).collect(),
            wanted: tags,
            numbers: HashMap::new(),
            inputs: Vec::new(),
            names: HashMap::new(),
            parts: Vec::new(),
            count: 0,
        })
    }

    /// The devices whose samples matter.
    pub(super) fn sources(&self) -> Vec<String> {
        let mut sources: Vec<String> = self.sources.iter().cloned().collect();
        sources.sort_unstable();
        sources
    }

    /// Takes a sample; those of other devices are left out.
    pub(super) fn take(&mut self, exact: ExactSample) -> Result<(), Failure> {
        self.add(
            (exact.source, exact.tag),
            Some(exact.boot),
            exact.offset_ns,
            Moment(exact.moment_ns),
            exact.value_bits.map(f64::from_bits),
        )
    }

    /// Takes the samples of a file that `buffer export` wrote. Their times are UTC.
    pub(super) fn take_export(&mut self, file: CsvFile) -> Result<(), Failure> {
        let place = &file.place;
        let columns = ["source", "n", "t", "v", "q", "clock"].map(|name| place.column(name));
        let [Some(source), Some(name), Some(t), Some(v), Some(q), clock] = columns else {
            return Err(Failure::usage(format!(
                "{} is no export of samples",
                place.path().display()
            )));
        };
        let (place, records) = file.records();
        for record in records {
            let (line, record) = record?;
            let field = |column: usize| record.get(column).unwrap_or_default();
            if clock.is_some_and(|clock| !field(clock).is_empty()) || !self.is_of(field(source)) {
                continue;
            }
            let at = place.time(line, t, &record)?;
            // Text is no number, and of no use to a model.
            let value = place.number(line, v, &record).ok().flatten();
            let value = value.filter(|_| field(q).is_empty());
            let tag = (Arc::from(field(source)), Arc::from(field(name)));
            self.add(tag, None, Some(0), at, value)?;
        }
        Ok(())
    }

    fn is_of(&self, source: &str) -> bool {
        self.sources.contains(source)
    }

    fn add(
        &mut self,
        tag: (Arc<str>, Arc<str>),
        boot: Option<BootId>,
        offset_ns: Option<i64>,
        at: Moment,
        value: Option<f64>,
    ) -> Result<(), Failure> {
        if !self.is_of(&tag.0) {
            return Ok(());
        }
        self.count += 1;
        if self.count > SAMPLES_MAX {
            let many = format!("there are more than {SAMPLES_MAX} samples");
            return Err(Failure::usage(many).hint("--since and --until choose a part of them"));
        }
        let (source, tag) = self.number(tag);
        let known = self.parts.iter().rposition(|part| part.boot == boot);
        let index = known.unwrap_or(self.parts.len());
        if known.is_none() {
            self.parts.push(Part {
                boot,
                offset_ns,
                points: Vec::new(),
            });
        }
        let part = &mut self.parts[index];
        // The clock of a boot may become known while it lasts.
        part.offset_ns = offset_ns.or(part.offset_ns);
        part.points.push(Point {
            at,
            source,
            tag,
            value,
        });
        Ok(())
    }

    fn number(&mut self, tag: (Arc<str>, Arc<str>)) -> (u32, u32) {
        if let Some(numbers) = self.numbers.get(&tag) {
            return *numbers;
        }
        let next = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        let source = *self.names.entry(tag.0.clone()).or_insert(next);
        let number = u32::try_from(self.inputs.len()).unwrap_or(u32::MAX);
        let inputs = self.wanted.get(&format!("{}/{}", tag.0, tag.1));
        self.inputs.push(inputs.cloned().unwrap_or_default());
        self.numbers.insert(tag, (source, number));
        (source, number)
    }

    /// Wanted tags of which there is no sample.
    pub(super) fn absent(&self) -> Vec<&str> {
        let there: HashSet<&usize> = self.inputs.iter().flatten().collect();
        let absent = |inputs: &Vec<usize>| inputs.iter().all(|input| !there.contains(input));
        let mut absent: Vec<&str> = self
            .wanted
            .iter()
            .filter(|(_, inputs)| absent(inputs))
            .map(|(tag, _)| tag.as_str())
            .collect();
        absent.sort_unstable();
        absent
    }

    /// How many there are of the wanted devices.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Feeds them to a run of their own for each boot, as the agent began anew then. Times of the evaluation are UTC where it is known.
    pub(super) fn feed(
        mut self,
        new_run: impl Fn() -> Result<Run, Failure>,
    ) -> Result<Evaluation, Failure> {
        for part in &mut self.parts {
            // Samples of one time stay in the order of the store.
            part.points.sort_by_key(|point| point.at);
        }
        // Boots of unknown time come first, in the order of the store.
        self.parts.sort_by_key(Part::begun);
        let mut whole = Evaluation::default();
        for part in &self.parts {
            let mut run = new_run()?;
            feed_part(&part.points, &self.inputs, &mut run);
            whole.append(run.finish().shifted(part.offset_ns.unwrap_or(0)));
        }
        Ok(whole)
    }
}

fn feed_part(points: &[Point], inputs: &[Vec<usize>], run: &mut Run) {
    // Tags that each device has told of in this poll cycle, and when last.
    let mut cycles: HashMap<u32, (HashSet<u32>, Moment)> = HashMap::new();
    for point in points {
        let begun = || (HashSet::new(), point.at);
        let cycle = cycles.entry(point.source).or_insert_with(begun);
        if !cycle.0.insert(point.tag) {
            run.end_scan(cycle.1);
            cycle.0.clear();
            cycle.0.insert(point.tag);
        }
        cycle.1 = point.at;
        let sample = sample(point.value, point.at);
        for input in inputs.get(point.tag as usize).into_iter().flatten() {
            run.feed(*input, &sample);
        }
    }
    let mut open: Vec<Moment> = cycles.into_values().map(|(_, at)| at).collect();
    open.sort_unstable();
    for at in open {
        run.end_scan(at);
    }
}
