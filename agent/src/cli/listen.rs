//! Frames of a device or a line, as the running agent exchanges them: what `trace` prints and `tape record` writes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millrace_drivers::modbus::trace::{Cutter, Frame, Kind, Meaning};
use millrace_drivers::modbus::{Way, tape};
use millrace_tags::{Clock, Moment, SystemClock, Timebase};
use serde::Serialize;
use serde_json::Value;

use super::client::{Client, Lines, query};
use super::{Failure, Global, show};
use crate::report::{TraceLine, TracePoint};

/// How often it is looked whether a frame has broken off.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Somebody who listens through the running agent.
pub(super) struct Listening {
    lines: Lines,
    clock: SystemClock,
    point: TracePoint,
    kind: Kind,
    cutter: Cutter,
    /// Connections of the configurations before this one.
    links_before: u64,
    links: u64,
}

impl Listening {
    /// Begins to listen in on a device or a line.
    pub(super) async fn begin(name: &str, global: &Global) -> anyhow::Result<Self> {
        let path = format!("/v1/modbus/trace?of={}", query(name));
        let mut lines = Client::new(global).lines(&path).await?;
        let Some(TraceLine::Of(point)) = lines.next().await? else {
            return Err(Failure::new("the agent does not say whom it listens to").into());
        };
        let kind = kind(&point)?;
        Ok(Self {
            lines,
            clock: SystemClock::new(),
            kind,
            cutter: Cutter::new(kind),
            point,
            links_before: 0,
            links: 0,
        })
    }

    /// How frames look there.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// The next frames, none where some time has passed without any. `None`: the device is not configured any more.
    ///
    /// # Cancel safety
    /// No frame is lost.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Vec<Frame>>> {
        let line = tokio::time::timeout(LOOK_EVERY, self.lines.next::<TraceLine>()).await;
        let frames = match line {
            Ok(line) => match line? {
                None => return Ok(None),
                Some(TraceLine::Of(point)) => {
                    let kind = kind(&point)?;
                    let before = std::mem::replace(&mut self.cutter, Cutter::new(kind));
                    self.links_before = self.links;
                    let frames = { before }.take_broken_off(Moment(i64::MAX));
                    if kind != self.kind {
                        return Err(Failure::new(format!(
                            "{} is reached in another way since the new configuration",
                            point.name
                        ))
                        .hint("begin again")
                        .into());
                    }
                    self.point = point;
                    frames
                }
                Some(TraceLine::Piece(piece)) => {
                    let mut piece = piece.piece().ok_or_else(|| {
                        Failure::new("the agent said something of a frame that is not understood")
                            .hint("it may be of another version: restart it after an upgrade")
                    })?;
                    piece.link += self.links_before;
                    self.links = self.links.max(piece.link + 1);
                    self.cutter.take(&piece)
                }
            },
            Err(_) => self.cutter.take_broken_off(self.clock.now()),
        };
        Ok(Some(self.of_unit(frames)))
    }

    /// What still waits for its rest.
    pub(super) fn end(mut self) -> Vec<Frame> {
        let frames = self.cutter.take_broken_off(Moment(i64::MAX));
        self.of_unit(frames)
    }

    /// Of a line only those of the device that was asked for.
    fn of_unit(&self, mut frames: Vec<Frame>) -> Vec<Frame> {
        if let Some(unit) = self.point.unit {
            frames.retain(|frame| frame.concerns(unit));
        }
        frames
    }

    /// What ties the frames' times to UTC.
    pub(super) fn timebase(&self) -> Timebase {
        self.clock.timebase()
    }
}

fn kind(point: &TracePoint) -> Result<Kind, Failure> {
    Kind::named(&point.framing)
        .ok_or_else(|| Failure::new(format!("frames of {} are not understood", point.framing)))
}

/// Shows frames one after the other.
pub(super) struct Printer {
    kind: Kind,
    timebase: Timebase,
    last: Option<Moment>,
}

/// A frame as JSON.
#[derive(Serialize)]
struct FrameRow<'a> {
    /// UTC; nothing where the clock is not set.
    at: Option<String>,
    /// Since the frame before.
    since_ms: Option<f64>,
    link: u64,
    way: &'static str,
    bytes: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<u64>,
    #[serde(flatten)]
    meaning: &'a Meaning,
}

