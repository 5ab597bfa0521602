//! What is asked of a unit: functions 01 to 06, 15, 16, 22, 23 and 43/14 (Modbus Application Protocol
//! V1.1b3, 6).
//!
//! The encoding is ours because `tokio-modbus` keeps its own private.

mod decode;

use std::fmt;
use std::time::Duration;

use super::address::Table;
use super::frame::mbap::PDU_BYTES_MAX;
use super::frame::rtu::ENVELOPE_BYTES;
use super::pace::Pace;

/// A read of one table, functions 01 to 04.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReadRequest {
    /// The table, hence the function.
    pub table: Table,
    /// The first address.
    pub start: u16,
    /// How many registers or bits.
    pub count: u16,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Functions 01 to 04.
    Read(ReadRequest),
    /// Function 05.
    WriteCoil {
        /// Where.
        address: u16,
        /// What.
        on: bool,
    },
    /// Function 06.
    WriteRegister {
        /// Where.
        address: u16,
        /// What.
        value: u16,
    },
    /// Function 15.
    WriteCoils {
        /// The first address.
        start: u16,
        /// What, 1 to 1968 bits.
        bits: Vec<bool>,
    },
    /// Function 16.
    WriteRegisters {
        /// The first address.
        start: u16,
        /// What, 1 to 123 registers.
        values: Vec<u16>,
    },
    /// Function 22: `register = (register AND and) OR (or AND NOT and)`.
    MaskWrite {
        /// Where.
        address: u16,
        /// Bits that stay.
        and: u16,
        /// What the others become.
        or: u16,
    },
    /// Function 23: writes, then reads, in one transaction.
    ReadWrite {
        /// The first address to read.
        read_start: u16,
        /// How many registers to read, 1 to 125.
        read_count: u16,
        /// The first address to write.
        write_start: u16,
        /// What, 1 to 121 registers.
        values: Vec<u16>,
    },
    /// Function 43, MEI type 14: reads identification objects.
    Identify {
        /// 1 basic, 2 regular, 3 extended, 4 one object.
        access: u8,
        /// Where to begin.
        object: u8,
    },
}

/// The MEI type of function 43 that reads identification.
pub(crate) const MEI_IDENTIFY: u8 = 0x0E;

/// How a coil is set by function 05.
const COIL_ON: u16 = 0xFF00;

impl ReadRequest {
    /// How many data bytes the reply must have.
    pub fn data_bytes(&self) -> usize {
        let count = usize::from(self.count);
        if self.table.is_bits() {
            count.div_ceil(8)
        } else {
            count * 2
        }
    }

    fn function(&self) -> u8 {
        match self.table {
            Table::Coil => 0x01,
            Table::Discrete => 0x02,
            Table::Holding => 0x03,
            Table::Input => 0x04,
        }
    }
}

impl fmt::Display for ReadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} x {}", self.table, self.start, self.count)
    }
}

impl Request {
    /// The function code.
    pub fn function(&self) -> u8 {
        match self {
            Request::Read(read) => read.function(),
            Request::WriteCoil { .. } => 0x05,
            Request::WriteRegister { .. } => 0x06,
            Request::WriteCoils { .. } => 0x0F,
            Request::WriteRegisters { .. } => 0x10,
            Request::MaskWrite { .. } => 0x16,
            Request::ReadWrite { .. } => 0x17,
            Request::Identify { .. } => 0x2B,
        }
    }

    /// Whether it changes the device.
    pub fn is_write(&self) -> bool {
        !matches!(self, Request::Read(_) | Request::Identify { .. })
    }

    /// Whether a good reply can be the request itself.
    pub(crate) fn is_confirmed_by_echo(&self) -> bool {
        matches!(
            self,
            Request::WriteCoil { .. } | Request::WriteRegister { .. } | Request::MaskWrite { .. }
        )
    }

    /// The time that it and its reply take of a line, the unit's own time not counted.
    pub fn line_time(&self, pace: &Pace) -> Duration {
        // Polling only reads, and every read request is as long.
        const REQUEST_BYTES: usize = ENVELOPE_BYTES + 5;
        let reply = self.reply_bytes(&[]).unwrap_or(PDU_BYTES_MAX);
        // Behind a network bytes take no time of ours; a request still takes some.
        pace.exchange(REQUEST_BYTES, ENVELOPE_BYTES + reply)
            .max(Duration::from_millis(1))
    }

