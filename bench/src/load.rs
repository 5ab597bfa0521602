//! The named loads: u32 tick counters in two holding registers each, over Modbus TCP.

use std::time::Duration;

/// One load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Its name in the design.
    pub name: &'static str,
    /// Simulated devices.
    pub devices: u16,
    /// Tags of each.
    pub tags: u16,
    /// Holding registers from one tag to the next.
    pub stride: u16,
    /// From one read to the next.
    pub interval: Duration,
}

impl Load {
    /// Every named load.
    pub const ALL: [Load; 5] = [
        Load::new("W1", 1, 100, 2, 1_000),
        Load::new("W1K", 1, 1_000, 2, 1_000),
        Load::new("W2", 10, 1_000, 2, 1_000),
        Load::new("W2S", 10, 1_000, 6, 1_000),
        Load::new("W3", 10, 1_000, 2, 100),
    ];

    const fn new(
        name: &'static str,
        devices: u16,
        tags: u16,
        stride: u16,
        interval_ms: u64,
    ) -> Self {
        Load {
            name,
            devices,
            tags,
            stride,
            interval: Duration::from_millis(interval_ms),
        }
    }

    /// The load of that name.
    pub fn named(name: &str) -> Option<Load> {
        Load::ALL
            .into_iter()
            .find(|load| load.name.eq_ignore_ascii_case(name))
    }

    /// Values that the load asks for in a second.
    pub fn values_per_second(&self) -> f64 {
        f64::from(self.devices) * f64::from(self.tags) / self.interval.as_secs_f64()
    }
}
