//! Read requests and their replies, functions 01 to 04 (Modbus Application Protocol V1.1b3, 6.1 to 6.4
//! and 7).
//!
//! The encoding is ours because `tokio-modbus` keeps its own private; its decoder of replies makes a new
//! `Vec` for each and takes the byte count from the reply, where we know what it must be. Names of
//! exceptions are the crate's.

use tokio_modbus::ExceptionCode;

use super::address::Table;

/// Bytes of a read request's PDU: function, start, count.
pub(crate) const READ_PDU_BYTES: usize = 5;

/// Set in the function code of a reply that is an exception.
const EXCEPTION_FLAG: u8 = 0x80;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadRequest {
    pub(crate) table: Table,
    pub(crate) start: u16,
    pub(crate) count: u16,
}

impl std::fmt::Display for ReadRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{} x {}", self.table, self.start, self.count)
    }
}

/// What a reply's PDU turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// The data bytes, as many as were asked for.
    Data(&'a [u8]),
    /// The device cannot or will not.
    Exception(ExceptionCode),
}

/// A reply that is no answer to the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) found: String,
    pub(crate) expected: String,
}

impl ReadRequest {
    pub(crate) fn function(&self) -> u8 {
        match self.table {
            Table::Coil => 0x01,
            Table::Discrete => 0x02,
            Table::Holding => 0x03,
            Table::Input => 0x04,
        }
    }

    pub(crate) fn encode(&self) -> [u8; READ_PDU_BYTES] {
        let [start_high, start_low] = self.start.to_be_bytes();
        let [count_high, count_low] = self.count.to_be_bytes();
        [
            self.function(),
            start_high,
            start_low,
            count_high,
            count_low,
        ]
    }

    /// How many data bytes the reply must have.
    pub(crate) fn data_bytes(&self) -> usize {
        let count = usize::from(self.count);
        if self.table.is_bits() {
            count.div_ceil(8)
        } else {
            count * 2
        }
    }

    /// Checks function, byte count and length exactly.
    pub(crate) fn check<'a>(&self, pdu: &'a [u8]) -> Result<Answer<'a>, Mismatch> {
        let mismatch = |found: String| Mismatch {
            found,
            expected: format!(
                "{} data bytes of function {:02}",
                self.data_bytes(),
                self.function()
            ),
        };
        match pdu {
            [function, code] if *function == self.function() | EXCEPTION_FLAG => {
                Ok(Answer::Exception(ExceptionCode::new(*code)))
            }
            [function, ..] if *function != self.function() => {
                Err(mismatch(format!("function 0x{function:02X}")))
            }
            [_, count, data @ ..]
                if data.len() == self.data_bytes() && usize::from(*count) == data.len() =>
            {
                Ok(Answer::Data(data))
            }
            [_, count, data @ ..] => Err(mismatch(format!(
                "a byte count of {count} with {} data bytes",
                data.len()
            ))),
            _ => Err(mismatch(format!("a reply of {} bytes", pdu.len()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: ReadRequest = ReadRequest {
        table: Table::Holding,
        start: 0x6B,
        count: 3,
    };

    #[test]
    fn example_of_the_specification() {
        // Modbus Application Protocol V1.1b3, 6.3.
        assert_eq!(THREE.encode(), [0x03, 0x00, 0x6B, 0x00, 0x03]);
        let reply = [0x03, 0x06, 0x02, 0x2B, 0x00, 0x00, 0x00, 0x64];
        assert_eq!(THREE.check(&reply), Ok(Answer::Data(&reply[2..])));
        let exception = THREE.check(&[0x83, 0x02]);
        assert_eq!(
            exception,
            Ok(Answer::Exception(ExceptionCode::IllegalDataAddress))
        );
    }

    #[test]
    fn bits_are_packed() {
        let coils = ReadRequest {
            table: Table::Coil,
            start: 0x13,
            count: 19,
        };
        assert_eq!(coils.encode(), [0x01, 0x00, 0x13, 0x00, 0x13]);
        assert_eq!(
            coils.check(&[0x01, 0x03, 0xCD, 0x6B, 0x05]),
            Ok(Answer::Data(&[0xCD, 0x6B, 0x05]))
        );
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