    /// Appends the PDU.
    pub fn encode(&self, pdu: &mut Vec<u8>) {
        let word = |pdu: &mut Vec<u8>, word: u16| pdu.extend_from_slice(&word.to_be_bytes());
        pdu.push(self.function());
        match self {
            Request::Read(read) => {
                word(pdu, read.start);
                word(pdu, read.count);
            }
            Request::WriteCoil { address, on } => {
                word(pdu, *address);
                word(pdu, if *on { COIL_ON } else { 0 });
            }
            Request::WriteRegister { address, value } => {
                word(pdu, *address);
                word(pdu, *value);
            }
            Request::WriteCoils { start, bits } => {
                word(pdu, *start);
                // What is longer than a PDU is refused by the unit; callers keep to the limits above.
                word(pdu, bits.len() as u16);
                pdu.push(bits.len().div_ceil(8) as u8);
                pdu.extend(bits.chunks(8).map(pack));
            }
            Request::WriteRegisters { start, values } => {
                word(pdu, *start);
                registers(pdu, values);
            }
            Request::MaskWrite { address, and, or } => {
                word(pdu, *address);
                word(pdu, *and);
                word(pdu, *or);
            }
            Request::ReadWrite {
                read_start,
                read_count,
                write_start,
                values,
            } => {
                word(pdu, *read_start);
                word(pdu, *read_count);
                word(pdu, *write_start);
                registers(pdu, values);
            }
            Request::Identify { access, object } => {
                pdu.extend_from_slice(&[MEI_IDENTIFY, *access, *object]);
            }
        }
    }
}

/// Count, byte count, registers.
fn registers(pdu: &mut Vec<u8>, values: &[u16]) {
    pdu.extend_from_slice(&(values.len() as u16).to_be_bytes());
    pdu.push((values.len() * 2) as u8);
    pdu.extend(values.iter().flat_map(|value| value.to_be_bytes()));
}

/// Up to eight bits, the first one lowest.
fn pack(bits: &[bool]) -> u8 {
    let bits = bits.iter().enumerate();
    bits.fold(0, |byte, (i, bit)| byte | u8::from(*bit) << i)
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::Read(read) => read.fmt(f),
            Request::WriteCoil { address, .. } => write!(f, "the write of coil:{address}"),
            Request::WriteRegister { address, .. } | Request::MaskWrite { address, .. } => {
                write!(f, "the write of holding:{address}")
            }
            Request::WriteCoils { start, bits } => {
                write!(f, "the write of coil:{start} x {}", bits.len())
            }
            Request::WriteRegisters { start, values }
            | Request::ReadWrite {
                write_start: start,
                values,
                ..
            } => write!(f, "the write of holding:{start} x {}", values.len()),
            Request::Identify { .. } => f.write_str("the request for its identification"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pdu(request: &Request) -> Vec<u8> {
        let mut pdu = Vec::new();
        request.encode(&mut pdu);
        pdu
    }

    #[test]
    fn examples_of_the_specification() {
        // Modbus Application Protocol V1.1b3, section 6.
        let read = ReadRequest {
            table: Table::Holding,
            start: 0x6B,
            count: 3,
        };
        let bits = [1, 0, 1, 1, 0, 0, 1, 1, 1, 0].map(|bit| bit == 1).to_vec();
        let cases: [(Request, &[u8]); 8] = [
            (Request::Read(read), &[0x03, 0x00, 0x6B, 0x00, 0x03]),
            (
                Request::WriteCoil {
                    address: 0xAC,
                    on: true,
                },
                &[0x05, 0x00, 0xAC, 0xFF, 0x00],
            ),
            (
                Request::WriteRegister {
                    address: 1,
                    value: 3,
                },
                &[0x06, 0x00, 0x01, 0x00, 0x03],
            ),
            (
                Request::WriteCoils { start: 0x13, bits },
                &[0x0F, 0x00, 0x13, 0x00, 0x0A, 0x02, 0xCD, 0x01],
            ),
            (
                Request::WriteRegisters {
                    start: 1,
                    values: vec![0x0A, 0x0102],
                },
                &[0x10, 0x00, 0x01, 0x00, 0x02, 0x04, 0x00, 0x0A, 0x01, 0x02],
            ),
            (
                Request::MaskWrite {
                    address: 4,
                    and: 0xF2,
                    or: 0x25,
                },
                &[0x16, 0x00, 0x04, 0x00, 0xF2, 0x00, 0x25],
            ),
            (
                Request::ReadWrite {
                    read_start: 3,
                    read_count: 6,
                    write_start: 14,
                    values: vec![0xFF],
                },
                &[0x17, 0, 3, 0, 6, 0, 14, 0, 1, 2, 0, 0xFF],
            ),
            (
                Request::Identify {
                    access: 1,
                    object: 0,
                },
                &[0x2B, 0x0E, 0x01, 0x00],
            ),
        ];
        for (request, bytes) in cases {
            assert_eq!(pdu(&request), bytes, "{request}");
        }
    }
}
