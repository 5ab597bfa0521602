//! How long bytes take on a serial line, and the silences between frames (Modbus over Serial Line
//! V1.02, 2.5.1.1).

use std::time::Duration;

use super::frame::rtu::FRAME_BYTES_MAX;
use super::plan::Cost;

/// From this rate on the silences are fixed, so that interrupts do not drown a small unit.
const FIXED_SILENCE_ABOVE_BAUD: u32 = 19_200;

/// t3.5 at high rates.
pub(crate) const FIXED_SILENCE: Duration = Duration::from_micros(1_750);

/// A frame may pause on its way: USB adapters hand bytes on every 16 ms, loaded kernels later. A frame
/// that pauses for longer is broken off. The t1.5 of the specification cannot be seen from here, and is not
/// needed: a frame is told by its length and its checksum.
const PAUSE_IN_FRAME: Duration = Duration::from_millis(100);

/// As [`PAUSE_IN_FRAME`], over a network.
const PAUSE_IN_FRAME_NETWORK: Duration = Duration::from_secs(1);

/// To a gateway in the same plant, and the line behind it.
const NETWORK_ROUND_TRIP: Duration = Duration::from_millis(20);

/// What a unit takes to act on a broadcast (2.4.1 gives 100 to 200 ms).
const TURNAROUND: Duration = Duration::from_millis(150);

/// The time of bytes and silences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// One byte, with its start, parity and stop bits.
    pub byte: Duration,
    /// Between two frames: t3.5.
    pub silence: Duration,
    /// After an error the line must be quiet for so long: the longest reply and t3.5.
    pub fence: Duration,
    /// A frame that pauses for longer is broken off.
    pub pause_in_frame: Duration,
    /// After a broadcast.
    pub turnaround: Duration,
}

impl Pace {
    /// The pace of a line with so many bits a second and bits a byte.
    pub fn of(baud: u32, bits_per_byte: u32) -> Self {
        let byte = Duration::from_secs(1) * bits_per_byte / baud.max(1);
        let silence = if baud > FIXED_SILENCE_ABOVE_BAUD {
            FIXED_SILENCE
        } else {
            byte * 7 / 2
        };
        Self {
            byte,
            silence,
            fence: byte * FRAME_BYTES_MAX as u32 + silence,
            pause_in_frame: PAUSE_IN_FRAME + silence,
            turnaround: TURNAROUND,
        }
    }

    /// A line behind a network: whoever holds it keeps its silences. The fence is that of a slow line.
    pub fn behind_network() -> Self {
        const SLOW_BAUD: u32 = 9_600;
        const BITS_PER_BYTE: u32 = 11;
        Self {
            byte: Duration::ZERO,
            silence: Duration::ZERO,
            pause_in_frame: PAUSE_IN_FRAME_NETWORK,
            ..Self::of(SLOW_BAUD, BITS_PER_BYTE)
        }
    }

    /// So many bytes on the line.
    pub fn bytes(&self, count: usize) -> Duration {
        self.byte * u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// What requests cost the planner: their own bytes, both silences and what a unit takes to answer.
    pub fn cost(&self) -> Cost {
        const FRAMES_BYTES: usize = 13;
        const ANSWER: Duration = Duration::from_millis(5);
        if self.byte.is_zero() {
            return Cost::tcp(NETWORK_ROUND_TRIP);
        }
        let request = self.exchange(FRAMES_BYTES, 0) + ANSWER;
        let bytes = request.as_nanos() / self.byte.as_nanos();
        Cost::in_bytes(u64::try_from(bytes).unwrap_or(u64::MAX))
    }

    /// A request, its reply, and the silence after each.
    pub fn exchange(&self, request_bytes: usize, reply_bytes: usize) -> Duration {
        self.bytes(request_bytes + reply_bytes) + self.silence * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_specification() {
        let slow = Pace::of(9_600, 10);
        // 125 registers, 8N1: 274.0 ms of frames, 281.3 ms with both silences.
        let exchange = slow.exchange(8, 255);
        assert_eq!(exchange.as_micros() / 100, 2_812);
        let fast = Pace::of(115_200, 10);
        assert_eq!(fast.silence, Duration::from_micros(1_750));
        assert_eq!(fast.exchange(8, 255).as_micros() / 100, 263);
        assert!(slow.fence > slow.bytes(256));
    }
}
