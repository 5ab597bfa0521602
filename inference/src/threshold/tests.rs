use proptest::prelude::*;

use super::*;
use crate::bundle::Calibration;

const QUANTILE: f64 = 1390.017589020669;

/// Shape of the distribution; shape and scale of the fit.
const PARETO: [(f64, f64, f64); 3] = [
    (0.0, -0.010468, 2.017443),
    (0.3, 0.291695, 2.012104),
    (-0.2, -0.212546, 2.022221),
];

fn limit(rule: Threshold, scores: impl Iterator<Item = f64>) -> Option<f64> {
    let mut limit = Limit::new(rule);
    for score in scores {
        limit.learn(score);
    }
    limit.value()
}

#[test]
fn a_quantile_is_that_of_numpy() {
    // numpy.quantile([(i * 37 % 101) ** 1.5 for i in range(100)], 0.95) * 1.5
    let scores = (0..100).map(|i| f64::from(i * 37 % 101).powf(1.5));
    let rule = Calibration {
        q: 0.95,
        factor: 1.5,
        windows: 100,
    };
    let found = limit(Threshold::Quantile(rule), scores).unwrap();
    assert!((found - QUANTILE).abs() < 1e-9, "{found}");
}

#[test]
fn a_tail_is_fitted_as_scipy_does_it() {
    // scipy.stats.genpareto.fit(x, floc=0), x the quantiles of a distribution of the same kind at (i + 0.5) / 200
    for (shape, fitted_shape, fitted_scale) in PARETO {
        let quantile = |i: i32| {
            let left: f64 = 1.0 - (f64::from(i) + 0.5) / 200.0;
            if shape == 0.0 {
                -2.0 * left.ln()
            } else {
                2.0 / shape * (left.powf(-shape) - 1.0)
            }
        };
        let excesses: Vec<f64> = (0..200).map(quantile).collect();
        let fitted = pot::Pareto::fit(&excesses).unwrap();
        assert!(
            (fitted.shape - fitted_shape).abs() < 1e-3,
            "{fitted:?} {fitted_shape}"
        );
        assert!(
            (fitted.scale - fitted_scale).abs() < 2e-3,
            "{fitted:?} {fitted_scale}"
        );
    }
}

#[test]
fn peaks_over_threshold_reach_beyond_what_was_seen() {
    // An exponential of scale 1: 1 - 1e-5 of it lies below 11.5, while 4000 of them end at 9.
    let scores =
        (0..4_000).map(|i| -(1.0 - (f64::from(i * 7_919 % 4_000) + 0.5) / 4_000.0f64).ln());
    let rule = Calibration {
        q: 1.0 - 1e-5,
        factor: 1.0,
        windows: 4_000,
    };
    let found = limit(Threshold::Pot(rule), scores).unwrap();
    assert!((10.0..13.0).contains(&found), "{found}");
    // Scores without any spread: what was seen is all that is known.
    let found = limit(Threshold::Pot(rule), (0..4_000).map(|_| 3.0)).unwrap();
    assert_eq!(found, 3.0);
}

#[test]
fn scores_of_nothing_give_a_threshold_above_zero() {
    let rule = Calibration {
        windows: 20,
        ..Calibration::QUANTILE
    };
    for rule in [Threshold::Quantile(rule), Threshold::Pot(rule)] {
        assert!(limit(rule, (0..20).map(|_| 0.0)).unwrap() > 0.0);
    }
}

#[test]
fn a_calibration_goes_on_where_it_was() {
    for rule in [
        Threshold::Quantile(Calibration::QUANTILE),
        Threshold::Pot(Calibration::POT),
    ] {
        let scores: Vec<f64> = (0..2_000)
            .map(|i| f64::from(i * 733 % 1_999).sqrt())
            .collect();
        let at_once = limit(rule, scores.iter().copied()).unwrap();
        let mut first = Limit::new(rule);
        for score in &scores[..700] {
            first.learn(*score);
        }
        assert_eq!(first.progress().unwrap().windows, 700);
        let kept = serde_json::to_string(first.state().unwrap()).unwrap();
        let mut second = Limit::new(rule);
        assert!(second.restore(serde_json::from_str(&kept).unwrap()));
        let found = scores[700..].iter().find_map(|score| second.learn(*score));
        assert_eq!(found, Some(at_once));
        assert_eq!((second.progress(), second.learn(1e9)), (None, None));
        // The file of another kind of threshold is not taken.
        let other = Threshold::Quantile(Calibration {
            windows: 50,
            ..Calibration::QUANTILE
        });
        assert!(!Limit::new(other).restore(serde_json::from_str(&kept).unwrap()));
    }
}

proptest! {
    /// Whatever the scores are, the threshold is a number above zero, and peaks are never fitted below what they lie above.
    #[test]
    fn a_threshold_is_always_a_number(scores in prop::collection::vec(0.0..1e6f64, 60), q in 0.5..0.99999f64) {
        let rule = Calibration { q, factor: 1.0, windows: 60 };
        for rule in [Threshold::Quantile(rule), Threshold::Pot(rule)] {
            let found = limit(rule, scores.iter().copied()).unwrap();
            prop_assert!(found.is_finite() && found > 0.0);
            let mut sorted = scores.clone();
            sorted.sort_by(f64::total_cmp);
            if matches!(rule, Threshold::Pot(_)) {
                prop_assert!(found >= sorted[56], "{} {}", found, sorted[56]);
            }
        }
    }
}
