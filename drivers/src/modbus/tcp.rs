//! Modbus TCP: the driver and its session.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use millrace_tags::{Clock, Reading, Receipt, Sample, TagId};
use tokio::net::TcpStream;

use super::decode::Extract;
use super::link::{Link, Peer, Reply};
use super::pdu::{Answer, ReadRequest};
use super::plan::{self, Limits};
use super::point::{Point, PointSpec};
use super::reader::{GroupReader, reason};
use crate::{Driver, PollGroup, Session, SessionError};

/// The unit id of a device that is not behind a gateway, as most of them have it from the factory.
const UNIT_ID: u8 = 1;

/// Slow PLCs answer within some hundred milliseconds.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How a Modbus TCP device is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpSettings {
    /// The device's name, for messages.
    pub device: String,
    /// `host:port`.
    pub address: String,
    /// The unit behind the address.
    pub unit_id: u8,
    /// The most that connecting may take, and each request.
    pub timeout: Duration,
    /// What the device can do in one request.
    pub limits: Limits,
}

impl TcpSettings {
    /// Settings with unit id 1, a timeout of 1 s and the limits of the specification.
    pub fn new(device: impl Into<String>, address: impl Into<String>) -> Self {
        Self {
            device: device.into(),
            address: address.into(),
            unit_id: UNIT_ID,
            timeout: TIMEOUT,
            limits: Limits::default(),
        }
    }

    async fn connect(&self) -> Result<Link<TcpStream>, SessionError> {
        let failed = |source: io::Error| SessionError::Connect {
            address: self.address.clone(),
            source,
        };
        let connecting = TcpStream::connect(&self.address);
        let stream = match tokio::time::timeout(self.timeout, connecting).await {
            Ok(connected) => connected.map_err(failed)?,
            Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
        };
        // Requests are small and each waits for its reply: there is nothing to collect.
        stream.set_nodelay(true).map_err(failed)?;
        Ok(Link::new(
            stream,
            Peer {
                device: self.device.clone(),
                unit: self.unit_id,
                timeout: self.timeout,
            },
        ))
    }
}

/// A Modbus TCP device and its tags.
pub struct TcpDriver {
    settings: TcpSettings,
    groups: Vec<PollGroup>,
    /// One a poll group, planned and without knowledge of the device; sessions begin with a copy.
    readers: Vec<GroupReader>,
    clock: Arc<dyn Clock>,
}

impl TcpDriver {
    /// Groups the points by interval, shortest first, and plans each group's requests.
    pub fn new(settings: TcpSettings, points: Vec<Point>, clock: Arc<dyn Clock>) -> Self {
        let mut by_interval: BTreeMap<Duration, Vec<Point>> = BTreeMap::new();
        for point in points {
            by_interval.entry(point.interval).or_default().push(point);
        }
        let groups = by_interval.iter().map(|(interval, points)| PollGroup {
            interval: *interval,
            tags: points.iter().map(|point| point.tag).collect(),
        });
        let readers = by_interval.values();
        Self {
            groups: groups.collect(),
            readers: readers
                .map(|points| GroupReader::new(points, settings.limits))
                .collect(),
            settings,
            clock,
        }
    }
}

#[async_trait]
impl Driver for TcpDriver {
    fn poll_groups(&self) -> &[PollGroup] {
        &self.groups
    }

    fn tags(&self) -> Vec<TagId> {
        self.groups.iter().flat_map(|g| g.tags.clone()).collect()
    }

    async fn open(&self) -> Result<Box<dyn Session>, SessionError> {
        Ok(Box::new(TcpSession {
            link: self.settings.connect().await?,
            device: self.settings.device.clone(),
            readers: self.readers.clone(),
            clock: Arc::clone(&self.clock),
            usable: true,
        }))
    }
}

struct TcpSession {
    link: Link<TcpStream>,
    device: String,
    readers: Vec<GroupReader>,
    clock: Arc<dyn Clock>,
    /// False from the start of an exchange to its good end: an error or a dropped read leaves it so.
    usable: bool,
}

#[async_trait]
impl Session for TcpSession {
    async fn read(&mut self, group: usize) -> Result<Reading, SessionError> {
        let Some(reader) = self.readers.get_mut(group) else {
            return Ok(Reading::default());
        };
        if !std::mem::take(&mut self.usable) {
            return Err(SessionError::Lost {
                device: self.device.clone(),
                source: io::ErrorKind::NotConnected.into(),
            });
        }
        let reading = reader.read(&mut self.link, &*self.clock).await?;
        self.usable = true;
        Ok(reading)
    }

    async fn notified(&mut self) -> Result<Reading, SessionError> {
        std::future::pending().await
    }

    fn settle(&mut self, _receipt: Receipt) {
        // A polled device keeps nothing back, so that no reading carries a receipt.
    }

    fn remarks(&self) -> Vec<String> {
        let now = self.clock.now();
        let readers = self.readers.iter();
        let mut remarks: Vec<String> = readers.flat_map(|reader| reader.remarks(now)).collect();
        let stale = self.link.stale_dropped_total();
        if stale > 0 {
            remarks.push(format!(
                "replies that belonged to no open request and were dropped: {stale}"
            ));
        }
        remarks
    }

    async fn close(&mut self) {
        self.link.shutdown().await;
    }
}

/// Connects, reads one point and closes: what `millrace read --on` does.
///
/// The sample has tag number 0: there is no configuration that could have given it one.
///
/// # Errors
/// As [`Driver::open`] and [`Session::read`]. What the device refuses is a bad sample.
pub async fn read_once(
    settings: &TcpSettings,
    spec: &PointSpec,
    clock: &dyn Clock,
) -> Result<Sample, SessionError> {
    const NO_TAG: TagId = TagId(0);
    let mut link = settings.connect().await?;
    let request = plan::single(spec);
    let read = ReadRequest {
        table: request.table,
        start: request.start,
        count: request.count,
    };
    let Reply { answer, at } = link.exchange(&read, clock).await?;
    let value = match answer {
        Answer::Data(data) => Extract::new(spec, &request).value(data),
        Answer::Exception(code) => Err(reason(code)),
    };
    link.shutdown().await;
    Ok(match value {
        Ok(value) => Sample::good(NO_TAG, value, at),
        Err(reason) => Sample::bad(NO_TAG, reason, at),
    })
}
