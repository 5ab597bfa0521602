//! What came back, held against what was asked: function, byte count, length and the echo of a write,
//! all exactly.

use tokio_modbus::ExceptionCode;

use super::fault::Fault;
use super::request::{MEI_IDENTIFY, ReadRequest, Request};
use millrace_tags::{Moment, Reason};

/// Set in the function code of a reply that is an exception.
pub(crate) const EXCEPTION_FLAG: u8 = 0x80;

/// Function, MEI type, access, conformity, more follows, next object, count of objects.
const IDENTIFY_HEAD_BYTES: usize = 7;

/// What a reply turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The data bytes, as many as were asked for. For an identification, what follows the MEI type.
    Data(&'a [u8]),
    /// The write was done; a broadcast was sent.
    Written,
    /// The device cannot or will not.
    Exception(ExceptionCode),
    /// No answer that could be used, on a line that goes on without it.
    Spoilt(Reason),
}

/// The answer to a request, and when its last byte had arrived.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// What it is.
    pub answer: Answer<'a>,
    /// When it was there.
    pub at: Moment,
}

/// A reply that is no answer to the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) fault: Fault,
    pub(crate) found: String,
    pub(crate) expected: String,
}

impl Request {
    /// How many bytes the PDU of a good reply has that begins with `start`. `None` while that cannot be
    /// told, which only the identification leaves open.
    pub(crate) fn reply_bytes(&self, start: &[u8]) -> Option<usize> {
        match self {
            Request::Read(read) => Some(2 + read.data_bytes()),
            Request::ReadWrite { read_count, .. } => Some(2 + usize::from(*read_count) * 2),
            Request::MaskWrite { .. } => Some(7),
            Request::Identify { .. } => identification_bytes(start),
            _ => Some(5),
        }
    }

    /// Checks the PDU of a reply.
    pub(crate) fn check<'a>(&self, pdu: &'a [u8]) -> Result<Answer<'a>, Mismatch> {
        match pdu {
            [function, code] if *function == self.function() | EXCEPTION_FLAG => {
                Ok(Answer::Exception(ExceptionCode::new(*code)))
            }
            [function, ..] if *function != self.function() => {
                Err(self.mismatch(Fault::WrongFunction, format!("function 0x{function:02X}")))
            }
            _ => match self {
                Request::Read(read) => self.counted(pdu, read.data_bytes()),
                Request::ReadWrite { read_count, .. } => {
                    self.counted(pdu, usize::from(*read_count) * 2)
                }
                Request::Identify { .. } => self.identification(pdu),
                _ => self.echo(pdu),
            },
        }
    }

    fn counted<'a>(&self, pdu: &'a [u8], bytes: usize) -> Result<Answer<'a>, Mismatch> {
        match pdu {
            [_, count, data @ ..] if data.len() == bytes && usize::from(*count) == bytes => {
                Ok(Answer::Data(data))
            }
            [_, count, data @ ..] => Err(self.mismatch(
                Fault::WrongLength,
                format!("a byte count of {count} with {} data bytes", data.len()),
            )),
            _ => Err(self.too_short(pdu)),
        }
    }

    /// A write is answered by where it went and what, or how many.
    fn echo<'a>(&self, pdu: &[u8]) -> Result<Answer<'a>, Mismatch> {
        let mut sent = Vec::new();
        self.encode(&mut sent);
        sent.truncate(self.reply_bytes(&[]).unwrap_or_default());
        if pdu.len() != sent.len() {
            return Err(self.too_short(pdu));
        }
        if pdu != sent {
            let found = format!("the confirmation of another write, {pdu:02X?}");
            return Err(self.mismatch(Fault::WrongEcho, found));
        }
        Ok(Answer::Written)
    }

    fn identification<'a>(&self, pdu: &'a [u8]) -> Result<Answer<'a>, Mismatch> {
        match pdu {
            [_, MEI_IDENTIFY, data @ ..] if identification_bytes(pdu) == Some(pdu.len()) => {
                Ok(Answer::Data(data))
            }
            _ => Err(self.mismatch(
                Fault::WrongLength,
                format!("{} bytes that are no identification", pdu.len()),
            )),
        }
    }

    fn too_short(&self, pdu: &[u8]) -> Mismatch {
        self.mismatch(
            Fault::WrongLength,
            format!("a reply of {} bytes", pdu.len()),
        )
    }

    fn mismatch(&self, fault: Fault, found: String) -> Mismatch {
        let data_bytes = match self {
            Request::Read(read) => Some(ReadRequest::data_bytes(read)),
            Request::ReadWrite { read_count, .. } => Some(usize::from(*read_count) * 2),
            _ => None,
        };
        let expected = match data_bytes {
            Some(bytes) => format!("{bytes} data bytes of function {:02}", self.function()),
            None => format!("the answer to {self}"),
        };
        Mismatch {
            fault,
            found,
            expected,
        }
    }
}

