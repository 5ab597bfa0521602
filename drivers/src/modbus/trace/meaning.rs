//! What a frame says.

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::{Asked, Frame, Kind};
use crate::modbus::address::Table;
use crate::modbus::frame::mbap::{HEADER_BYTES, Header};
use crate::modbus::frame::rtu::{self, BROADCAST, ENVELOPE_BYTES};
use crate::modbus::reply::{Answer, EXCEPTION_FLAG};
use crate::modbus::request::{ReadRequest, Request};
use crate::modbus::tap::Way;

/// Values that are written out in a text; all of them are in [`Meaning::values`].
const VALUES_SHOWN: usize = 16;

/// What a frame says, and what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Meaning {
    /// Whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<u8>,
    /// The function, without the mark of an exception.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<u8>,
    /// Over TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction: Option<u16>,
    /// What is read or written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<Read>,
    /// Registers, or bits as 0 and 1.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<u16>,
    /// A refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exception: Option<Exception>,
    /// On a serial line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
    /// What is wrong with it, where anything is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wrong: Option<String>,
    /// All of that for a person.
    pub text: String,
}

/// A range of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Read {
    /// The table's name.
    pub table: &'static str,
    /// The first address.
    pub start: u16,
    /// How many.
    pub count: u16,
}

/// An exception code and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Exception {
    /// The code.
    pub code: u8,
    /// As the specification calls it.
    pub name: &'static str,
}

/// The checksum of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Checksum {
    /// As it came, in the order of its bytes.
    #[serde(serialize_with = "digits")]
    pub found: [u8; 2],
    /// As it should be.
    #[serde(serialize_with = "digits")]
    pub right: [u8; 2],
}

fn digits<S: serde::Serializer>(bytes: &[u8; 2], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&crate::modbus::tape::hex(bytes))
}

impl Exception {
    /// The exception of that code.
    pub fn of(code: u8) -> Self {
        let name = match code {
            1 => "illegal function",
            2 => "illegal data address",
            3 => "illegal data value",
            4 => "server device failure",
            5 => "acknowledge",
            6 => "server device busy",
            8 => "memory parity error",
            10 => "gateway path unavailable",
            11 => "gateway target device failed to respond",
            _ => "not in the specification",
        };
        Self { code, name }
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exception {:02} ({})", self.code, self.name)
    }
}

impl Checksum {
    fn of(frame: &[u8]) -> Option<Self> {
        let (content, found) = frame.split_last_chunk::<2>()?;
        Some(Self {
            found: *found,
            right: rtu::crc(content).to_le_bytes(),
        })
    }

    /// Whether it is as it should be.
    pub fn is_right(&self) -> bool {
        self.found == self.right
    }
}

impl fmt::Display for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.start.saturating_add(self.count.saturating_sub(1));
        match self.count {
            1 => write!(f, "{}:{}", self.table, self.start),
            count => write!(f, "{}:{}-{last} ({count})", self.table, self.start),
        }
    }
}

impl Meaning {
    /// What the frame says.
    pub fn of(kind: Kind, frame: &Frame) -> Self {
        if frame.way == Way::Lost {
            return Self {
                text: "the connection was closed".to_owned(),
                ..Self::default()
            };
        }
        let mut meaning = match kind {
            Kind::Tcp => of_tcp(frame),
            Kind::Rtu => of_rtu(frame),
        };
        if let Some(wrong) = &meaning.wrong {
            let joint = match meaning.text.as_str() {
                "" => "",
                text if text.ends_with(':') => " ",
                _ => "; ",
            };
            meaning.text = format!("{}{joint}{wrong}", meaning.text);
        }
        meaning
    }

    fn wrong(what: impl Into<String>) -> Self {
        Self {
            wrong: Some(what.into()),
            ..Self::default()
        }
    }
}

fn of_tcp(frame: &Frame) -> Meaning {
    let bytes = &frame.bytes;
    let header = match Header::parse(bytes) {
        Ok(Some(header)) => header,
        Ok(None) => {
            return Meaning::wrong(format!("broken off in its header, {} bytes", bytes.len()));
        }
        Err(error) => return Meaning::wrong(format!("no Modbus TCP frame: {error}")),
    };
    let pdu = &bytes[HEADER_BYTES..];
    let asked = frame.asked.as_ref().filter(|_| frame.is_answer);
    let mut meaning = of_pdu(frame.way, asked, header.unit, pdu);
    meaning.transaction = Some(header.transaction);
    if pdu.len() < header.pdu_bytes {
        let all = header.frame_bytes();
        meaning.wrong = Some(format!("broken off after {} of {all} bytes", bytes.len()));
    } else if frame.way == Way::Received && !frame.is_answer {
        meaning.wrong = Some(format!(
            "answers no open request (transaction {}): late, or doubled",
            header.transaction
        ));
    }
    meaning
}

