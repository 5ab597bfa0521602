//! How the broker misbehaves on request. One seed replays a run.

use std::ops::RangeInclusive;

use crate::packet::Publish;
use crate::topic;

/// What goes wrong on each connection. Custody is taken, and taps see a message, only when its ack is
/// about to be written.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Draws everything below, together with the connection's number.
    pub seed: u64,
    /// Acks come in another order than the messages.
    pub reorder_acks: bool,
    /// Some acks come twice, some of them late.
    pub duplicate_acks: bool,
    /// One message in this many is swallowed: no custody, no ack.
    pub swallow_one_in: Option<u32>,
    /// The connection is closed, without a word, after so many messages.
    pub cut_after: Option<RangeInclusive<u32>>,
    /// CONNECT is answered with this return code of MQTT 3.1.1, or what means the same in 5, instead of 0.
    pub refuse_with: Option<u8>,
    /// A larger message closes the connection, as `max_packet_size` of a real broker does.
    pub message_bytes_max: Option<usize>,
    /// A message whose payload holds these bytes closes the connection.
    pub hates: Option<Vec<u8>>,
    /// A message to a topic that this filter matches closes the connection, as some clouds do where their
    /// policy leaves the topic out.
    pub denies: Option<String>,
}

/// What a short PUBLISH has beside topic and payload.
const HEADER_BYTES: usize = 6;

/// The faults of one connection, with its dice.
pub(super) struct Drawn {
    faults: Faults,
    dice: fastrand::Rng,
}

impl Drawn {
    /// For the connection of this number.
    pub(super) fn new(faults: Faults, number: u64) -> Self {
        // Neighbouring numbers must not draw alike.
        let seed = faults.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self {
            faults,
            dice: fastrand::Rng::with_seed(seed),
        }
    }

    /// The return code that refuses the connection.
    pub(super) fn refuse_with(&self) -> Option<u8> {
        self.faults.refuse_with
    }

    /// Whether this message closes the connection.
    pub(super) fn hangs_up_on(&self, publish: &Publish) -> bool {
        let Faults {
            message_bytes_max,
            hates,
            denies,
            ..
        } = &self.faults;
        let holds = |bytes: &Vec<u8>| {
            publish
                .payload
                .windows(bytes.len().max(1))
                .any(|at| at == bytes)
        };
        message_bytes_max
            .is_some_and(|max| publish.topic.len() + publish.payload.len() + HEADER_BYTES > max)
            || hates.as_ref().is_some_and(holds)
            || denies
                .as_ref()
                .is_some_and(|filter| topic::matches(filter, &publish.topic))
    }

    /// After how many messages this connection is closed.
    pub(super) fn draw_cut(&mut self) -> Option<u32> {
        let range = self.faults.cut_after.clone()?;
        Some(self.dice.u32(range))
    }

    /// Whether this message is swallowed.
    pub(super) fn draw_swallow(&mut self) -> bool {
        self.faults
            .swallow_one_in
            .is_some_and(|one_in| self.dice.u32(0..one_in.max(1)) == 0)
    }

    /// How many messages are held before their acks go out.
    pub(super) fn draw_batch(&mut self) -> usize {
        match self.faults.reorder_acks {
            true => self.dice.usize(1..=12),
            false => 1,
        }
    }

    /// Mixes the held messages.
    pub(super) fn shuffle<T>(&mut self, held: &mut [T]) {
        if self.faults.reorder_acks {
            self.dice.shuffle(held);
        }
    }

    /// Whether this ack is repeated at once, or later.
    pub(super) fn draw_duplicate(&mut self) -> Option<Repeat> {
        if !self.faults.duplicate_acks {
            return None;
        }
        match self.dice.u32(0..6) {
            0 => Some(Repeat::AtOnce),
            1 => Some(Repeat::Late),
            _ => None,
        }
    }
}

/// When a duplicate ack comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    AtOnce,
    Late,
}
