//! What happens when in a demonstration.

use std::time::Duration;

/// A shorter demonstration has no room for warm-up, fault and outage.
pub(super) const SECONDS_MIN: u64 = 20;
/// A day.
pub(super) const SECONDS_MAX: u64 = 86_400;
/// Long runs repeat the story about this often.
const CYCLE_SECONDS: u64 = 60;
/// The model needs 5 s for its first window and some more for a steady score.
const WARM_UP_MIN: Duration = Duration::from_secs(8);
/// The score needs some seconds of the fault to rise above the threshold three times.
const FAULT_MIN: Duration = Duration::from_secs(6);
/// Long enough that reconnecting alone cannot hide it.
const CUT_MIN: Duration = Duration::from_secs(3);

/// A stretch of the demonstration, counted from the start of the devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) begin: Duration,
    pub(super) end: Duration,
}

impl Span {
    /// Whether the moment is inside.
    pub(super) fn contains(&self, at: Duration) -> bool {
        self.begin <= at && at < self.end
    }
}

/// The story of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Timeline {
    /// When the pump is sick.
    pub(super) faults: Vec<Span>,
    /// When the broker is off.
    pub(super) cuts: Vec<Span>,
    /// When the devices stop.
    pub(super) stop: Duration,
    /// When the last sample should be at the broker.
    pub(super) end: Duration,
}

/// What goes on at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing was wrong yet.
    WarmUp,
    /// The pump is sick.
    Fault,
    /// The pump is sick and the broker is off.
    FaultInOutage,
    /// Only the broker is off.
    Outage,
    /// All is well again.
    Recovery,
}

impl Phase {
    /// What a spectator should know.
    pub(super) fn text(self) -> &'static str {
        match self {
            Phase::WarmUp => "normal operation",
            Phase::Fault => "FAULT in the pump: its bearing wears",
            Phase::FaultInOutage => "FAULT in the pump, and the BROKER IS OFF: the buffer fills",
            Phase::Outage => "the BROKER IS OFF: the buffer fills",
            Phase::Recovery => "pump and broker are well again",
        }
    }
}

impl Timeline {
    /// The story for a run of so many seconds.
    pub(super) fn new(seconds: u64) -> Self {
        let seconds = seconds.clamp(SECONDS_MIN, SECONDS_MAX);
        let cycles = (seconds / CYCLE_SECONDS).max(1);
        let total = Duration::from_secs(seconds);
        let cycle = total / u32::try_from(cycles).unwrap_or(u32::MAX);
        let fault_begin = (cycle * 3 / 10).max(WARM_UP_MIN);
        let fault_length = (cycle / 5).max(FAULT_MIN);
        let cut_length = (cycle / 8).max(CUT_MIN);
        let mut timeline = Self {
            faults: Vec::new(),
            cuts: Vec::new(),
            // The rest is for the last samples' way to the broker.
            stop: total - total.min(cycle) / 10,
            end: total,
        };
        let mut start = Duration::ZERO;
        for _ in 0..cycles {
            let begin = start + fault_begin;
            let cut = begin + fault_length / 2;
            timeline.faults.push(Span {
                begin,
                end: begin + fault_length,
            });
            timeline.cuts.push(Span {
                begin: cut,
                end: cut + cut_length,
            });
            start += cycle;
        }
        timeline
    }

    /// What goes on at the moment.
    pub(super) fn phase(&self, at: Duration) -> Phase {
        let fault = self.faults.iter().any(|span| span.contains(at));
        let cut = self.cuts.iter().any(|span| span.contains(at));
        let before = self.faults.first().is_none_or(|first| at < first.begin);
        match (fault, cut) {
            (true, true) => Phase::FaultInOutage,
            (true, false) => Phase::Fault,
            (false, true) => Phase::Outage,
            (false, false) if before => Phase::WarmUp,
            (false, false) => Phase::Recovery,
        }
    }

    /// Whether the broker should be off at the moment.
    pub(super) fn is_cut(&self, at: Duration) -> bool {
        self.cuts.iter().any(|span| span.contains(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_has_room_for_the_story() {
        for seconds in (SECONDS_MIN..=600).chain([3_600, SECONDS_MAX]) {
            let timeline = Timeline::new(seconds);
            let last_cut = timeline.cuts.last().unwrap().end;
            let last_fault = timeline.faults.last().unwrap().end;
            assert!(timeline.faults[0].begin >= WARM_UP_MIN, "{seconds}");
            assert!(
                last_cut + Duration::from_secs(1) <= timeline.stop,
                "{seconds}"
            );
            assert!(last_fault <= timeline.stop, "{seconds}");
            assert!(timeline.stop < Duration::from_secs(seconds), "{seconds}");
            for pair in timeline.faults.windows(2) {
                assert!(
                    pair[0].end + Duration::from_secs(20) < pair[1].begin,
                    "{seconds}"
                );
            }
        }
    }

    #[test]
    fn one_minute() {
        let timeline = Timeline::new(60);
        let phases: Vec<Phase> = [0, 17, 18, 23, 24, 29, 30, 31, 32, 53]
            .map(|s| timeline.phase(Duration::from_secs(s)))
            .to_vec();
        use Phase::{Fault, FaultInOutage, Outage, Recovery, WarmUp};
        assert_eq!(
            phases,
            [
                WarmUp,
                WarmUp,
                Fault,
                Fault,
                FaultInOutage,
                FaultInOutage,
                Outage,
                Outage,
                Recovery,
                Recovery
            ]
        );
        assert_eq!(timeline.stop, Duration::from_secs(54));
    }
}
