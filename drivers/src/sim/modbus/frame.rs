//! Frames as the simulated device reads and writes them: written apart from the driver's, so that one bug
//! cannot hide in both.

/// How requests and replies travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// With the header of Modbus TCP.
    Tcp,
    /// With unit and checksum, as on a serial line.
    Rtu,
}

/// Bytes of the header of Modbus TCP, the unit included.
const MBAP_BYTES: usize = 7;

/// The longest PDU.
const PDU_BYTES_MAX: usize = 253;

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) transaction: u16,
    pub(super) unit: u8,
    pub(super) pdu: Vec<u8>,
    /// Bytes of the whole frame.
    pub(super) bytes: usize,
}

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    Whole(Asked),
    /// The beginning of a frame.
    Part,
    /// No frame; where one begins is known only after a silence.
    Noise,
}

impl Framing {
    pub(super) fn parse(self, bytes: &[u8]) -> Parsed {
        match self {
            Framing::Tcp => parse_tcp(bytes),
            Framing::Rtu => parse_rtu(bytes),
        }
    }

    pub(super) fn frame(self, transaction: u16, unit: u8, pdu: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(pdu.len() + MBAP_BYTES);
        match self {
            Framing::Tcp => {
                frame.extend(transaction.to_be_bytes());
                frame.extend([0, 0]);
                // A PDU has at most 253 bytes.
                frame.extend((pdu.len() as u16 + 1).to_be_bytes());
                frame.push(unit);
                frame.extend(pdu);
            }
            Framing::Rtu => {
                frame.push(unit);
                frame.extend(pdu);
                frame.extend(checksum(&frame).to_le_bytes());
            }
        }
        frame
    }

    /// Where the unit is in a frame; the function follows it.
    pub(super) fn unit_at(self) -> usize {
        match self {
            Framing::Tcp => MBAP_BYTES - 1,
            Framing::Rtu => 0,
        }
    }
}

fn parse_tcp(bytes: &[u8]) -> Parsed {
    let Some((header, rest)) = bytes.split_at_checked(MBAP_BYTES) else {
        return Parsed::Part;
    };
    let length = usize::from(header[4]) << 8 | usize::from(header[5]);
    if header[2..4] != [0, 0] || !(2..=PDU_BYTES_MAX + 1).contains(&length) {
        return Parsed::Noise;
    }
    let Some(pdu) = rest.get(..length - 1) else {
        return Parsed::Part;
    };
    Parsed::Whole(Asked {
        transaction: u16::from(header[0]) << 8 | u16::from(header[1]),
        unit: header[6],
        pdu: pdu.to_vec(),
        bytes: MBAP_BYTES + pdu.len(),
    })
}

fn parse_rtu(bytes: &[u8]) -> Parsed {
    let counted =
        |at: usize, others: usize| bytes.get(at).map(|count| usize::from(*count) + others);
    let length = match bytes.get(1) {
        None => return Parsed::Part,
        Some(1..=6) => Some(8),
        Some(15 | 16) => counted(6, 9),
        Some(22) => Some(10),
        Some(23) => counted(10, 13),
        Some(43) => Some(7),
        Some(_) => return Parsed::Noise,
    };
    let Some(frame) = length.and_then(|length| bytes.get(..length)) else {
        return Parsed::Part;
    };
    let (body, sum) = frame.split_at(frame.len() - 2);
    if checksum(body).to_le_bytes() != sum {
        return Parsed::Noise;
    }
    Parsed::Whole(Asked {
        transaction: 0,
        unit: body[0],
        pdu: body[1..].to_vec(),
        bytes: frame.len(),
    })
}

/// CRC-16 of Modbus, bit by bit.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0xFFFF_u16;
    for byte in bytes {
        sum ^= u16::from(*byte);
        for _ in 0..8 {
            let carry = sum & 1 == 1;
            sum >>= 1;
            if carry {
                sum ^= 0xA001;
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_frame_of_a_serial_line() {
        // The example that most manuals print: unit 17 is asked for registers 107 to 109.
        let frame = [0x11, 0x03, 0x00, 0x6B, 0x00, 0x03, 0x76, 0x87];
        assert_eq!(Framing::Rtu.frame(0, 0x11, &frame[1..6]), frame);
        let Parsed::Whole(asked) = Framing::Rtu.parse(&frame) else {
            panic!("no frame")
        };
        assert_eq!((asked.unit, asked.pdu.len(), asked.bytes), (0x11, 5, 8));
        assert_eq!(Framing::Rtu.parse(&frame[..7]), Parsed::Part);
        let mut noisy = frame;
        noisy[3] ^= 1;
        assert_eq!(Framing::Rtu.parse(&noisy), Parsed::Noise);
    }

    #[test]
    fn header_of_modbus_tcp() {
        let frame = Framing::Tcp.frame(0x1501, 9, &[3, 0, 0, 0, 1]);
        assert_eq!(frame, [0x15, 0x01, 0, 0, 0, 6, 9, 3, 0, 0, 0, 1]);
        assert!(matches!(Framing::Tcp.parse(&frame), Parsed::Whole(_)));
        assert_eq!(Framing::Tcp.parse(&frame[..11]), Parsed::Part);
        assert_eq!(Framing::Tcp.parse(&[0, 1, 0, 7, 0, 6, 1]), Parsed::Noise);
    }
}