fn of_rtu(frame: &Frame) -> Meaning {
    let bytes = &frame.bytes;
    if let Some((unit, pdu)) = rtu::decode(bytes) {
        let mut meaning = of_pdu(frame.way, frame.asked.as_ref(), unit, pdu);
        meaning.checksum = Checksum::of(bytes);
        if is_echo(frame, unit, pdu) {
            meaning = Meaning {
                checksum: meaning.checksum,
                ..of_pdu(Way::Sent, None, unit, pdu)
            };
        }
        if frame.way == Way::Received && !frame.is_answer {
            meaning.wrong = Some(unasked(frame, unit, pdu));
        }
        return meaning;
    }
    let asked = frame.asked.as_ref();
    let began = asked.filter(|asked| {
        let function = asked.request.as_ref().map(Request::function);
        let same = |f: &u8| function.is_none_or(|function| f & !EXCEPTION_FLAG == function);
        bytes.first() == Some(&asked.unit) && bytes.get(1).is_none_or(same)
    });
    let Some(asked) = began else {
        return Meaning::wrong(format!("noise: {} bytes that are no frame", bytes.len()));
    };
    let expected = asked.request.as_ref().and_then(|request| {
        let reply = request.reply_bytes(bytes.get(1..).unwrap_or_default());
        reply.map(|pdu| pdu + ENVELOPE_BYTES)
    });
    match expected {
        Some(expected)
            if bytes.len() < expected && bytes.get(1).is_none_or(|f| f & EXCEPTION_FLAG == 0) =>
        {
            Meaning {
                unit: Some(asked.unit),
                text: format!("{}:", whose(asked.unit)),
                ..Meaning::wrong(format!(
                    "broken off after {} of {expected} bytes",
                    bytes.len()
                ))
            }
        }
        _ => {
            let content = bytes.get(1..bytes.len().saturating_sub(2));
            let mut meaning = of_pdu(
                frame.way,
                Some(asked),
                asked.unit,
                content.unwrap_or_default(),
            );
            meaning.checksum = Checksum::of(bytes);
            meaning.wrong = meaning.checksum.map(|Checksum { found, right }| {
                format!(
                    "CRC {:02X} {:02X} is wrong, {:02X} {:02X} would be right",
                    found[0], found[1], right[0], right[1]
                )
            });
            meaning
        }
    }
}

/// Why a whole frame of a line is no answer.
fn unasked(frame: &Frame, unit: u8, pdu: &[u8]) -> String {
    let Some(asked) = &frame.asked else {
        return "nothing was asked".to_owned();
    };
    match (is_echo(frame, unit, pdu), unit == asked.unit) {
        (true, _) => "the request itself: the adapter hears itself".to_owned(),
        (_, false) => format!("unit {} was asked", asked.unit),
        _ => "late, or doubled".to_owned(),
    }
}

fn is_echo(frame: &Frame, unit: u8, pdu: &[u8]) -> bool {
    let asked = frame.asked.as_ref().filter(|asked| asked.unit == unit);
    let request = asked.and_then(|asked| asked.request.as_ref());
    frame.way == Way::Received
        && !frame.is_answer
        && request.is_some_and(|request| {
            let mut sent = Vec::new();
            request.encode(&mut sent);
            sent == pdu
        })
}

fn of_pdu(way: Way, asked: Option<&Asked>, unit: u8, pdu: &[u8]) -> Meaning {
    let mut meaning = match way {
        Way::Sent => of_request(pdu),
        _ => of_reply(asked, unit, pdu),
    };
    meaning.unit = Some(unit);
    meaning.function = pdu.first().map(|function| function & !EXCEPTION_FLAG);
    meaning.text = format!("{}: {}", whose(unit), meaning.text);
    meaning
}

fn whose(unit: u8) -> String {
    match unit {
        BROADCAST => "unit 0 (all)".to_owned(),
        unit => format!("unit {unit}"),
    }
}

fn of_request(pdu: &[u8]) -> Meaning {
    let Some(request) = Request::decode(pdu) else {
        return foreign(pdu);
    };
    let (range, values) = (range(&request), written(&request));
    let mut text = match &request {
        Request::Read(_) => "read".to_owned(),
        Request::Identify { access: 4, object } => format!("identify, object {object}"),
        Request::Identify { access, object } => {
            format!("identify, stream {access} from object {object}")
        }
        Request::MaskWrite { and, or, .. } => {
            format!("change bits by and {and:04X}, or {or:04X} in")
        }
        Request::ReadWrite {
            read_start,
            read_count,
            ..
        } => {
            let read = Read {
                table: Table::Holding.name(),
                start: *read_start,
                count: *read_count,
            };
            format!("read {read} after the write of")
        }
        _ => "write".to_owned(),
    };
    if let Some(range) = &range {
        let _ = write!(text, " {range}");
    }
    if !values.is_empty() {
        let _ = write!(text, " = {}", list(&values));
    }
    Meaning {
        range,
        values,
        text,
        ..Meaning::default()
    }
}

