//! Calls any unit over one link, for the tools that a person works with in the field.
//!
//! A session reads the points of one configured unit. A caller asks whatever it is told, of whichever unit,
//! and takes a silence for an answer: that nobody is there is what a scan wants to know.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_tags::{Clock, Sample, Value};
use tokio_modbus::ExceptionCode;

use super::exchange::Exchange;
use super::fault::{Fault, FaultCounts};
use super::frame::rtu::BROADCAST;
use super::link::{Framing, Link, Peer, Transport};
use super::pace::Pace;
use super::point::PointSpec;
use super::reply::{Answer, Reply};
use super::request::Request;
use super::serial::SerialSettings;
use super::tcp::{connect, read_point};
use super::write::write;
use crate::{SessionError, WriteError, WriteReport};

/// How a unit answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// The data bytes.
    Data(Vec<u8>),
    /// The write was done.
    Written,
    /// It is there, and refuses: the code.
    Exception(u8),
    /// It is there: a whole frame of it, which is no answer to what was asked.
    Wrong,
    /// Something came that is no frame.
    Garbled,
    /// Nothing came, or a gateway says that nobody answers it.
    Silence,
}

impl Heard {
    /// Whether a unit is there.
    pub fn is_answer(&self) -> bool {
        !matches!(self, Heard::Garbled | Heard::Silence)
    }
}

/// Where the caller's link comes from.
enum Reach {
    Tcp(String),
    RtuOverTcp(String),
    Serial(SerialSettings, Pace),
    /// Opened by somebody else; not opened again.
    Given,
}

/// Calls units over one link, which it opens again where a device has closed it.
pub struct Caller {
    reach: Reach,
    link: Option<Link<Box<dyn Transport>>>,
    faults: FaultCounts,
    timeout: Duration,
    clock: Arc<dyn Clock>,
}

impl Caller {
    fn new(reach: Reach, timeout: Duration, clock: &Arc<dyn Clock>) -> Self {
        Self {
            reach,
            link: None,
            faults: FaultCounts::default(),
            timeout,
            clock: Arc::clone(clock),
        }
    }

    /// Units behind `host:port`. Nothing is opened yet.
    pub fn tcp(address: impl Into<String>, timeout: Duration, clock: &Arc<dyn Clock>) -> Self {
        Self::new(Reach::Tcp(address.into()), timeout, clock)
    }

    /// Units behind a gateway that passes RTU frames on. Nothing is opened yet.
    pub fn rtu_over_tcp(
        address: impl Into<String>,
        timeout: Duration,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        Self::new(Reach::RtuOverTcp(address.into()), timeout, clock)
    }

    /// Units on a serial port that nobody else uses. Nothing is opened yet.
    pub fn serial(settings: SerialSettings, timeout: Duration, clock: &Arc<dyn Clock>) -> Self {
        let pace = settings.pace();
        Self::new(Reach::Serial(settings, pace), timeout, clock)
    }

    /// As [`Caller::serial`], in a hurry: after a silence the line must be quiet for two short replies, not for
    /// the longest. For requests whose answers are short, each to another unit: a late answer names its own.
    pub(crate) fn hasty(
        settings: SerialSettings,
        timeout: Duration,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let pace = hasty_pace(&settings);
        Self::new(Reach::Serial(settings, pace), timeout, clock)
    }

    /// Units behind a connection that speaks Modbus TCP, such as one through a running agent.
    pub fn over(stream: Box<dyn Transport>, timeout: Duration, clock: &Arc<dyn Clock>) -> Self {
        let mut caller = Self::new(Reach::Given, timeout, clock);
        caller.link = Some(Link::new(stream, Framing::Tcp, caller.faults.clone()));
        caller
    }

    /// What went wrong so far.
    pub fn faults(&self) -> &FaultCounts {
        &self.faults
    }

    /// How often something came that nobody sent: what a line with other settings sounds like.
    pub fn noise(&self) -> u64 {
        [Fault::Noise, Fault::Checksum, Fault::Truncated]
            .map(|fault| self.faults.get(fault))
            .iter()
            .sum()
    }

    /// Asks one unit. A TCP device that has closed the connection is connected once more.
    ///
    /// # Errors
    /// There is no way to the units: no port, no host.
    pub async fn call(&mut self, unit: u8, request: &Request) -> Result<Heard, SessionError> {
        match self.ask(unit, request).await {
            Err(SessionError::Lost { .. }) if self.reopens() && !request.is_write() => {
                match self.ask(unit, request).await {
                    // It hangs up on this request: nobody is there for it.
                    Err(SessionError::Lost { .. }) => Ok(Heard::Silence),
                    asked => asked,
                }
            }
            asked => asked,
        }
    }

