//! What a mid-sized plant says: the same for the same seed, without repeating itself.

use std::f64::consts::TAU;
use std::sync::Arc;

use fastrand::Rng;
use millrace_tags::{Moment, Reason, Sample, TagId, Value};

/// Tags of the plant.
pub const TAGS: usize = 500;

/// One sample in this many is bad.
const BAD_ONE_IN: u32 = 1000;

/// 60 % analog values in steps of 0.1 with noise, 15 % readings of a 12-bit converter, 10 % counters, 10 %
/// bools, 5 % setpoints; one in a thousand is bad; scans every second, late by some milliseconds.
pub struct Signals {
    rng: Rng,
    tags: Vec<TagId>,
    state: Vec<State>,
    scan: i64,
}

enum State {
    /// Level, swing and phase of a slow process value.
    Analog(f64, f64, f64),
    Converter(f64, f64, f64),
    Counter(u64, u64),
    Flag(bool),
    Setpoint(f64),
}

impl Signals {
    /// Signals for these tags.
    pub fn new(seed: u64, tags: Vec<TagId>) -> Self {
        let mut rng = Rng::with_seed(seed);
        let state = (0..tags.len()).map(|i| {
            let phase = rng.f64() * TAU;
            match i % 20 {
                0..12 => State::Analog(20.0 + 400.0 * rng.f64(), 10.0 * rng.f64(), phase),
                12..15 => State::Converter(1000.0 + 2000.0 * rng.f64(), 200.0, phase),
                15..17 => State::Counter(rng.u64(0..1_000_000), rng.u64(1..5)),
                17..19 => State::Flag(rng.bool()),
                _ => State::Setpoint(rng.u32(1..1000).into()),
            }
        });
        let state = state.collect();
        Self {
            rng,
            tags,
            state,
            scan: 0,
        }
    }

    /// The samples of the next scan.
    pub fn scan(&mut self) -> Vec<Sample> {
        self.scan += 1;
        let at = Moment((self.scan * 1000 + self.rng.i64(0..6)) * 1_000_000);
        let angle = self.scan as f64 * TAU / 900.0;
        let rng = &mut self.rng;
        let sample = |(tag, state): (&TagId, &mut State)| {
            if rng.u32(0..BAD_ONE_IN) == 0 {
                return Sample::bad(*tag, Reason::Timeout, at);
            }
            Sample::good(*tag, state.next(rng, angle), at)
        };
        self.tags.iter().zip(&mut self.state).map(sample).collect()
    }
}

impl State {
    fn next(&mut self, rng: &mut Rng, angle: f64) -> Value {
        match self {
            State::Analog(level, swing, phase) => {
                let value = *level + *swing * (angle + *phase).sin() + 0.1 * noise(rng);
                Value::F64((value * 10.0).round() / 10.0)
            }
            State::Converter(level, swing, phase) => {
                let value = *level + *swing * (angle + *phase).sin() + noise(rng);
                Value::U64(value.clamp(0.0, 4095.0) as u64)
            }
            State::Counter(count, rate) => {
                *count += rng.u64(0..=*rate);
                Value::U64(*count)
            }
            State::Flag(flag) => {
                *flag ^= rng.u32(0..300) == 0;
                Value::Bool(*flag)
            }
            State::Setpoint(value) => {
                if rng.u32(0..3600) == 0 {
                    *value = rng.u32(1..1000).into();
                }
                Value::F64(*value)
            }
        }
    }
}

/// About normal, deviation 1: the sum of twelve uniform numbers.
fn noise(rng: &mut Rng) -> f64 {
    (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0
}

/// Samples that nothing makes smaller, to fill a disk with little work.
pub(crate) struct Filler {
    rng: Rng,
    pool: Vec<u8>,
    tag: TagId,
    made: i64,
}

impl Filler {
    /// Bytes of one sample: four of them make a chunk.
    pub(crate) const BYTES: usize = 20_000;

    /// A filler for one tag.
    pub(crate) fn new(seed: u64, tag: TagId) -> Self {
        let mut rng = Rng::with_seed(seed);
        let pool = std::iter::repeat_with(|| rng.u8(..))
            .take(1 << 18)
            .collect();
        Self {
            rng,
            pool,
            tag,
            made: 0,
        }
    }

    /// The next samples.
    pub(crate) fn samples(&mut self, count: usize) -> Vec<Sample> {
        let sample = |_| {
            self.made += 1;
            let from = self.rng.usize(0..self.pool.len() - Self::BYTES);
            let bytes: Arc<[u8]> = self.pool[from..from + Self::BYTES].into();
            Sample::good(self.tag, Value::Bytes(bytes), Moment(self.made * 1_000_000))
        };
        (0..count).map(sample).collect()
    }
}