/// Walks the objects of an identification; `None` while bytes are missing.
fn identification_bytes(pdu: &[u8]) -> Option<usize> {
    let objects = *pdu.get(IDENTIFY_HEAD_BYTES - 1)?;
    let mut at = IDENTIFY_HEAD_BYTES;
    for _ in 0..objects {
        at += 2 + usize::from(*pdu.get(at + 1)?);
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modbus::Table;

    const THREE: Request = Request::Read(ReadRequest {
        table: Table::Holding,
        start: 0x6B,
        count: 3,
    });

    #[test]
    fn data_and_exceptions_are_answers() {
        let reply = [0x03, 0x06, 0x02, 0x2B, 0x00, 0x00, 0x00, 0x64];
        assert_eq!(THREE.check(&reply), Ok(Answer::Data(&reply[2..])));
        let exception = THREE.check(&[0x83, 0x02]);
        assert_eq!(
            exception,
            Ok(Answer::Exception(ExceptionCode::IllegalDataAddress))
        );
        let coils = Request::Read(ReadRequest {
            table: Table::Coil,
            start: 0x13,
            count: 19,
        });
        assert_eq!(
            coils.check(&[0x01, 0x03, 0xCD, 0x6B, 0x05]),
            Ok(Answer::Data(&[0xCD, 0x6B, 0x05]))
        );
    }

    #[test]
    fn writes_are_confirmed_by_their_echo_alone() {
        let coil = Request::WriteCoil {
            address: 0xAC,
            on: true,
        };
        assert_eq!(coil.check(&[5, 0, 0xAC, 0xFF, 0]), Ok(Answer::Written));
        for other in [[5, 0, 0xAD, 0xFF, 0], [5, 0, 0xAC, 0, 0]] {
            assert_eq!(coil.check(&other).unwrap_err().fault, Fault::WrongEcho);
        }
        let registers = Request::WriteRegisters {
            start: 1,
            values: vec![0x0A, 0x0102],
        };
        assert_eq!(registers.check(&[0x10, 0, 1, 0, 2]), Ok(Answer::Written));
        let fewer = registers.check(&[0x10, 0, 1, 0, 1]).unwrap_err();
        assert_eq!(fewer.fault, Fault::WrongEcho);
        let longer = registers.check(&[0x10, 0, 1, 0, 2, 4]).unwrap_err();
        assert_eq!(longer.fault, Fault::WrongLength);
    }

    #[test]
    fn identification_ends_with_its_last_object() {
        let identify = Request::Identify {
            access: 1,
            object: 0,
        };
        let mut reply = vec![0x2B, 0x0E, 1, 1, 0, 0, 2, 0, 3];
        reply.extend_from_slice(b"abc");
        assert_eq!(identify.reply_bytes(&reply), None);
        reply.extend_from_slice(&[1, 2]);
        reply.extend_from_slice(b"xy");
        assert_eq!(identify.reply_bytes(&reply), Some(reply.len()));
        assert_eq!(identify.check(&reply), Ok(Answer::Data(&reply[2..])));
        assert!(identify.check(&reply[..reply.len() - 1]).is_err());
    }

    #[test]
    fn anything_else_is_a_mismatch() {
        let wrong: [&[u8]; 8] = [
            &[],
            &[0x03],
            &[0x83],
            &[0x83, 0x02, 0x00],
            &[0x04, 0x06, 0, 0, 0, 0, 0, 0],
            &[0x03, 0x06, 0, 0, 0, 0],
            &[0x03, 0x04, 0, 0, 0, 0, 0, 0],
            &[0x03, 0x08, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        for pdu in wrong {
            assert!(THREE.check(pdu).is_err(), "{pdu:02X?}");
        }
    }
}
