//! A bus tape: frames of a link in a file, to be looked at later or played as a simulated device.
//!
//! Text, a record a line, so that it can be read, searched and sent as it is:
//!
//! ```text
//! millrace-tape 1
//! rtu 2026-11-21T16:30:00Z 10.0.0.5:4001 from 10.0.0.9 16F2
//! 0.000000 3 > 01AB 3627
//! 0.012000 3 < 02 395F
//! 2.000000 3 ? 9 483E
//! 2.000000 3 > 03 B1C9
//! 3.000000 3 x - 10DB
//! end 4 7B52
//! ```
//!
//! 1. The magic, and the version of the format.
//! 2. How frames look (`tcp`, `rtu`), when the recording began (`-` where the clock was not set), and of what.
//! 3. A record: seconds since the beginning, the connection, what happened (`>` sent to the device, `<` received, `x`
//!    the connection was closed, `?` so many pieces were not heard before the next record), the bytes in hex.
//! 4. The number of records. Without it the recording was cut off; what is there can be used.
//!
//! From the second line on each ends with a checksum: CRC-16 of Modbus over the checksum of the line before (nothing
//! before the first) and the line up to the space before its own, in hex. A line that was changed, removed, doubled or moved is found, and named.

use std::fmt::Write as _;
use std::io::{self, BufRead, Read, Write};
use std::time::Duration;

use super::frame::rtu::crc;
use super::tap::Way;
use super::trace::{Frame, Kind};
use millrace_tags::Moment;

/// The first word of a tape.
const MAGIC: &str = "millrace-tape";

/// The format that is written, and the newest that is read.
const VERSION: u32 = 1;

/// No line is longer: the longest noise that is recorded at once, twice.
const LINE_BYTES_MAX: u64 = 16 * 1024;

/// Of what a tape is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// How frames look.
    pub kind: Kind,
    /// When the recording began, as RFC 3339; `None` where the clock was not set.
    pub begun: Option<String>,
    /// The device or the line.
    pub of: String,
}

/// What happened at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Since the beginning.
    pub since: Duration,
    /// Which connection.
    pub link: u64,
    /// Which way.
    pub way: Way,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// So many pieces before it were not heard.
    pub missed: u64,
}

/// A tape that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tape {
    /// Of what.
    pub label: Label,
    /// In order.
    pub records: Vec<Record>,
    /// The recording did not come to its end: the last record may be missing.
    pub is_cut_off: bool,
}

/// Why a tape cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TapeError {
    /// The file cannot be read to its end: see the cause.
    #[error("line {line} cannot be read")]
    Unreadable {
        /// Counted from 1.
        line: usize,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is something else: name a file that `tape record` has written.
    #[error("this is no bus tape: line 1 is not \"{MAGIC} {VERSION}\"")]
    Foreign,
    /// Written by a newer program: use that one.
    #[error("the tape has version {0}; this program reads up to {VERSION}")]
    Newer(u32),
    /// The line was changed, or one before it is missing: take another copy, or cut the tape before this line.
    #[error("line {line} is damaged: {found}")]
    Damaged {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        found: String,
    },
}

impl TapeError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            TapeError::Unreadable { .. } => "is it a file, may you read it?",
            TapeError::Foreign => "`millrace tape record NAME FILE` writes one",
            TapeError::Newer(_) => "use a millrace as new as the one that recorded it",
            TapeError::Damaged { .. } => {
                "take another copy; with this line and all after it removed, the tape plays up to here"
            }
        }
    }
}

/// Writes a tape.
pub struct Recorder<W> {
    out: W,
    check: String,
    begun: Option<Moment>,
    records: u64,
}

impl<W: Write> Recorder<W> {
    /// Writes what stands before the records.
    ///
    /// # Errors
    /// As the writer.
    pub fn new(mut out: W, label: &Label) -> io::Result<Self> {
        writeln!(out, "{MAGIC} {VERSION}")?;
        let mut recorder = Self {
            out,
            check: String::new(),
            begun: None,
            records: 0,
        };
        let begun = label.begun.as_deref().unwrap_or("-");
        recorder.line(&format!("{} {begun} {}", label.kind.name(), label.of))?;
        recorder.out.flush()?;
        Ok(recorder)
    }

    /// Writes a frame; the first one is the beginning.
    ///
    /// # Errors
    /// As the writer.
    pub fn record(&mut self, frame: &Frame) -> io::Result<()> {
        let begun = *self.begun.get_or_insert(frame.at);
        let since = frame.at.since(begun);
        let at = format!(
            "{}.{:06} {}",
            since.as_secs(),
            since.subsec_micros(),
            frame.link
        );
        if frame.missed > 0 {
            self.line(&format!("{at} ? {}", frame.missed))?;
        }
        let (sign, bytes) = match frame.way {
            Way::Sent => ('>', hex(&frame.bytes)),
            Way::Received => ('<', hex(&frame.bytes)),
            Way::Lost => ('x', "-".to_owned()),
        };
        self.records += 1;
        self.line(&format!("{at} {sign} {bytes}"))
    }

