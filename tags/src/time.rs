//! Time: UTC timestamps, moments of one boot, and what ties the two together.
//!
//! A sample is stamped with a [`Moment`], which no clock step can reorder. A [`Timebase`] says which
//! boot the moment belongs to and, once the wall clock can be trusted, where that boot stands in UTC.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// UTC time in nanoseconds since 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The time as Unix milliseconds; finer digits stay as decimals.
    pub fn unix_ms(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// From Unix milliseconds.
    pub fn from_unix_ms(ms: i64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }
}

/// A point on the monotonic clock of one boot: nanoseconds since that boot, sleep included.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct Moment(pub i64);

impl Moment {
    /// The time from `earlier` to this moment; zero where `earlier` is later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, later: Duration) -> Moment {
        Moment(
            self.0
                .saturating_add(i64::try_from(later.as_nanos()).unwrap_or(i64::MAX)),
        )
    }
}

/// One boot of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BootId(pub Uuid);

/// Ties the moments of one boot to UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timebase {
    /// The boot that the moments count from.
    pub boot: BootId,
    /// UTC nanoseconds of the boot's moment zero; `None` until the wall clock can be trusted.
    pub offset_ns: Option<i64>,
}

impl Timebase {
    /// The moment in UTC, where that is known.
    pub fn utc(&self, moment: Moment) -> Option<Timestamp> {
        self.offset_ns
            .map(|offset| Timestamp(offset.saturating_add(moment.0)))
    }

    /// The UTC time as a moment of this boot, where that is known.
    pub fn moment(&self, time: Timestamp) -> Option<Moment> {
        self.offset_ns
            .map(|offset| Moment(time.0.saturating_sub(offset)))
    }
}

/// Monotonic and wall time; passed in, never called ambiently, so that a test owns time.
pub trait Clock: Send + Sync {
    /// Now, on the monotonic clock of this boot.
    fn now(&self) -> Moment;

    /// What ties [`Clock::now`] to UTC. It changes only when the wall clock is set or stepped.
    fn timebase(&self) -> Timebase;
}

/// The machine's clock.
pub struct SystemClock {
    boot: BootId,
    /// The offset last handed out; `i64::MIN` while unknown.
    offset_ns: AtomicI64,
}

/// A wall clock before 2025-01-01 was never set: Millrace is younger than that.
const WALL_CLOCK_SET_AFTER_S: i64 = 1_735_689_600;

/// Two clock reads are never simultaneous; only a difference above this is a step.
const CLOCK_STEP_NS: i64 = 1_000_000;

impl SystemClock {
    /// The clock of the running boot. Where the kernel names no boot id, the process gets one of its own.
    pub fn new() -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .ok()
            .and_then(|text| Uuid::parse_str(text.trim()).ok())
            .unwrap_or_else(Uuid::new_v4);
        Self {
            boot: BootId(boot),
            offset_ns: AtomicI64::new(i64::MIN),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

fn since_boot() -> i64 {
    // The clock exists on every kernel that can run this program.
    nix::time::ClockId::CLOCK_BOOTTIME
        .now()
        .map_or(0, |time| nanoseconds(time.into()))
}

/// Unix time. From the standard library: what the C library has for 32-bit processors ends in 2038.
fn wall() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => nanoseconds(after),
        Err(before) => -nanoseconds(before.duration()),
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        Moment(since_boot())
    }

    fn timebase(&self) -> Timebase {
        let wall = wall();
        if wall < WALL_CLOCK_SET_AFTER_S * 1_000_000_000 {
            return Timebase {
                boot: self.boot,
                offset_ns: None,
            };
        }
        let measured = wall - self.now().0;
        let last = self.offset_ns.load(Ordering::Relaxed);
        let offset = if last != i64::MIN && (measured - last).abs() < CLOCK_STEP_NS {
            last
        } else {
            self.offset_ns.store(measured, Ordering::Relaxed);
            measured
        };
        Timebase {
            boot: self.boot,
            offset_ns: Some(offset),
        }
    }
}

/// A clock that stands still until it is told to move.
pub struct TestClock {
    boot: BootId,
    now_ns: AtomicI64,
    offset_ns: AtomicI64,
}

impl TestClock {
    /// A clock at moment zero of a boot that began at `offset`; `None` leaves the wall clock unset.
    pub fn new(boot: u128, offset: Option<Timestamp>) -> Self {
        Self {
            boot: BootId(Uuid::from_u128(boot)),
            now_ns: AtomicI64::new(0),
            offset_ns: AtomicI64::new(offset.map_or(i64::MIN, |t| t.0)),
        }
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.now_ns.fetch_add(
            i64::try_from(by.as_nanos()).unwrap_or(i64::MAX),
            Ordering::Relaxed,
        );
    }

    /// Sets or steps the wall clock: where the boot's moment zero stands in UTC.
    pub fn set_offset(&self, offset: Timestamp) {
        self.offset_ns.store(offset.0, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Moment {
        Moment(self.now_ns.load(Ordering::Relaxed))
    }

    fn timebase(&self) -> Timebase {
        let offset = self.offset_ns.load(Ordering::Relaxed);
        Timebase {
            boot: self.boot,
            offset_ns: (offset != i64::MIN).then_some(offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_clock_offset_is_stable() {
        let clock = SystemClock::new();
        let first = clock.timebase();
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(clock.timebase(), first);
        assert!(clock.now() > Moment(0));
    }

    #[test]
    fn unset_clock_has_no_utc() {
        let clock = TestClock::new(1, None);
        assert_eq!(clock.timebase().utc(clock.now()), None);
        clock.set_offset(Timestamp(50));
        clock.advance(Duration::from_nanos(7));
        assert_eq!(clock.timebase().utc(clock.now()), Some(Timestamp(57)));
        assert_eq!(clock.timebase().moment(Timestamp(57)), Some(Moment(7)));
    }
}
