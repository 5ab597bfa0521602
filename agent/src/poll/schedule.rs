//! When to read what.

use std::time::Duration;

use millrace_drivers::PollGroup;
use tokio::time::Instant;

/// When each poll group is due, on an absolute grid: a slow read delays the next, it never shifts it.
pub(super) struct Schedule {
    groups: Vec<Due>,
}

struct Due {
    at: Instant,
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
    /// Every group is due at once, then on its grid.
    pub(super) fn new(groups: &[PollGroup]) -> Self {
        let now = Instant::now();
        Self {
            groups: groups
                .iter()
                .map(|group| Due {
                    at: now,
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
        due.at += due.interval * (missed + 1);
        Step {
            group,
            missed: u64::from(missed),
        }
    }
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
        Schedule::new(&groups)
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
        assert_eq!(schedule(&[]).next_due(), None);
    }
}
