//! What a request costs: time, in nanoseconds, that nobody else can have.

use std::time::Duration;

/// Characters of a serial read request and its reply, without data: unit, function, start, count, CRC;
/// unit, function, byte count, CRC.
const SERIAL_FRAMES_CHARS: u64 = 8 + 5;

/// Up to this rate the silence between frames is 3.5 characters, above it is fixed (Modbus over serial
/// line V1.02, 2.5.1.1).
const SILENCE_BAUD_MAX: u32 = 19_200;

/// That fixed silence.
const SILENCE_FIXED_NS: u64 = 1_750_000;

/// Gateway time for an exchange over TCP, and for a byte of it, as measured on loopback. Every real
/// network only raises the first, and past the longest request more changes nothing.
const TCP_REQUEST_NS: u64 = 4_000;
const TCP_BYTE_NS: u64 = 14;

/// What a request costs: so much for itself, so much for each data byte of its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    request_ns: u64,
    byte_ns: u64,
}

impl Cost {
    /// Over TCP, where a request costs a round trip and bytes next to nothing.
    pub fn tcp(round_trip: Duration) -> Self {
        Self {
            request_ns: TCP_REQUEST_NS.saturating_add(nanos(round_trip)),
            byte_ns: TCP_BYTE_NS,
        }
    }

    /// On a serial line, where it costs the time of its characters, two silences and the device's own
    /// turnaround. `character_bits` are all of a character on the line: start, data, parity, stop.
    pub fn serial(baud: u32, character_bits: u8, turnaround: Duration) -> Self {
        let baud = baud.max(1);
        let character_ns = u64::from(character_bits) * 1_000_000_000 / u64::from(baud);
        let silence_ns = if baud > SILENCE_BAUD_MAX {
            SILENCE_FIXED_NS
        } else {
            character_ns * 7 / 2
        };
        Self {
            request_ns: (SERIAL_FRAMES_CHARS * character_ns + 2 * silence_ns)
                .saturating_add(nanos(turnaround)),
            byte_ns: character_ns,
        }
    }

    /// Over anything, where a request is worth so many data bytes. 0 bytes makes every gap dearer than a
    /// request.
    pub fn in_bytes(request: u64) -> Self {
        Self {
            request_ns: request,
            byte_ns: 1,
        }
    }

    /// Of a request whose reply has so many data bytes.
    pub fn of(&self, data_bytes: u64) -> Duration {
        Duration::from_nanos(self.of_ns(data_bytes))
    }

    pub(super) fn of_ns(&self, data_bytes: u64) -> u64 {
        self.request_ns
            .saturating_add(self.byte_ns.saturating_mul(data_bytes))
    }
}

impl Default for Cost {
    /// Over TCP on the same machine.
    fn default() -> Self {
        Cost::tcp(Duration::ZERO)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_line_time_of_full_frames() {
        // 8 + 255 characters of 10 bits and two silences: the table of line times in the reference.
        let cost = |baud| Cost::serial(baud, 10, Duration::ZERO).of(250).as_secs_f64() * 1e3;
        for (baud, ms) in [(9_600, 281.3), (19_200, 140.6), (115_200, 26.3)] {
            assert!((cost(baud) - ms).abs() < 0.1, "{baud}: {} ms", cost(baud));
        }
    }
}
