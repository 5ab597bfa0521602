use std::time::Duration;

use super::*;

fn rule() -> DecisionRule {
    DecisionRule {
        smoothing: 1,
        on: 2,
        on_of: 2,
        off: 2,
        off_ratio: 0.5,
        cooldown: Duration::ZERO,
    }
}

/// Feeds scores at moments 1, 2, …; gives `(state, at, start, end, peak)` of each event.
fn events(rule: DecisionRule, scores: &[f64]) -> Vec<(EventState, i64, i64, Option<i64>, f64)> {
    let mut decision = Decision::new(rule, 10.0, "1.0.0", "ab");
    scores
        .iter()
        .enumerate()
        .filter_map(|(i, score)| decision.judge(judged(i as i64 + 1, *score, &[])))
        .map(|event| {
            let EventDetail::Anomaly { peak, .. } = event.detail else {
                panic!("not an anomaly");
            };
            (
                event.state,
                event.at.0,
                event.start.0,
                event.end.map(|end| end.0),
                peak,
            )
        })
        .collect()
}

fn judged(at: i64, score: f64, shares: &[Share]) -> Judged<'_> {
    Judged {
        at: Moment(at),
        score,
        shares,
        good: 1.0,
    }
}

use EventState::{Begin, End, Update};

#[test]
fn begins_after_k_windows_and_ends_below_the_hysteresis() {
    let scores = [1.0, 11.0, 9.0, 11.0, 12.0, 8.0, 4.0, 6.0, 4.0, 3.0, 1.0];
    assert_eq!(
        events(rule(), &scores),
        [(Begin, 5, 4, None, 12.0), (End, 10, 4, Some(9), 12.0)]
    );
}

#[test]
fn k_of_n_bridges_single_windows() {
    let rule = DecisionRule { on_of: 3, ..rule() };
    assert_eq!(
        events(rule, &[11.0, 9.0, 11.0]),
        [(Begin, 3, 1, None, 11.0)]
    );
}

#[test]
fn a_median_takes_single_spikes_away() {
    let rule = DecisionRule {
        smoothing: 3,
        on: 1,
        on_of: 1,
        ..rule()
    };
    assert_eq!(events(rule.clone(), &[99.0, 1.0, 1.0, 99.0, 1.0, 1.0]), []);
    assert_eq!(
        events(rule, &[1.0, 1.0, 30.0, 20.0]),
        [(Begin, 4, 4, None, 20.0)]
    );
}

#[test]
fn tells_of_a_peak_that_grows_notably() {
    let scores = [11.0, 12.0, 13.0, 15.0, 15.5, 30.0];
    assert_eq!(
        events(rule(), &scores),
        [
            (Begin, 2, 1, None, 12.0),
            (Update, 4, 1, None, 15.0),
            (Update, 6, 1, None, 30.0),
        ]
    );
}

#[test]
fn no_event_begins_in_the_cooldown() {
    let rule = DecisionRule {
        on: 1,
        on_of: 1,
        off: 1,
        cooldown: Duration::from_nanos(3),
        ..rule()
    };
    let begun: Vec<_> = events(rule, &[11.0, 1.0, 11.0, 11.0, 11.0])
        .into_iter()
        .map(|event| (event.0, event.1))
        .collect();
    assert_eq!(begun, [(Begin, 1), (End, 2), (Begin, 5)]);
}

#[test]
fn a_gap_breaks_the_run_but_not_the_event() {
    let mut decision = Decision::new(rule(), 10.0, "1.0.0", "ab");
    assert!(decision.judge(judged(1, 11.0, &[])).is_none());
    decision.interrupt();
    assert!(decision.judge(judged(2, 11.0, &[])).is_none());
    assert!(decision.judge(judged(3, 11.0, &[])).is_some());
    decision.interrupt();
    assert!(decision.judge(judged(4, 1.0, &[])).is_none());
    assert_eq!(decision.judge(judged(5, 1.0, &[])).unwrap().state, End);
}

#[test]
fn names_the_three_largest_shares_at_the_peak() {
    let share = |role: &str, share: f64| Share {
        role: role.to_owned(),
        share,
    };
    let shares = [
        share("a", 0.1),
        share("b", 0.4),
        share("c", 0.2),
        share("d", 0.3),
    ];
    let mut decision = Decision::new(DecisionRule { on: 1, ..rule() }, 10.0, "1.0.0", "ab");
    let event = decision.judge(judged(1, 11.0, &shares)).unwrap();
    let EventDetail::Anomaly { top, sha256, .. } = event.detail else {
        panic!("not an anomaly");
    };
    let roles: Vec<_> = top.iter().map(|share| share.role.as_str()).collect();
    assert_eq!((roles.join(""), sha256.as_str()), ("bdc".to_owned(), "ab"));
}