impl Printer {
    pub(super) fn new(kind: Kind, timebase: Timebase) -> Self {
        Self {
            kind,
            timebase,
            last: None,
        }
    }

    /// A frame in two lines: what it says, and its bytes.
    pub(super) fn text(&mut self, frame: &Frame) -> String {
        let meaning = Meaning::of(self.kind, frame);
        let missed = match frame.missed {
            0 => String::new(),
            missed => format!("-- {missed} pieces were not heard: whoever listened was too slow\n"),
        };
        let at = match self.utc(frame.at) {
            // The time of day: who looks at frames knows the date.
            Some(at) => at[11..at.len() - 1].to_owned(),
            None => format!("{:.6}", frame.at.0 as f64 / 1e9),
        };
        let since = self.since(frame.at);
        let since = since.map_or_else(String::new, |ms| format!("+{}", show::millis(ms)));
        let way = match frame.way {
            Way::Sent => "->",
            Way::Received => "<-",
            Way::Lost => "--",
        };
        let crc = match meaning.checksum {
            Some(checksum) if checksum.is_right() => "  CRC ok",
            _ => "",
        };
        let bytes: Vec<String> = frame.bytes.iter().map(|b| format!("{b:02X}")).collect();
        let bytes = match bytes.is_empty() {
            true => String::new(),
            false => format!("    {}\n", bytes.join(" ")),
        };
        format!(
            "{missed}{at} {since:>10} {way} {}{crc}\n{bytes}",
            meaning.text
        )
    }

    /// A frame as one JSON object.
    pub(super) fn json(&mut self, frame: &Frame) -> anyhow::Result<Value> {
        let row = FrameRow {
            at: self.utc(frame.at),
            since_ms: self.since(frame.at),
            link: frame.link,
            way: match frame.way {
                Way::Sent => "sent",
                Way::Received => "received",
                Way::Lost => "lost",
            },
            bytes: tape::hex(&frame.bytes),
            missed: Some(frame.missed).filter(|missed| *missed > 0),
            meaning: &Meaning::of(self.kind, frame),
        };
        Ok(serde_json::to_value(row)?)
    }

    fn since(&mut self, at: Moment) -> Option<f64> {
        let last = self.last.replace(at)?;
        Some(at.since(last).as_secs_f64() * 1e3)
    }

    fn utc(&self, at: Moment) -> Option<String> {
        let utc = self.timebase.utc(at)?;
        let since_1970 = Duration::from_nanos(u64::try_from(utc.0).ok()?);
        let time: SystemTime = UNIX_EPOCH.checked_add(since_1970)?;
        Some(humantime::format_rfc3339_micros(time).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_drivers::modbus::Piece;
    use millrace_tags::{BootId, Timestamp};

    fn frames() -> Vec<Frame> {
        let mut cutter = Cutter::new(Kind::Rtu);
        let pieces = [
            (0, Way::Sent, "0103000000044409", 0),
            (12_300, Way::Received, "01030800010002000300040D14", 0),
            (1_000_000, Way::Sent, "0103000000044409", 4),
            (1_010_000, Way::Received, "01030800010002000300040DD7", 0),
            (2_000_000, Way::Sent, "010300000004", 0),
            (2_100_000, Way::Lost, "", 0),
        ];
        let mut frames = Vec::new();
        for (micros, way, digits, missed) in pieces {
            frames.extend(cutter.take(&Piece {
                at: Moment(micros * 1_000),
                link: 1,
                way,
                bytes: tape::unhex(digits).unwrap().into(),
                missed,
            }));
        }
        frames
    }

    fn printer() -> Printer {
        let boot = BootId(millrace_tags::TestClock::new(1, None).timebase().boot.0);
        let offset = Timestamp::from_unix_ms(1_795_000_000_000);
        let timebase = Timebase {
            boot,
            offset_ns: Some(offset.0),
        };
        Printer::new(Kind::Rtu, timebase)
    }

    #[test]
    fn frames_have_bytes_meaning_and_times() {
        let mut printer = printer();
        let text: String = frames().iter().map(|frame| printer.text(frame)).collect();
        insta::assert_snapshot!(text);
    }

    #[test]
    fn frames_as_json() {
        let mut printer = printer();
        let rows: Vec<Value> = frames()
            .iter()
            .map(|frame| printer.json(frame).unwrap())
            .collect();
        insta::assert_snapshot!(serde_json::to_string_pretty(&rows[..4]).unwrap());
    }
}
