//! The pump of the demonstration: the equations of models/pump-anomaly/README.md, which the model was
//! fitted to.

use std::f64::consts::TAU;
use std::sync::Arc;
use std::time::Duration;

use super::timeline::Span;

/// The roles of the model, with their units, in the order of [`courses`].
pub(super) const ROLES: [(&str, &str); 5] = [
    ("pressure", "bar"),
    ("flow", "m3/h"),
    ("motor_current", "A"),
    ("vibration", "mm/s"),
    ("bearing_temp", "°C"),
];
/// Standard deviations of what the sensors add.
const NOISE: [f64; 5] = [0.03, 0.6, 0.15, 0.08, 0.25];
/// Values change this often: faster than they are polled.
pub(super) const STEP: Duration = Duration::from_millis(50);
/// A load cycle.
const LOAD_PERIOD_S: f64 = 60.0;
/// From one end of a load cycle to its middle.
const LOAD_SWING: f64 = 0.2;
/// How slowly the bearing follows the load.
const BEARING_S: f64 = 10.0;
/// A fault comes and goes this fast.
const FAULT_RAMP_S: f64 = 2.0;
/// One seed for all runs: a demonstration repeats.
const SEED: u64 = 20_261_121;

/// What the five sensors say every [`STEP`] for the whole run.
pub(super) fn courses(length: Duration, faults: &[Span]) -> [Arc<[f64]>; 5] {
    let mut rng = fastrand::Rng::with_seed(SEED);
    let steps = (length.as_millis() / STEP.as_millis()) as usize + 1;
    let mut courses: [Vec<f64>; 5] = Default::default();
    let mut heat = bearing(0.7, 0.0);
    for step in 0..steps {
        let t = step as f64 * STEP.as_secs_f64();
        let load = 0.7 + LOAD_SWING * (TAU * t / LOAD_PERIOD_S).sin();
        let sick = severity(t, faults);
        heat += (bearing(load, sick) - heat) * STEP.as_secs_f64() / BEARING_S;
        let clean = [
            6.2 - 1.6 * load - 0.8 * sick,
            60.0 * load * (1.0 - 0.12 * sick),
            8.0 + 14.0 * load + 2.0 * sick * (TAU * 0.9 * t).sin(),
            (1.2 + load) * (1.0 + 2.0 * sick),
            heat,
        ];
        for ((course, clean), noise) in courses.iter_mut().zip(clean).zip(NOISE) {
            course.push(clean + noise * normal(&mut rng));
        }
    }
    courses.map(Arc::from)
}

/// Where the bearing's temperature settles.
fn bearing(load: f64, sick: f64) -> f64 {
    46.0 + 6.0 * load + 2.5 * sick
}

/// How sick the pump is: 0 to 1 within the first seconds of a fault, and back after its end.
fn severity(t: f64, faults: &[Span]) -> f64 {
    let ramp = |from: Duration| ((t - from.as_secs_f64()) / FAULT_RAMP_S).clamp(0.0, 1.0);
    faults
        .iter()
        .map(|fault| ramp(fault.begin) - ramp(fault.end))
        .sum()
}

/// Roughly normal, standard deviation 1: the sum of twelve uniform numbers.
fn normal(rng: &mut fastrand::Rng) -> f64 {
    (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(course: &[f64], from_s: usize, to_s: usize) -> f64 {
        let part = &course[from_s * 20..to_s * 20];
        part.iter().sum::<f64>() / part.len() as f64
    }

    #[test]
    fn a_fault_shows_and_goes_away() {
        let fault = Span {
            begin: Duration::from_secs(20),
            end: Duration::from_secs(30),
        };
        let healthy = courses(Duration::from_secs(60), &[]);
        let sick = courses(Duration::from_secs(60), &[fault]);
        let vibration = |run: &[Arc<[f64]>; 5], from, to| mean(&run[3], from, to);
        assert!(vibration(&sick, 22, 30) > 2.5 * vibration(&healthy, 22, 30));
        assert_eq!(sick[3][..400], healthy[3][..400]);
        assert_eq!(sick[3][33 * 20..], healthy[3][33 * 20..]);
        assert!(mean(&sick[4], 25, 30) > mean(&healthy[4], 25, 30) + 0.5);
    }

    #[test]
    fn the_course_covers_the_run() {
        let run = courses(Duration::from_secs(3), &[]);
        assert!(run.iter().all(|course| course.len() == 61));
    }
}