fn of_reply(asked: Option<&Asked>, unit: u8, pdu: &[u8]) -> Meaning {
    let request = asked.filter(|asked| asked.unit == unit);
    let request = request.and_then(|asked| asked.request.as_ref());
    if let [function, code] = pdu
        && function & EXCEPTION_FLAG != 0
    {
        let exception = Exception::of(*code);
        let range = request.and_then(range);
        let to = range
            .map(|range| format!(" to {range}"))
            .unwrap_or_default();
        return Meaning {
            exception: Some(exception),
            range,
            text: format!("{exception}{to}"),
            ..Meaning::default()
        };
    }
    let Some(request) = request else {
        return foreign(pdu);
    };
    match request.check(pdu) {
        Ok(Answer::Data(data)) => data_of(request, data),
        Ok(_) => {
            let (range, values) = (range(request), written(request));
            let place = range.map(|range| range.to_string()).unwrap_or_default();
            let values_text = match values.is_empty() {
                true => String::new(),
                false => format!(" = {}", list(&values)),
            };
            Meaning {
                text: format!("wrote {place}{values_text}"),
                range,
                values,
                ..Meaning::default()
            }
        }
        Err(mismatch) => Meaning {
            text: format!(
                "{} where {} would be right",
                mismatch.found, mismatch.expected
            ),
            ..Meaning::default()
        },
    }
}

fn data_of(request: &Request, data: &[u8]) -> Meaning {
    let words = || -> Vec<u16> {
        let words = data.chunks_exact(2);
        words
            .map(|two| u16::from_be_bytes([two[0], two[1]]))
            .collect()
    };
    let (range, values) = match request {
        Request::Read(read) if read.table.is_bits() => {
            let bit = |i: usize| u16::from(data[i / 8] >> (i % 8) & 1);
            let bits = (0..usize::from(read.count)).take(data.len() * 8).map(bit);
            (of_read(read), bits.collect())
        }
        Request::Read(read) => (of_read(read), words()),
        Request::ReadWrite {
            read_start,
            read_count,
            ..
        } => {
            let read = ReadRequest {
                table: Table::Holding,
                start: *read_start,
                count: *read_count,
            };
            (of_read(&read), words())
        }
        _ => {
            let printable = |byte: &u8| {
                if (32..127).contains(byte) {
                    char::from(*byte)
                } else {
                    '.'
                }
            };
            let text: String = data.iter().map(printable).collect();
            return Meaning {
                text: format!("identification \"{text}\""),
                ..Meaning::default()
            };
        }
    };
    Meaning {
        text: format!("{range} = {}", list(&values)),
        range: Some(range),
        values,
        ..Meaning::default()
    }
}

fn foreign(pdu: &[u8]) -> Meaning {
    let text = match pdu.first() {
        Some(function) => format!("function {function:02}, {} bytes", pdu.len()),
        None => "no function".to_owned(),
    };
    Meaning {
        text,
        ..Meaning::default()
    }
}

fn of_read(read: &ReadRequest) -> Read {
    Read {
        table: read.table.name(),
        start: read.start,
        count: read.count,
    }
}

/// What the request reads, or writes.
fn range(request: &Request) -> Option<Read> {
    let of = |table: Table, start: u16, count: usize| Read {
        table: table.name(),
        start,
        count: u16::try_from(count).unwrap_or(u16::MAX),
    };
    Some(match request {
        Request::Read(read) => of_read(read),
        Request::WriteCoil { address, .. } => of(Table::Coil, *address, 1),
        Request::WriteRegister { address, .. } | Request::MaskWrite { address, .. } => {
            of(Table::Holding, *address, 1)
        }
        Request::WriteCoils { start, bits } => of(Table::Coil, *start, bits.len()),
        Request::WriteRegisters { start, values }
        | Request::ReadWrite {
            write_start: start,
            values,
            ..
        } => of(Table::Holding, *start, values.len()),
        Request::Identify { .. } => return None,
    })
}

fn written(request: &Request) -> Vec<u16> {
    match request {
        Request::WriteCoil { on, .. } => vec![u16::from(*on)],
        Request::WriteRegister { value, .. } => vec![*value],
        Request::WriteCoils { bits, .. } => bits.iter().map(|bit| u16::from(*bit)).collect(),
        Request::WriteRegisters { values, .. } | Request::ReadWrite { values, .. } => {
            values.clone()
        }
        Request::Read(_) | Request::MaskWrite { .. } | Request::Identify { .. } => Vec::new(),
    }
}

fn list(values: &[u16]) -> String {
    let shown: Vec<String> = values
        .iter()
        .take(VALUES_SHOWN)
        .map(u16::to_string)
        .collect();
    let more = match values.len().checked_sub(VALUES_SHOWN) {
        Some(more @ 1..) => format!(" and {more} more"),
        _ => String::new(),
    };
    format!("{}{more}", shown.join(" "))
}
