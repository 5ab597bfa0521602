//! How far a value can be trusted, and why not.

use std::borrow::Cow;

/// The quality of a sample, in the three severities of OPC UA Part 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Quality {
    /// The device vouches for the value.
    #[default]
    Good,
    /// The value may be used with care.
    Uncertain(Reason),
    /// There is no value that could be used.
    Bad(Reason),
}

/// Why a sample is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The device did not answer in time.
    Timeout,
    /// There is no connection to the device.
    NotConnected,
    /// The device answered with something that is not an answer to the request.
    InvalidReply,
    /// Modbus exception 02 or 03, OPC UA `BadNodeIdUnknown`: the address does not exist.
    IllegalAddress,
    /// The device refuses the function (Modbus exception 01).
    IllegalFunction,
    /// The device reports that it failed or is busy (Modbus exceptions 04 to 06, 0A, 0B).
    DeviceFailure,
    /// The registers do not hold a finite number.
    NotANumber,
    /// The registers do not hold a value of the configured type (BCD digits, text).
    InvalidEncoding,
    /// The value is outside its permitted range.
    OutOfRange,
    /// The poll did not take place.
    Missed,
    /// The register that scales the value holds nothing that can be meant (a factor of 0, an exponent beyond
    /// reason).
    BadScale,
    /// The counter behind a total was set back: what it had counted since the last read is not known.
    CounterReset,
    /// Reading is paused by an operator.
    Paused,
    /// Values between the sample before and the one after this were lost on the way, or may have been, and nobody can
    /// give them back.
    Lost,
    /// A status code of the device's own protocol, kept as it came (OPC UA Part 4, 7.39).
    Status(u32),
}

impl Reason {
    /// The name on the wire and in reports.
    pub fn name(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Reason::Timeout => "timeout",
            Reason::NotConnected => "not-connected",
            Reason::InvalidReply => "invalid-reply",
            Reason::IllegalAddress => "illegal-address",
            Reason::IllegalFunction => "illegal-function",
            Reason::DeviceFailure => "device-failure",
            Reason::NotANumber => "not-a-number",
            Reason::InvalidEncoding => "invalid-encoding",
            Reason::OutOfRange => "out-of-range",
            Reason::Missed => "missed",
            Reason::Paused => "paused",
            Reason::Lost => "lost",
            Reason::BadScale => "bad-scale",
            Reason::CounterReset => "counter-reset",
            Reason::Status(code) => return Cow::Owned(format!("status-0x{code:08X}")),
        })
    }

    /// The reason as a number that stays the same in every version: what the buffer stores.
    pub fn code(&self) -> (u8, u32) {
        match self {
            Reason::Timeout => (1, 0),
            Reason::NotConnected => (2, 0),
            Reason::InvalidReply => (3, 0),
            Reason::IllegalAddress => (4, 0),
            Reason::IllegalFunction => (5, 0),
            Reason::DeviceFailure => (6, 0),
            Reason::NotANumber => (7, 0),
            Reason::InvalidEncoding => (8, 0),
            Reason::OutOfRange => (9, 0),
            Reason::Missed => (10, 0),
            Reason::Paused => (11, 0),
            Reason::BadScale => (12, 0),
            Reason::CounterReset => (13, 0),
            Reason::Lost => (14, 0),
            Reason::Status(code) => (255, *code),
        }
    }

    /// The reason of a stored number; `None` for a number of a newer version.
    pub fn from_code(code: u8, status: u32) -> Option<Reason> {
        Some(match code {
            1 => Reason::Timeout,
            2 => Reason::NotConnected,
            3 => Reason::InvalidReply,
            4 => Reason::IllegalAddress,
            5 => Reason::IllegalFunction,
            6 => Reason::DeviceFailure,
            7 => Reason::NotANumber,
            8 => Reason::InvalidEncoding,
            9 => Reason::OutOfRange,
            10 => Reason::Missed,
            11 => Reason::Paused,
            12 => Reason::BadScale,
            13 => Reason::CounterReset,
            14 => Reason::Lost,
            255 => Reason::Status(status),
            _ => return None,
        })
    }
}

impl Quality {
    /// Whether the value may be used without care.
    pub fn is_good(&self) -> bool {
        matches!(self, Quality::Good)
    }

    /// Why the sample is not good.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Quality::Good => None,
            Quality::Uncertain(reason) | Quality::Bad(reason) => Some(*reason),
        }
    }

    /// `good`, `uncertain` or `bad`.
    pub fn severity(&self) -> &'static str {
        match self {
            Quality::Good => "good",
            Quality::Uncertain(_) => "uncertain",
            Quality::Bad(_) => "bad",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip() {
        for code in 0..=255u8 {
            if let Some(reason) = Reason::from_code(code, 0x8034_0000) {
                assert_eq!(reason.code().0, code);
                assert_eq!(Reason::from_code(code, reason.code().1), Some(reason));
            }
        }
    }
}
