//! A session with one unit: its poll groups, read over whatever way leads to it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use millrace_tags::{Clock, Reading, Receipt, TagId, Value};

use super::exchange::Exchange;
use super::pace::Pace;
use super::plan::{Barrier, Limits};
use super::point::{Meaning, Point, PointSpec};
use super::reader::GroupReader;
use super::request::Request;
use super::write::write;
use crate::{Exclusion, PollGroup, Session, SessionError, WriteError, WriteReport};

/// The points of a device in poll groups, planned. Clones share what is learned of the device.
#[derive(Clone)]
pub(crate) struct Groups {
    pub(crate) polled: Vec<PollGroup>,
    readers: Vec<GroupReader>,
    written: HashMap<TagId, (PointSpec, Meaning)>,
}

impl Groups {
    /// Groups the points by interval, shortest first, and plans each group's requests.
    pub(crate) fn new(points: Vec<Point>, limits: Limits, forbidden: &[Barrier]) -> Self {
        let written = (points.iter())
            .map(|point| (point.tag, (point.spec, point.meaning.clone())))
            .collect();
        let mut by_interval: BTreeMap<Duration, Vec<Point>> = BTreeMap::new();
        for point in points {
            by_interval.entry(point.interval).or_default().push(point);
        }
        let polled = by_interval.iter().map(|(interval, points)| PollGroup {
            interval: *interval,
            tags: points.iter().map(|point| point.tag).collect(),
        });
        Self {
            polled: polled.collect(),
            readers: by_interval
                .values()
                .map(|points| GroupReader::new(points, limits, forbidden))
                .collect(),
            written,
        }
    }

    /// What a session would ask first.
    pub(crate) fn first_request(&self) -> Option<&Request> {
        self.readers.iter().find_map(GroupReader::first_request)
    }

    /// The share of a line of this pace that the polling takes.
    pub(crate) fn need(&self, pace: &Pace) -> f64 {
        let groups = self.polled.iter().zip(&self.readers);
        let shares = groups.map(|(group, reader)| {
            let interval = group.interval.as_secs_f64().max(f64::MIN_POSITIVE);
            reader.line_time(pace).as_secs_f64() / interval
        });
        shares.sum()
    }

    pub(crate) fn tags(&self) -> Vec<TagId> {
        self.polled.iter().flat_map(|g| g.tags.clone()).collect()
    }
}

/// A session with one unit.
pub(crate) struct UnitSession<E> {
    way: E,
    device: String,
    groups: Groups,
    broadcast: bool,
    clock: Arc<dyn Clock>,
    /// False from the start of an exchange to its good end: an error or a dropped read leaves it so.
    usable: bool,
}

impl<E: Exchange> UnitSession<E> {
    pub(crate) fn new(way: E, device: &str, groups: &Groups, clock: &Arc<dyn Clock>) -> Self {
        Self {
            way,
            device: device.to_owned(),
            groups: groups.clone(),
            broadcast: false,
            clock: Arc::clone(clock),
            usable: true,
        }
    }

    /// The same for the unit that all others listen to.
    pub(crate) fn broadcasting(self, broadcast: bool) -> Self {
        Self { broadcast, ..self }
    }

    fn begin(&mut self) -> Result<(), SessionError> {
        if std::mem::take(&mut self.usable) {
            return Ok(());
        }
        Err(SessionError::Lost {
            device: self.device.clone(),
            source: io::ErrorKind::NotConnected.into(),
        })
    }
}

#[async_trait]
impl<E: Exchange> Session for UnitSession<E> {
    async fn read(&mut self, group: usize) -> Result<Reading, SessionError> {
        if group >= self.groups.readers.len() {
            return Ok(Reading::default());
        }
        self.begin()?;
        let reader = &mut self.groups.readers[group];
        let reading = reader.read(&mut self.way, &*self.clock).await?;
        self.usable = true;
        Ok(reading)
    }

    async fn notified(&mut self) -> Result<Reading, SessionError> {
        std::future::pending().await
    }

    async fn write(&mut self, tag: TagId, value: &Value) -> Result<WriteReport, WriteError> {
        let written = self.groups.written.get(&tag);
        let (spec, meaning) = written.cloned().ok_or(WriteError::UnknownTag)?;
        let raw = meaning.raw(&spec, value)?;
        self.begin()?;
        self.way.hurry(true);
        let written = write(&mut self.way, &spec, &raw, self.broadcast).await;
        self.way.hurry(false);
        self.usable = !matches!(written, Err(WriteError::Session(_)));
        let now = self.clock.now();
        let meant = |raw: Option<Value>| Some(meaning.of(raw?, now).ok()?.0);
        written.map(|WriteReport { old, read_back }| WriteReport {
            old: meant(old),
            read_back: meant(read_back),
        })
    }

    fn settle(&mut self, _receipt: Receipt) {
        // A polled device keeps nothing back, so that no reading carries a receipt.
    }

    fn remarks(&self) -> Vec<String> {
        let readers = self.groups.readers.iter();
        let learned = readers.flat_map(GroupReader::remarks);
        learned.chain(self.way.remarks()).collect()
    }

    fn excluded(&self) -> Vec<Exclusion> {
        let readers = self.groups.readers.iter();
        readers.flat_map(GroupReader::excluded).collect()
    }

    fn faults(&self) -> BTreeMap<String, u64> {
        self.way.faults()
    }

    async fn close(&mut self) {
        self.way.close().await;
    }
}
