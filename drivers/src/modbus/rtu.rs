//! Modbus RTU: a unit on a line that it may share.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use millrace_tags::{Clock, TagId};

use super::frame::rtu::BROADCAST;
use super::line::Line;
use super::link::Peer;
use super::plan::{Barrier, Limits};
use super::point::Point;
use super::session::{Groups, UnitSession};
use crate::{Driver, PollGroup, Session, SessionError};

/// Slow meters answer within some hundred milliseconds.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A unit on a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RtuSettings {
    /// The device's name, for messages.
    pub device: String,
    /// Its unit; 0 is all units at once, and can only be written.
    pub unit_id: u8,
    /// The most that a reply may be away, besides the time of its bytes.
    pub timeout: Duration,
    /// What the device can do in one request. What a request costs is the line's to say.
    pub limits: Limits,
    /// Ranges without a point that must not be read across, as barriers at their beginnings.
    pub forbidden: Vec<Barrier>,
}

impl RtuSettings {
    /// Settings with a timeout of 1 s and the limits of the specification.
    pub fn new(device: impl Into<String>, unit_id: u8) -> Self {
        Self {
            device: device.into(),
            unit_id,
            timeout: TIMEOUT,
            limits: Limits::default(),
            forbidden: Vec::new(),
        }
    }

    fn peer(&self) -> Peer {
        Peer {
            device: self.device.clone(),
            unit: self.unit_id,
            timeout: self.timeout,
        }
    }
}

/// A unit on a line, and its tags.
pub struct RtuDriver {
    settings: RtuSettings,
    line: Line,
    groups: Groups,
    clock: Arc<dyn Clock>,
}

impl RtuDriver {
    /// Groups the points by interval, shortest first, and plans each group's requests for this line.
    pub fn new(
        settings: RtuSettings,
        line: Line,
        points: Vec<Point>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let limits = Limits {
            cost: line.pace().cost(),
            ..settings.limits
        };
        Self {
            groups: Groups::new(points, limits, &settings.forbidden),
            settings,
            line,
            clock,
        }
    }
}

#[async_trait]
impl Driver for RtuDriver {
    fn poll_groups(&self) -> &[PollGroup] {
        &self.groups.polled
    }

    fn tags(&self) -> Vec<TagId> {
        self.groups.tags()
    }

    fn shares_a_line(&self) -> bool {
        true
    }

    async fn open(&self) -> Result<Box<dyn Session>, SessionError> {
        let need = self.groups.need(self.line.pace());
        let seat = self.line.sit(self.settings.peer(), need);
        let session = UnitSession::new(seat, &self.settings.device, &self.groups, &self.clock);
        Ok(Box::new(
            session.broadcasting(self.settings.unit_id == BROADCAST),
        ))
    }
}