    /// How many records were written.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Hands over what was written so far.
    ///
    /// # Errors
    /// As the writer.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Marks the end.
    ///
    /// # Errors
    /// As the writer.
    pub fn finish(mut self) -> io::Result<()> {
        self.line(&format!("end {}", self.records))?;
        self.out.flush()
    }

    fn line(&mut self, content: &str) -> io::Result<()> {
        self.check = checksum(&self.check, content);
        writeln!(self.out, "{content} {}", self.check)
    }
}

impl Tape {
    /// Reads a tape to its end.
    ///
    /// # Errors
    /// The first place that is wrong.
    pub fn read(mut from: impl BufRead) -> Result<Self, TapeError> {
        let mut line = 1;
        let first = next_line(&mut from, line)?;
        check_magic(first.as_deref().unwrap_or_default())?;
        let mut lines = Lines {
            check: String::new(),
            number: 1,
        };
        line += 1;
        let head = next_line(&mut from, line)?.ok_or_else(|| lines.damaged("there is none"))?;
        let label = read_label(lines.content(&head)?).ok_or_else(|| {
            lines.damaged("expected how frames look, when the recording began, and of what")
        })?;
        let mut tape = Self {
            label,
            records: Vec::new(),
            is_cut_off: true,
        };
        let mut missed = 0;
        while let Some(text) = next_line(&mut from, lines.number + 1)? {
            if !tape.is_cut_off {
                lines.number += 1;
                return Err(lines.damaged("something follows the end"));
            }
            if !text.ends_with('\n') {
                // The program or the machine ended while this was written.
                break;
            }
            let content = lines.content(&text)?;
            if let Some(count) = content.strip_prefix("end ") {
                if count.parse() != Ok(tape.records.len()) {
                    let found = format!(
                        "it tells of {count} records; there are {}",
                        tape.records.len()
                    );
                    return Err(lines.damaged(&found));
                }
                tape.is_cut_off = false;
                continue;
            }
            match read_record(content) {
                Some(Entry::Record(record)) => tape.records.push(Record {
                    missed: std::mem::take(&mut missed),
                    ..record
                }),
                Some(Entry::Missed(count)) => missed = count,
                None => return Err(lines.damaged("expected seconds, connection, way and bytes")),
            }
        }
        Ok(tape)
    }

    /// The records as frames were heard, for [`Meaning`](super::trace::Meaning); what they answer is worked out anew.
    pub fn pieces(&self) -> impl Iterator<Item = super::tap::Piece> + '_ {
        self.records.iter().map(|record| super::tap::Piece {
            at: Moment(0) + record.since,
            link: record.link,
            way: record.way,
            bytes: record.bytes.clone().into(),
            missed: record.missed,
        })
    }
}

fn check_magic(first: &str) -> Result<(), TapeError> {
    let version = first.trim_end().strip_prefix(MAGIC).map(str::trim);
    match version.and_then(|version| version.parse().ok()) {
        Some(VERSION) => Ok(()),
        Some(newer) if newer > VERSION => Err(TapeError::Newer(newer)),
        _ => Err(TapeError::Foreign),
    }
}

/// The next line with its end; `None` at the end of the file.
fn next_line(from: &mut impl BufRead, line: usize) -> Result<Option<String>, TapeError> {
    let mut bytes = Vec::new();
    let read = from
        .by_ref()
        .take(LINE_BYTES_MAX)
        .read_until(b'\n', &mut bytes);
    match read.map_err(|source| TapeError::Unreadable { line, source })? {
        0 => Ok(None),
        _ => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
    }
}

/// Checks lines against their checksums, one after the other.
struct Lines {
    check: String,
    number: usize,
}

impl Lines {
    fn content<'l>(&mut self, text: &'l str) -> Result<&'l str, TapeError> {
        self.number += 1;
        let Some((content, found)) = text.trim_end().rsplit_once(' ') else {
            return Err(self.damaged("it has no checksum"));
        };
        let right = checksum(&self.check, content);
        if found != right {
            let found = format!("its checksum is {found}, and should be {right}");
            return Err(self.damaged(&found));
        }
        self.check = right;
        Ok(content)
    }

    fn damaged(&self, found: &str) -> TapeError {
        TapeError::Damaged {
            line: self.number,
            found: found.to_owned(),
        }
    }
}

fn read_label(content: &str) -> Option<Label> {
    let (kind, rest) = content.split_once(' ')?;
    let (begun, of) = rest.split_once(' ')?;
    Some(Label {
        kind: Kind::named(kind)?,
        begun: (begun != "-").then(|| begun.to_owned()),
        of: of.to_owned(),
    })
}

enum Entry {
    Record(Record),
    Missed(u64),
}

fn read_record(content: &str) -> Option<Entry> {
    let [since, link, sign, bytes] = content.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let (seconds, micros) = since
        .split_once('.')
        .filter(|(_, micros)| micros.len() == 6)?;
    let since = Duration::from_secs(seconds.parse().ok()?)
        .checked_add(Duration::from_micros(micros.parse().ok()?))?;
    let (way, bytes) = match sign {
        ">" => (Way::Sent, unhex(bytes)?),
        "<" => (Way::Received, unhex(bytes)?),
        "x" => (Way::Lost, Vec::new()),
        "?" => return Some(Entry::Missed(bytes.parse().ok()?)),
        _ => return None,
    };
    Some(Entry::Record(Record {
        since,
        link: link.parse().ok()?,
        way,
        bytes,
        missed: 0,
    }))
}

