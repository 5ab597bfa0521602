//! Frames of a serial line (Modbus over Serial Line V1.02, 2.5.1): unit, PDU, CRC-16.
//!
//! Nothing in a frame says where it ends. Whoever receives a request tells by its function
//! ([`request_bytes`]); whoever receives a reply knows from the request how long it must be.

use super::mbap::PDU_BYTES_MAX;

/// The unit that every unit listens to and none answers.
pub const BROADCAST: u8 = 0;

/// Bytes around the PDU: unit and checksum.
pub const ENVELOPE_BYTES: usize = 3;

/// The longest frame.
pub const FRAME_BYTES_MAX: usize = PDU_BYTES_MAX + ENVELOPE_BYTES;

/// Bytes of a reply that is an exception.
pub const EXCEPTION_BYTES: usize = ENVELOPE_BYTES + 2;

const CRC_BYTES: usize = 2;

/// Bytes of a request with a place and one value or count.
const PLAIN_REQUEST_BYTES: usize = ENVELOPE_BYTES + 5;

/// The CRC's share of each byte; polynomial 0xA001, least significant bit first.
const CRC_TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u16;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0xA001
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// The checksum of unit and PDU.
pub fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, byte| crc_step(crc, *byte))
}

fn crc_step(crc: u16, byte: u8) -> u16 {
    crc >> 8 ^ CRC_TABLE[usize::from(crc as u8 ^ byte)]
}

/// The frame of a PDU; of a request or of a reply alike.
pub fn encode(unit: u8, pdu: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(pdu.len() + ENVELOPE_BYTES);
    frame.push(unit);
    frame.extend_from_slice(pdu);
    let checksum = crc(&frame);
    frame.extend_from_slice(&checksum.to_le_bytes());
    frame
}

/// Unit and PDU of a whole frame; `None` where the checksum says that it is none.
pub fn decode(frame: &[u8]) -> Option<(u8, &[u8])> {
    let (content, checksum) = frame.split_last_chunk::<CRC_BYTES>()?;
    let (unit, pdu) = content.split_first()?;
    (!pdu.is_empty() && crc(content) == u16::from_le_bytes(*checksum)).then_some((*unit, pdu))
}

/// The length of the shortest whole frame that begins here, whatever follows it.
pub fn whole(bytes: &[u8]) -> Option<usize> {
    let mut crc = 0xFFFF;
    let bytes = bytes.iter().take(FRAME_BYTES_MAX);
    let mut lengths = bytes.zip(1..).map(|(byte, length)| {
        crc = crc_step(crc, *byte);
        (crc, length)
    });
    // The checksum of content and checksum is 0.
    let ends = lengths.find(|(crc, length)| *crc == 0 && *length > ENVELOPE_BYTES);
    ends.map(|(_, length)| length)
}

/// How long the request is that begins with these bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestLength {
    /// So many bytes, unit and checksum included.
    Bytes(usize),
    /// More of it has to arrive before that can be told.
    Unknown,
    /// The function is none of those that this program sends or serves: only silence ends the frame.
    ForeignFunction,
}

/// Tells the length of a request by its function.
pub fn request_bytes(start: &[u8]) -> RequestLength {
    let counted = |at: usize| match start.get(at) {
        Some(count) => RequestLength::Bytes(at + 1 + usize::from(*count) + CRC_BYTES),
        None => RequestLength::Unknown,
    };
    match start.get(1) {
        None => RequestLength::Unknown,
        Some(0x01..=0x06) => RequestLength::Bytes(PLAIN_REQUEST_BYTES),
        Some(0x0F | 0x10) => counted(6),
        Some(0x11) => RequestLength::Bytes(ENVELOPE_BYTES + 1),
        Some(0x16) => RequestLength::Bytes(ENVELOPE_BYTES + 7),
        Some(0x17) => counted(10),
        Some(0x2B) => RequestLength::Bytes(ENVELOPE_BYTES + 4),
        Some(_) => RequestLength::ForeignFunction,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_known_frames() {
        // Modbus over Serial Line V1.02, 6.2.2: 02 07 has the checksum 41 12.
        assert_eq!(encode(0x02, &[0x07]), [0x02, 0x07, 0x41, 0x12]);
        let read = encode(0x11, &[0x03, 0x00, 0x6B, 0x00, 0x03]);
        assert_eq!(read[6..], [0x76, 0x87]);
    }

    #[test]
    fn frame_round_trips_and_any_flipped_bit_shows() {
        let frame = encode(9, &[3, 4, 1, 2, 3, 4]);
        assert_eq!(decode(&frame), Some((9, &[3, 4, 1, 2, 3, 4][..])));
        for bit in 0..frame.len() * 8 {
            let mut spoilt = frame.clone();
            spoilt[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&spoilt), None);
        }
        assert_eq!(decode(&frame[..3]), None);
        assert_eq!(whole(&[&frame[..], &[1, 2, 3]].concat()), Some(frame.len()));
        assert_eq!(whole(&frame[..frame.len() - 1]), None);
        assert_eq!(decode(&[]), None);
    }

    #[test]
    fn requests_tell_their_length() {
        let requests: [&[u8]; 8] = [
            &[0x03, 0, 0, 0, 2],
            &[0x05, 0, 1, 0xFF, 0],
            &[0x0F, 0, 0, 0, 10, 2, 0xCD, 0x01],
            &[0x10, 0, 0, 0, 2, 4, 1, 2, 3, 4],
            &[0x11],
            &[0x16, 0, 4, 0, 0xF2, 0, 0x25],
            &[0x17, 0, 3, 0, 6, 0, 14, 0, 1, 2, 0, 255],
            &[0x2B, 0x0E, 1, 0],
        ];
        for pdu in requests {
            let frame = encode(1, pdu);
            let length = RequestLength::Bytes(frame.len());
            assert_eq!(request_bytes(&frame), length, "{pdu:02X?}");
            assert_eq!(request_bytes(&frame[..1]), RequestLength::Unknown);
        }
        assert_eq!(request_bytes(&[1, 0x10, 0, 0]), RequestLength::Unknown);
        assert_eq!(request_bytes(&[1, 0x55]), RequestLength::ForeignFunction);
    }
}
