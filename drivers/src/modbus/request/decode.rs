//! What a request PDU asks, read back from its bytes.

use super::{MEI_IDENTIFY, ReadRequest, Request};
use crate::modbus::address::Table;

impl Request {
    /// What a request PDU asks; `None` where that is nothing that we send ourselves.
    pub fn decode(pdu: &[u8]) -> Option<Self> {
        let word =
            |at: usize| -> Option<u16> { Some(u16::from_be_bytes(*pdu.get(at..)?.first_chunk()?)) };
        let registers = |count_at: usize| -> Option<Vec<u16>> {
            let count = usize::from(word(count_at)?);
            let bytes = pdu.get(count_at + 3..)?;
            let words = bytes
                .chunks_exact(2)
                .map(|two| u16::from_be_bytes([two[0], two[1]]));
            (bytes.len() == count * 2 && usize::from(pdu[count_at + 2]) == bytes.len())
                .then(|| words.collect())
        };
        let read = |table: Table| {
            Some(Request::Read(ReadRequest {
                table,
                start: word(1)?,
                count: word(3)?,
            }))
        };
        let request = match *pdu.first()? {
            0x01 => read(Table::Coil)?,
            0x02 => read(Table::Discrete)?,
            0x03 => read(Table::Holding)?,
            0x04 => read(Table::Input)?,
            0x05 => Request::WriteCoil {
                address: word(1)?,
                on: word(3)? != 0,
            },
            0x06 => Request::WriteRegister {
                address: word(1)?,
                value: word(3)?,
            },
            0x0F => Request::WriteCoils {
                start: word(1)?,
                bits: {
                    let bytes = pdu.get(6..)?;
                    let bit = |i: usize| Some(bytes.get(i / 8)? >> (i % 8) & 1 == 1);
                    (0..usize::from(word(3)?)).map(bit).collect::<Option<_>>()?
                },
            },
            0x10 => Request::WriteRegisters {
                start: word(1)?,
                values: registers(3)?,
            },
            0x16 => Request::MaskWrite {
                address: word(1)?,
                and: word(3)?,
                or: word(5)?,
            },
            0x17 => Request::ReadWrite {
                read_start: word(1)?,
                read_count: word(3)?,
                write_start: word(5)?,
                values: registers(7)?,
            },
            0x2B if pdu.get(1) == Some(&MEI_IDENTIFY) => Request::Identify {
                access: *pdu.get(2)?,
                object: *pdu.get(3)?,
            },
            _ => return None,
        };
        // What does not come out as it went in was not understood.
        let mut again = Vec::new();
        request.encode(&mut again);
        (again == pdu).then_some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_understood_as_they_were_sent() {
        let bits = vec![true, false, true, true, false, false, true, true, true];
        let requests = [
            Request::Read(ReadRequest {
                table: Table::Input,
                start: 7,
                count: 9,
            }),
            Request::WriteCoil {
                address: 3,
                on: true,
            },
            Request::WriteRegister {
                address: 3,
                value: 9,
            },
            Request::WriteCoils { start: 5, bits },
            Request::WriteRegisters {
                start: 5,
                values: vec![1, 2, 3],
            },
            Request::MaskWrite {
                address: 1,
                and: 2,
                or: 3,
            },
            Request::ReadWrite {
                read_start: 1,
                read_count: 2,
                write_start: 3,
                values: vec![4],
            },
            Request::Identify {
                access: 1,
                object: 2,
            },
        ];
        for request in requests {
            let mut pdu = Vec::new();
            request.encode(&mut pdu);
            assert_eq!(Request::decode(&pdu), Some(request));
            assert_eq!(Request::decode(&pdu[..pdu.len() - 1]), None);
        }
        assert_eq!(Request::decode(&[0x07]), None);
        assert_eq!(Request::decode(&[0x10, 0, 1, 0, 9, 2, 0, 1]), None);
    }
}