    fn reopens(&self) -> bool {
        matches!(self.reach, Reach::Tcp(_) | Reach::RtuOverTcp(_))
    }

    async fn ask(&mut self, unit: u8, request: &Request) -> Result<Heard, SessionError> {
        const NOBODY: [ExceptionCode; 2] = [
            ExceptionCode::GatewayPathUnavailable,
            ExceptionCode::GatewayTargetDevice,
        ];
        const WRONG: [Fault; 3] = [Fault::WrongFunction, Fault::WrongLength, Fault::WrongEcho];
        let faults = self.faults.clone();
        let wrong = || WRONG.map(|fault| faults.get(fault));
        let before = wrong();
        let mut call = self.unit(unit);
        let heard = match call.exchange(request).await {
            Ok(Reply { answer, .. }) => match answer {
                Answer::Data(data) => Heard::Data(data.to_vec()),
                Answer::Written => Heard::Written,
                Answer::Exception(code) if NOBODY.contains(&code) => Heard::Silence,
                Answer::Exception(code) => Heard::Exception(code.into()),
                Answer::Spoilt(_) => Heard::Garbled,
            },
            Err(SessionError::Timeout { .. }) => Heard::Silence,
            Err(SessionError::Protocol { .. }) if wrong() != before => Heard::Wrong,
            Err(SessionError::Protocol { .. }) => Heard::Garbled,
            Err(error) => {
                self.close_broken();
                return Err(error);
            }
        };
        if matches!(heard, Heard::Wrong | Heard::Garbled) && matches!(self.reach, Reach::Tcp(_)) {
            // Where the next frame begins is not known.
            self.close_broken();
        }
        Ok(heard)
    }

    fn close_broken(&mut self) {
        if !matches!(self.reach, Reach::Given) {
            self.link = None;
        }
    }

    /// Reads one point.
    ///
    /// # Errors
    /// As a session's read.
    pub async fn read(&mut self, unit: u8, spec: &PointSpec) -> Result<Sample, SessionError> {
        read_point(&mut self.unit(unit), spec).await
    }

    /// Writes one point, with its old value and what it holds then.
    ///
    /// # Errors
    /// As a session's write.
    pub async fn write(
        &mut self,
        unit: u8,
        spec: &PointSpec,
        value: &Value,
    ) -> Result<WriteReport, WriteError> {
        let broadcast = unit == BROADCAST && !matches!(self.reach, Reach::Tcp(_));
        write(&mut self.unit(unit), spec, value, broadcast).await
    }

    fn unit(&mut self, unit: u8) -> Call<'_> {
        Call { caller: self, unit }
    }

    async fn opened(&mut self) -> Result<&mut Link<Box<dyn Transport>>, SessionError> {
        let link = match self.link.take() {
            Some(link) => link,
            None => self.open().await?,
        };
        Ok(self.link.insert(link))
    }

    async fn open(&mut self) -> Result<Link<Box<dyn Transport>>, SessionError> {
        let (stream, framing): (Box<dyn Transport>, _) = match &self.reach {
            Reach::Tcp(address) => (
                Box::new(connect(address, self.timeout).await?),
                Framing::Tcp,
            ),
            Reach::RtuOverTcp(address) => (
                Box::new(connect(address, self.timeout).await?),
                Framing::Rtu(Pace::behind_network()),
            ),
            Reach::Serial(settings, pace) => (settings.connect()?, Framing::Rtu(*pace)),
            Reach::Given => {
                return Err(SessionError::Lost {
                    device: "the agent".to_owned(),
                    source: std::io::ErrorKind::BrokenPipe.into(),
                });
            }
        };
        Ok(Link::new(stream, framing, self.faults.clone()))
    }
}

/// The pace of [`Caller::hasty`].
pub(crate) fn hasty_pace(settings: &SerialSettings) -> Pace {
    const TWO_SHORT_REPLIES: usize = 16;
    let pace = settings.pace();
    Pace {
        fence: pace.bytes(TWO_SHORT_REPLIES) + pace.silence,
        ..pace
    }
}

/// One unit of a caller.
struct Call<'c> {
    caller: &'c mut Caller,
    unit: u8,
}

impl Exchange for Call<'_> {
    async fn exchange(&mut self, request: &Request) -> Result<Reply<'_>, SessionError> {
        let peer = Peer {
            device: format!("unit {}", self.unit),
            unit: self.unit,
            timeout: self.caller.timeout,
        };
        let clock = Arc::clone(&self.caller.clock);
        let link = self.caller.opened().await?;
        link.exchange(&peer, request, &*clock).await
    }

    fn faults(&self) -> BTreeMap<String, u64> {
        self.caller.faults.of_unit(self.unit)
    }

    async fn close(&mut self) {}
}
