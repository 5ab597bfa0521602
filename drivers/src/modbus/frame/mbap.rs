//! The header of a Modbus TCP frame (Messaging Implementation Guide V1.0b, 3.1.3).
//!
//! Transaction id, protocol id (0), length of the rest, unit id; then the PDU.

/// Bytes before the PDU.
pub const HEADER_BYTES: usize = 7;

/// The longest PDU (Modbus Application Protocol V1.1b3, 4.1).
pub const PDU_BYTES_MAX: usize = 253;

/// The longest frame.
pub const FRAME_BYTES_MAX: usize = HEADER_BYTES + PDU_BYTES_MAX;

/// The length field counts the unit id and the PDU.
const UNIT_BYTES: usize = 1;

/// The header of a received frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What ties a reply to its request.
    pub transaction: u16,
    /// Whom the request is for, or the reply is of.
    pub unit: u8,
    /// Bytes of the PDU that follows.
    pub pdu_bytes: usize,
}

/// Bytes that cannot begin a frame: where the next one begins is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderError {
    /// The protocol id is not 0.
    Protocol(u16),
    /// No PDU is so long.
    Length(u16),
}

impl std::fmt::Display for HeaderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HeaderError::Protocol(id) => write!(f, "protocol id {id}"),
            HeaderError::Length(length) => write!(f, "a length of {length}"),
        }
    }
}

impl Header {
    /// Reads a header; `None` while bytes are missing.
    ///
    /// # Errors
    /// Bytes that cannot begin a frame.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, HeaderError> {
        let Some(&[t0, t1, p0, p1, l0, l1, unit]) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let protocol = u16::from_be_bytes([p0, p1]);
        if protocol != 0 {
            return Err(HeaderError::Protocol(protocol));
        }
        let length = u16::from_be_bytes([l0, l1]);
        let pdu_bytes = usize::from(length).saturating_sub(UNIT_BYTES);
        if pdu_bytes == 0 || pdu_bytes > PDU_BYTES_MAX {
            return Err(HeaderError::Length(length));
        }
        Ok(Some(Self {
            transaction: u16::from_be_bytes([t0, t1]),
            unit,
            pdu_bytes,
        }))
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let [t0, t1] = self.transaction.to_be_bytes();
        // A PDU is at most 253 bytes long.
        let [l0, l1] = ((self.pdu_bytes + UNIT_BYTES) as u16).to_be_bytes();
        [t0, t1, 0, 0, l0, l1, self.unit]
    }

    /// The length of the whole frame.
    pub fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.pdu_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_round_trips() {
        let header = Header {
            transaction: 0x1501,
            unit: 0xFF,
            pdu_bytes: 5,
        };
        let bytes = header.encode();
        assert_eq!(bytes, [0x15, 0x01, 0, 0, 0, 6, 0xFF]);
        assert_eq!(Header::parse(&bytes), Ok(Some(header)));
        assert_eq!(Header::parse(&bytes[..6]), Ok(None));
    }

    #[test]
    fn noise_is_no_header() {
        let parse = |bytes: [u8; 7]| Header::parse(&bytes);
        assert_eq!(parse([0, 1, 0, 7, 0, 6, 1]), Err(HeaderError::Protocol(7)));
        assert_eq!(parse([0, 1, 0, 0, 0, 1, 1]), Err(HeaderError::Length(1)));
        assert_eq!(
            parse([0, 1, 0, 0, 0, 255, 1]),
            Err(HeaderError::Length(255))
        );
    }
}
