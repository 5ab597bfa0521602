//! When to read what.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use millrace_drivers::PollGroup;
use tokio::time::Instant;

/// When each poll group is due, on an absolute grid: a slow read delays the next, it never shifts it. Each device's
/// grid has a phase of its own, so that devices of one interval do not all ask at the same moment.
pub(super) struct Schedule {
    groups: Vec<Due>,
}

struct Due {
    at: Instant,
    /// A place of the grid.
    origin: Instant,
    interval: Duration,
}

/// The next thing to read.
pub(super) struct Step {
    /// Which group.
    pub(super) group: usize,
    /// Slots of this group that passed unread because the device, or this machine, was too slow.
    pub(super) missed: u64,
}

impl Schedule {
    /// Every group is due at once, then on the device's grid.
    pub(super) fn new(groups: &[PollGroup], device: &str) -> Self {
        let now = Instant::now();
        Self {
            groups: groups
                .iter()
                .map(|group| Due {
                    at: now,
                    origin: now + group.interval.mul_f64(phase(device)),
                    interval: group.interval,
                })
                .collect(),
        }
    }

    /// When the next group is due; never where there is none.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.groups.iter().map(|due| due.at).min()
    }

    /// Takes the group that has been due for longest and sets its next slot, the first one after `now`.
    pub(super) fn take(&mut self, now: Instant) -> Step {
        let earliest = self.groups.iter().enumerate().min_by_key(|(_, due)| due.at);
        let group = earliest.map_or(0, |(group, _)| group);
        let due = &mut self.groups[group];
        let late = now.saturating_duration_since(due.at).as_nanos();
        let missed = late / due.interval.as_nanos().max(1);
        let missed = u32::try_from(missed).unwrap_or(u32::MAX - 1);
        let interval = due.interval.as_nanos().max(1);
        let reached = now.max(due.at);
        due.at = match reached.checked_duration_since(due.origin) {
            Some(since) => {
                let slots = u32::try_from(since.as_nanos() / interval).unwrap_or(u32::MAX - 1);
                due.origin += due.interval * (slots + 1);
                due.origin
            }
            None => due.origin,
        };
        Step {
            group,
            missed: u64::from(missed),
        }
    }
}

/// A device's place within the interval, 0 to 1: the same after each start.
fn phase(device: &str) -> f64 {
    let mut hasher = DefaultHasher::new();
    device.hash(&mut hasher);
    f64::from((hasher.finish() >> 32) as u32) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(intervals_ms: &[u64]) -> Schedule {
        let groups: Vec<PollGroup> = intervals_ms
            .iter()
            .map(|ms| PollGroup {
                interval: Duration::from_millis(*ms),
                tags: Vec::new(),
            })
            .collect();
        let mut schedule = Schedule::new(&groups, "pump");
        let start = schedule.groups.first().map(|due| due.at);
        for due in &mut schedule.groups {
            due.origin = start.unwrap_or(due.origin);
        }
        schedule
    }

    /// Days of reads that take their time: each begins on the grid, and none is asked for twice.
    #[test]
    fn grid_does_not_drift() {
        let interval = Duration::from_millis(100);
        let group = PollGroup {
            interval,
            tags: Vec::new(),
        };
        let mut schedule = Schedule::new(&[group], "pump");
        let first = schedule.next_due().unwrap();
        let mut rng = fastrand::Rng::with_seed(3);
        let (mut now, mut taken, mut missed) = (first, 0, 0);
        let origin = first + interval.mul_f64(phase("pump"));
        for _ in 0..100_000 {
            let due = schedule.next_due().unwrap();
            if due > first {
                let off = due.duration_since(origin).as_nanos() % interval.as_nanos();
                assert_eq!(off, 0);
            }
            now = now.max(due) + Duration::from_micros(rng.u64(0..3_000));
            let step = schedule.take(now);
            missed += step.missed;
            taken += 1;
            // The read, one of a hundred of which is far too slow.
            let slow = rng.u8(0..100) == 0;
            now += Duration::from_micros(if slow { 330_000 } else { rng.u64(0..60_000) });
        }
        let slots = now.duration_since(origin).as_nanos() / interval.as_nanos();
        let counted = u128::from(taken + missed);
        assert!(counted.abs_diff(slots) <= 4, "{counted} of {slots}");
        assert!((1_900..4_100).contains(&missed), "{missed}");
    }

    #[test]
    fn devices_of_one_interval_are_spread_over_it() {
        let mut tenths = [0; 10];
        for device in 0..1_000 {
            tenths[(phase(&format!("device-{device}")) * 10.0) as usize] += 1;
        }
        assert!(
            tenths.iter().all(|count| (60..140).contains(count)),
            "{tenths:?}"
        );
    }

    #[test]
    fn slots_stay_on_the_grid_after_a_late_read() {
        let mut schedule = schedule(&[100]);
        let start = schedule.next_due().unwrap();
        assert_eq!(schedule.take(start + Duration::from_millis(30)).missed, 0);
        assert_eq!(
            schedule.next_due(),
            Some(start + Duration::from_millis(100))
        );
    }

    #[test]
    fn passed_slots_are_counted_not_caught_up() {
        let mut schedule = schedule(&[100]);
        let start = schedule.next_due().unwrap();
        assert_eq!(schedule.take(start + Duration::from_millis(350)).missed, 3);
        assert_eq!(
            schedule.next_due(),
            Some(start + Duration::from_millis(400))
        );
    }

    #[test]
    fn groups_take_turns_by_due_time() {
        let mut schedule = schedule(&[100, 250]);
        let start = schedule.next_due().unwrap();
        let order: Vec<usize> = (0..6)
            .map(|_| {
                let due = schedule.next_due().unwrap();
                schedule.take(due).group
            })
            .collect();
        assert_eq!(order, [0, 1, 0, 0, 1, 0]);
        assert_eq!(
            schedule.next_due(),
            Some(start + Duration::from_millis(400))
        );
    }

    #[test]
    fn device_without_groups_is_never_due() {
        assert_eq!(Schedule::new(&[], "pump").next_due(), None);
    }
}
