//! Listening in on a device or a line of the running gateway.

use millrace_drivers::modbus::trace::Kind;
use millrace_drivers::modbus::{Piece, Tap, Way, tape};
use millrace_tags::Moment;

use crate::config::Connection;
use crate::gateway::{Gateway, NotFound};
use crate::report::{TracePiece, TracePoint};

/// Why there is nothing to listen to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoTrace {
    /// No such name.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// It has no frames.
    #[error("{0} speaks OPC UA; frames are shown of Modbus devices and lines")]
    OpcUa(String),
}

impl Gateway {
    /// Where to listen in on the device or the line of this name.
    pub(crate) fn trace_point(&self, name: &str) -> Result<(Tap, TracePoint), NoTrace> {
        let point = |kind: Kind, unit: Option<u8>| TracePoint {
            name: name.to_owned(),
            framing: kind.name().to_owned(),
            unit,
        };
        if let Some(tap) = self.taps.get(name) {
            return Ok((tap.clone(), point(Kind::Tcp, None)));
        }
        let device = self
            .config
            .enabled_devices()
            .find(|device| device.name == name);
        let (line, unit) = match device.map(|device| &device.connection) {
            None => (name, None),
            Some(Connection::ModbusRtu { line, settings }) => {
                (line.as_str(), Some(settings.unit_id))
            }
            Some(Connection::ModbusRtuTcp {
                address, settings, ..
            }) => (address.as_str(), Some(settings.unit_id)),
            Some(_) => return Err(NoTrace::OpcUa(name.to_owned())),
        };
        let of_line = self.lines.iter().find(|known| {
            // A line of a modem that dials in is named by its source, too.
            let source = known.name().strip_prefix(line);
            source.is_some_and(|rest| rest.is_empty() || rest.starts_with(" from "))
        });
        match of_line {
            Some(line) => Ok((line.tap().clone(), point(Kind::Rtu, unit))),
            None => Err(self.nothing_named(name).into()),
        }
    }

    fn nothing_named(&self, name: &str) -> NotFound {
        let devices = self.devices.iter().map(|device| device.name.as_str());
        let known = devices.chain(self.lines.iter().map(|line| line.name()));
        NotFound::new("device or line", name, known)
    }
}

impl From<Piece> for TracePiece {
    fn from(piece: Piece) -> Self {
        let way = match piece.way {
            Way::Sent => "sent",
            Way::Received => "received",
            Way::Lost => "lost",
        };
        Self {
            ns: piece.at.0,
            link: piece.link,
            way: way.to_owned(),
            hex: tape::hex(&piece.bytes),
            missed: piece.missed,
        }
    }
}

impl TracePiece {
    /// The piece again; `None` where an agent of another version wrote it.
    pub(crate) fn piece(&self) -> Option<Piece> {
        let way = match self.way.as_str() {
            "sent" => Way::Sent,
            "received" => Way::Received,
            "lost" => Way::Lost,
            _ => return None,
        };
        Some(Piece {
            at: Moment(self.ns),
            link: self.link,
            way,
            bytes: tape::unhex(&self.hex)?.into(),
            missed: self.missed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_travel_as_they_are() {
        for way in [Way::Sent, Way::Received, Way::Lost] {
            let piece = Piece {
                at: Moment(7),
                link: 2,
                way,
                bytes: vec![1, 0xAB].into(),
                missed: 3,
            };
            let sent = serde_json::to_string(&TracePiece::from(piece.clone())).unwrap();
            let received: TracePiece = serde_json::from_str(&sent).unwrap();
            assert_eq!(received.piece(), Some(piece));
        }
        assert_eq!(TracePiece::default().piece(), None);
    }
}
