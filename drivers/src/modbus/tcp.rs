//! Modbus TCP: the driver and its session.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use millrace_tags::{Clock, Sample, TagId};
use tokio::net::TcpStream;

use super::decode::Extract;
use super::dial_in::DialIn;
use super::exchange::{Exchange, Wire};
use super::fault::FaultCounts;
use super::link::{Framing, Link, Peer, Transport};
use super::plan::{self, Barrier, Limits};
use super::point::{Point, PointSpec};
use super::reader::reason;
use super::reply::{Answer, Reply};
use super::request::{ReadRequest, Request};
use super::session::{Groups, UnitSession};
use super::tap::Tap;
use super::tls::TlsSettings;
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
    /// Ranges without a point that must not be read across, as barriers at their beginnings.
    pub forbidden: Vec<Barrier>,
    /// Requests that may wait for their replies at the same time. More than one only helps with devices
    /// that work on several at once, or are far away.
    pub max_in_flight: usize,
    /// Modbus Security; plain TCP where `None`.
    pub tls: Option<TlsSettings>,
}

impl TcpSettings {
    /// Settings with unit id 1, a timeout of 1 s, one request in flight and the limits of the
    /// specification.
    pub fn new(device: impl Into<String>, address: impl Into<String>) -> Self {
        Self {
            device: device.into(),
            address: address.into(),
            unit_id: UNIT_ID,
            timeout: TIMEOUT,
            limits: Limits::default(),
            forbidden: Vec::new(),
            max_in_flight: 1,
            tls: None,
        }
    }

    fn peer(&self) -> Peer {
        Peer {
            device: self.device.clone(),
            unit: self.unit_id,
            timeout: self.timeout,
        }
    }

    fn cannot_connect(&self, source: io::Error) -> SessionError {
        SessionError::Connect {
            address: self.address.clone(),
            source,
        }
    }

    /// Connects, and inside of TLS where the settings ask for it; what the handshake showed comes with it.
    async fn connect(&self) -> Result<(Box<dyn Transport>, Vec<String>), SessionError> {
        let stream = connect(&self.address, self.timeout).await?;
        let Some(tls) = &self.tls else {
            return Ok((Box::new(stream), Vec::new()));
        };
        let shaking = tls.handshake(&self.device, &self.address, stream);
        match tokio::time::timeout(self.timeout, shaking).await {
            Ok(shaken) => shaken,
            Err(_) => Err(self.cannot_connect(io::ErrorKind::TimedOut.into())),
        }
    }
}

/// Opens a TCP connection within `timeout`.
pub(crate) async fn connect(address: &str, timeout: Duration) -> Result<TcpStream, SessionError> {
    let failed = |source: io::Error| SessionError::Connect {
        address: address.to_owned(),
        source,
    };
    let stream = match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(failed)?,
        Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
    };
    // Requests are small and each waits for its reply: there is nothing to collect.
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

/// A Modbus TCP device and its tags.
pub struct TcpDriver {
    settings: TcpSettings,
    dial_in: Option<DialIn>,
    groups: Groups,
    faults: FaultCounts,
    tap: Tap,
    clock: Arc<dyn Clock>,
}

impl TcpDriver {
    /// Groups the points by interval, shortest first, and plans each group's requests.
    pub fn new(settings: TcpSettings, points: Vec<Point>, clock: Arc<dyn Clock>) -> Self {
        Self {
            groups: Groups::new(points, settings.limits, &settings.forbidden),
            settings,
            dial_in: None,
            faults: FaultCounts::default(),
            tap: Tap::new(Arc::clone(&clock)),
            clock,
        }
    }

    /// The same for a device that connects to us.
    pub fn dialled_in(self, dial_in: DialIn) -> Self {
        Self {
            dial_in: Some(dial_in),
            ..self
        }
    }

    /// Where to listen in on its connections.
    pub fn tap(&self) -> &Tap {
        &self.tap
    }