fn checksum(before: &str, content: &str) -> String {
    format!("{:04X}", crc(format!("{before}{content}").as_bytes()))
}

/// Bytes as digits, two a byte.
pub fn hex(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(digits, "{byte:02X}");
    }
    digits
}

/// Digits as bytes; `None` where they are none.
pub fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(at_ms: u64, way: Way, bytes: &[u8], missed: u64) -> Frame {
        Frame {
            at: Moment(7) + Duration::from_millis(at_ms),
            link: 3,
            way,
            bytes: bytes.to_vec(),
            missed,
            asked: None,
            is_answer: false,
        }
    }

    fn recorded() -> String {
        let label = Label {
            kind: Kind::Rtu,
            begun: Some("2026-11-21T16:30:00Z".to_owned()),
            of: "10.0.0.5:4001 from 10.0.0.9".to_owned(),
        };
        let mut out = Vec::new();
        let mut recorder = Recorder::new(&mut out, &label).unwrap();
        recorder
            .record(&frame(0, Way::Sent, &[1, 0xAB], 0))
            .unwrap();
        recorder.record(&frame(12, Way::Received, &[2], 0)).unwrap();
        recorder.record(&frame(2_000, Way::Sent, &[3], 9)).unwrap();
        recorder.record(&frame(3_000, Way::Lost, &[], 0)).unwrap();
        recorder.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    fn read(text: &str) -> Result<Tape, TapeError> {
        Tape::read(text.as_bytes())
    }

    #[test]
    fn what_was_recorded_is_read_again() {
        let text = recorded();
        let tape = read(&text).unwrap();
        assert!(!tape.is_cut_off);
        assert_eq!(tape.label.of, "10.0.0.5:4001 from 10.0.0.9");
        let told: Vec<_> = tape
            .records
            .iter()
            .map(|r| (r.since.as_millis(), r.way, r.bytes.clone(), r.missed))
            .collect();
        let expected = [
            (0, Way::Sent, vec![1, 0xAB], 0),
            (12, Way::Received, vec![2], 0),
            (2_000, Way::Sent, vec![3], 9),
            (3_000, Way::Lost, vec![], 0),
        ];
        assert_eq!(told, expected);
    }

    /// The format is a promise: tapes lie in drawers for years.
    #[test]
    fn format_stays() {
        assert_eq!(recorded(), include_str!("tape/golden.tape"));
    }

    #[test]
    fn a_recording_that_was_cut_off_is_used_up_to_there() {
        let text = recorded();
        for cut in [text.find("end").unwrap(), text.len() - 2] {
            let tape = read(&text[..cut]).unwrap();
            assert!(tape.is_cut_off);
            assert_eq!(tape.records.len(), 4);
        }
        let middle = text.find("2.000000 3 > ").unwrap() + 4;
        assert_eq!(read(&text[..middle]).unwrap().records.len(), 2);
    }

    #[test]
    fn every_changed_byte_is_found_and_named() {
        let text = recorded();
        let begin_of = |at: usize| text[..at].matches('\n').count() + 1;
        for at in text.find('\n').unwrap() + 1..text.len() - 1 {
            for with in [b'0', b'F', b' ', b'\n'] {
                let mut damaged = text.clone().into_bytes();
                if damaged[at] == with || damaged[at] == b'\n' {
                    continue;
                }
                damaged[at] = with;
                match Tape::read(damaged.as_slice()) {
                    Err(TapeError::Damaged { line, .. }) => {
                        assert_eq!(line, begin_of(at), "byte {at}")
                    }
                    read => panic!("byte {at} as {with}: {read:?}"),
                }
            }
        }
        let lines: Vec<&str> = text.lines().collect();
        for gone in 2..lines.len() - 1 {
            let mut fewer = lines.clone();
            fewer.remove(gone);
            let error = read(&(fewer.join("\n") + "\n")).unwrap_err();
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("line {} is damaged", gone + 1)),
                "{error}"
            );
        }
        let more = read(&format!("{text}end 4 0000\n")).unwrap_err();
        assert!(more.to_string().contains("follows the end"), "{more}");
    }

    #[test]
    fn what_is_no_tape_is_refused() {
        for text in ["", "hello\n", "millrace-tape\n", "millrace-tape 0\n"] {
            assert!(matches!(read(text), Err(TapeError::Foreign)), "{text:?}");
        }
        assert!(matches!(
            read("millrace-tape 2\nrtu"),
            Err(TapeError::Newer(2))
        ));
        assert!(matches!(
            read("millrace-tape 1\n"),
            Err(TapeError::Damaged { .. })
        ));
        let long = format!("millrace-tape 1\n{}", "x".repeat(1 << 20));
        assert!(matches!(
            read(&long),
            Err(TapeError::Damaged { line: 2, .. })
        ));
    }

    #[test]
    fn digits_round_trip() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("0g"), None);
    }
}
