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
        severity: Vec::new(),
    }
}

/// Feeds scores at moments 1, 2, …; gives `(state, at, start, end, peak)` of each event.
fn events(rule: DecisionRule, scores: &[f64]) -> Vec<(EventState, i64, i64, Option<i64>, f64)> {
    let mut decision = Decision::new(rule, Some(10.0), "1.0.0", "ab");
    scores
        .iter()
        .enumerate()
        .filter_map(|(i, score)| take(&mut decision, judged(i as i64 + 1, *score, &[])))
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

/// As a monitor does it.
fn take(decision: &mut Decision, judged: Judged<'_>) -> Option<Event> {
    let score = decision.smooth(judged.score)?;
    decision.judge(Judged { score, ..judged })
}

fn judged(at: i64, score: f64, shares: &[Share]) -> Judged<'_> {
    Judged {
        at: Moment(at),
        from: Moment(at - 5),
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
    let mut decision = Decision::new(rule(), Some(10.0), "1.0.0", "ab");
    assert!(take(&mut decision, judged(1, 11.0, &[])).is_none());
    decision.interrupt();
    assert!(take(&mut decision, judged(2, 11.0, &[])).is_none());
    assert!(take(&mut decision, judged(3, 11.0, &[])).is_some());
    decision.interrupt();
    assert!(take(&mut decision, judged(4, 1.0, &[])).is_none());
    assert_eq!(take(&mut decision, judged(5, 1.0, &[])).unwrap().state, End);
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
    let mut decision = Decision::new(DecisionRule { on: 1, ..rule() }, Some(10.0), "1.0.0", "ab");
    let event = take(&mut decision, judged(1, 11.0, &shares)).unwrap();
    let EventDetail::Anomaly { top, sha256, .. } = event.detail else {
        panic!("not an anomaly");
    };
    let roles: Vec<_> = top.iter().map(|share| share.role.as_str()).collect();
    assert_eq!((roles.join(""), sha256.as_str()), ("bdc".to_owned(), "ab"));
}

#[test]
fn severity_is_the_steps_that_the_peak_has_reached_and_a_step_is_told() {
    let rule = DecisionRule {
        on: 1,
        on_of: 1,
        severity: vec![1.0, 1.2, 3.0],
        ..rule()
    };
    let mut decision = Decision::new(rule, Some(10.0), "1.0.0", "ab");
    let told: Vec<_> = [11.0, 11.5, 12.0, 1.0, 30.0, 1.0, 1.0]
        .iter()
        .enumerate()
        .filter_map(|(i, score)| take(&mut decision, judged(i as i64 + 1, *score, &[])))
        .map(|event| {
            let EventDetail::Anomaly { severity, from, .. } = event.detail else {
                panic!("not an anomaly");
            };
            (event.state, event.at.0, severity, from)
        })
        .collect();
    let from = Some(Moment(-4));
    assert_eq!(
        told,
        [
            (Begin, 1, Some(1), from),
            (Update, 3, Some(2), from),
            (Update, 5, Some(3), from),
            (End, 7, Some(3), from),
        ]
    );
}

#[test]
fn nothing_begins_without_a_threshold_and_what_lasts_can_be_ended() {
    let rule = DecisionRule {
        on: 1,
        on_of: 1,
        ..rule()
    };
    let mut decision = Decision::new(rule, None, "1.0.0", "ab");
    assert!(take(&mut decision, judged(1, 1e9, &[])).is_none());
    decision.set_threshold(Some(10.0));
    assert_eq!(
        take(&mut decision, judged(2, 11.0, &[])).unwrap().state,
        Begin
    );
    let end = decision.close(Moment(3)).unwrap();
    assert_eq!((end.state, end.end), (End, Some(Moment(3))));
    assert!(decision.close(Moment(4)).is_none());
}