    /// A session over a connection that somebody else has made, such as one through a running agent.
    pub fn open_over(&self, stream: Box<dyn Transport>) -> Box<dyn Session> {
        self.session(self.wire(stream, Vec::new()))
    }

    fn session(&self, wire: Wire) -> Box<dyn Session> {
        let device = &self.settings.device;
        Box::new(UnitSession::new(wire, device, &self.groups, &self.clock))
    }

    fn wire(&self, stream: Box<dyn Transport>, remarks: Vec<String>) -> Wire {
        let link = Link::new(stream, Framing::Tcp, self.faults.clone());
        Wire {
            link: link.tapped(&self.tap),
            peer: self.settings.peer(),
            depth: self.settings.max_in_flight,
            clock: Arc::clone(&self.clock),
            remarks,
        }
    }

    /// A connection that dialled in, and answers as this unit where its source does not say whose it is.
    async fn take_dialled(&self, dial_in: &DialIn) -> Result<Wire, SessionError> {
        let TcpSettings {
            device, timeout, ..
        } = &self.settings;
        let dialled = dial_in.take(device, *timeout).await?;
        let is_known = dialled.is_known();
        let Some(request) = self.groups.first_request().filter(|_| !is_known) else {
            return Ok(self.wire(Box::new(dialled.accept()), Vec::new()));
        };
        let mut dialled = dialled;
        let link = Link::new(dialled.stream(), Framing::Tcp, self.faults.clone());
        let link = &mut link.tapped(&self.tap);
        let peer = self.settings.peer();
        match link.exchange(&peer, request, &*self.clock).await {
            Ok(_) => Ok(self.wire(Box::new(dialled.accept()), Vec::new())),
            Err(error) => {
                dialled
                    .give_back(matches!(error, SessionError::Timeout { .. }) || is_foreign(&error));
                Err(error)
            }
        }
    }
}

/// Whether the connection lives and is only not ours.
fn is_foreign(error: &SessionError) -> bool {
    matches!(error, SessionError::Protocol { .. })
}

#[async_trait]
impl Driver for TcpDriver {
    fn poll_groups(&self) -> &[PollGroup] {
        &self.groups.polled
    }

    fn tags(&self) -> Vec<TagId> {
        self.groups.tags()
    }

    async fn open(&self) -> Result<Box<dyn Session>, SessionError> {
        let settings = &self.settings;
        let wire = match &self.dial_in {
            Some(dial_in) => self.take_dialled(dial_in).await?,
            None => {
                let (stream, remarks) = settings.connect().await?;
                self.wire(stream, remarks)
            }
        };
        Ok(self.session(wire))
    }
}

/// Reads one point over a way that is open.
pub(crate) async fn read_point(
    way: &mut impl Exchange,
    spec: &PointSpec,
) -> Result<Sample, SessionError> {
    const NO_TAG: TagId = TagId(0);
    let request = plan::single(spec);
    let read = Request::Read(ReadRequest {
        table: request.table,
        start: request.start,
        count: request.count,
    });
    let Reply { answer, at } = way.exchange(&read).await?;
    let value = match answer {
        Answer::Data(data) => Extract::new(spec, &request).value(data),
        Answer::Exception(code) => Err(reason(code)),
        Answer::Spoilt(reason) => Err(reason),
        Answer::Written => Err(millrace_tags::Reason::InvalidReply),
    };
    Ok(match value {
        Ok(value) => Sample::good(NO_TAG, value, at),
        Err(reason) => Sample::bad(NO_TAG, reason, at),
    })
}

#[cfg(test)]
impl TcpDriver {
    /// Waits for no longer than this.
    pub(crate) fn shorten(&mut self, timeout: Duration) {
        self.settings.timeout = timeout;
    }

    /// Trusts another authority.
    pub(crate) fn trust(&mut self, ca_file: std::path::PathBuf) {
        if let Some(tls) = &mut self.settings.tls {
            tls.ca_file = ca_file;
        }
    }
}
