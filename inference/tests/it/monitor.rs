//! Monitors: windows of samples, what is not scored, events. The score of a window is the sum over both
//! inputs of their mean magnitude.

use millrace_inference::{Monitor, NotScored, Output};
use millrace_tags::{EventDetail, EventState, Reason, Sample, TagId};
use proptest::prelude::*;

use crate::fixture::{Fixture, ms, sample};

fn monitor(fixture: &Fixture) -> Monitor {
    Monitor::new(&fixture.bundle(), fixture.detector())
}

fn fixture() -> Fixture {
    Fixture::new("magnitude").edit(
        "score = \"score\"",
        "score = \"score\"\ncontribution = \"contribution\"",
    )
}

fn scan_fixture() -> Fixture {
    fixture().edit("grid = \"1s\"", "grid = \"scan\"")
}

fn bad(at: i64) -> Sample {
    Sample::bad(TagId(1), Reason::Timeout, ms(at))
}

/// Outputs as short lines: time in ms, then what.
fn lines(outputs: &[Output]) -> Vec<String> {
    outputs.iter().map(line).collect()
}

fn line(output: &Output) -> String {
    match output {
        Output::Score { at, score, .. } => format!("{} score {score:.3}", at.0 / 1_000_000),
        Output::NotScored { at, reason } => format!("{} {reason}", at.0 / 1_000_000),
        Output::Event(event) => format!("{} {:?}", event.at.0 / 1_000_000, event.state),
    }
}

#[test]
fn a_row_is_the_newest_value_at_each_multiple_of_the_grid() {
    let mut monitor = monitor(&fixture());
    for at in [300, 1_300, 1_900, 2_300, 3_000] {
        monitor.feed(0, &sample(at, at as f64 / 1000.0));
        monitor.feed(1, &sample(at, 1.0));
    }
    assert_eq!(
        lines(&monitor.advance(ms(2_999))),
        [
            "1000 warming up, 1 of 3 rows",
            "2000 warming up, 2 of 3 rows"
        ]
    );
    let outputs = monitor.advance(ms(3_999));
    // (0.3 + 1.9 + 3.0) / 3 + 1
    assert_eq!(lines(&outputs), ["3000 score 2.733"]);
    let [
        Output::Score {
            window_start,
            ratio,
            share,
            good,
            ..
        },
    ] = outputs.as_slice()
    else {
        panic!("expected one score");
    };
    assert_eq!(*window_start, ms(1_000));
    assert!((ratio.unwrap() - 0.2733).abs() < 1e-3);
    assert_eq!(&*share[0].0, "a");
    assert!((share[0].1 + share[1].1 - 1.0).abs() < 1e-9);
    assert_eq!(*good, 1.0);
}

#[test]
fn a_gap_starts_the_window_anew() {
    let mut monitor = monitor(&fixture());
    for at in [0, 1_000, 2_000] {
        monitor.feed(0, &sample(at, 1.0));
        monitor.feed(1, &sample(at, 1.0));
    }
    for at in [3_000, 4_000, 5_000, 60_000] {
        monitor.feed(0, &sample(at, 1.0));
    }
    for at in [60_000, 61_000, 62_000] {
        monitor.feed(1, &sample(at, 2.0));
    }
    assert_eq!(
        lines(&monitor.advance(ms(62_500))),
        [
            "0 warming up, 1 of 3 rows",
            "1000 warming up, 2 of 3 rows",
            "2000 score 2.000",
            // b is held for 2 s, the max_gap
            "3000 score 2.000",
            "4000 score 2.000",
            "5000 no good value of b",
            "60000 warming up, 1 of 3 rows",
            "61000 warming up, 2 of 3 rows",
            "62000 score 3.000",
        ]
    );
    assert!(monitor.advance(ms(62_999)).is_empty());
    // Nothing comes for a day: one gap, not a day of rows.
    assert_eq!(
        lines(&monitor.advance(ms(86_400_000))),
        ["63000 no good value of a"]
    );
}

#[test]
fn stand_ins_count_against_the_good_share() {
    let mut monitor =
        monitor(&fixture().edit("grid = \"1s\"", "grid = \"1s\"\nmin_good_share = 0.8"));
    for at in [0, 1_000, 2_000, 3_000] {
        monitor.feed(0, &sample(at, 1.0));
    }
    monitor.feed(1, &sample(0, 1.0));
    monitor.feed(1, &bad(1_000));
    monitor.feed(1, &bad(2_000));
    monitor.feed(1, &sample(3_000, 5_000.0)); // outside its range
    assert_eq!(
        lines(&monitor.advance(ms(3_000)))[2..],
        [
            "2000 only 67 % good values, for want of b",
            "3000 no good value of b",
        ]
    );
}

#[test]
fn an_optional_input_never_makes_a_gap() {
    let fixture = fixture()
        .edit("range =", "required = false\nrange =")
        .edit("grid = \"1s\"", "grid = \"1s\"\nmin_good_share = 0.5");
    let mut monitor = monitor(&fixture);
    monitor.feed(1, &sample(0, 7.0));
    for at in (0..10).map(|s| s * 1_000) {
        monitor.feed(0, &sample(at, 1.0));
    }
    let outputs = monitor.advance(ms(9_000));
    assert_eq!(line(outputs.last().unwrap()), "9000 score 8.000");
}

#[test]
fn lines_wait_for_their_far_end() {
    let fixture = fixture()
        .edit("fill = \"hold\"", "fill = \"linear\"")
        .edit("role = \"b\"", "role = \"b\"\nfill = \"linear\"")
        .edit("value = 10.0", "value = 100.0");
    let mut monitor = monitor(&fixture);
    for input in [0, 1] {
        monitor.feed(input, &sample(0, 0.0));
        monitor.feed(input, &sample(1_600, 16.0));
    }
    assert_eq!(lines(&monitor.advance(ms(2_000))).len(), 2);
    monitor.feed(0, &sample(2_600, 26.0));
    assert!(monitor.advance(ms(2_600)).is_empty());
    monitor.feed(1, &sample(2_600, 26.0));
    assert_eq!(lines(&monitor.advance(ms(2_600))), ["2000 score 20.000"]);
}

#[test]
fn stride_leaves_windows_out() {
    let mut monitor = monitor(&fixture().edit("len = 3", "len = 3\nstride = 2"));
    for at in (0..8).map(|s| s * 1_000) {
        monitor.feed(0, &sample(at, 1.0));
        monitor.feed(1, &sample(at, 1.0));
    }
    assert_eq!(
        lines(&monitor.advance(ms(7_000))),
        [
            "1000 warming up, 2 of 3 rows",
            "2000 score 2.000",
            "4000 score 2.000",
            "6000 score 2.000",
        ]
    );
}

#[test]
fn a_scan_is_a_row_whatever_its_time() {
    let mut monitor = monitor(&scan_fixture());
    let mut told = Vec::new();
    for (i, at) in [0, 5, 900, 2_000, 5_000].into_iter().enumerate() {
        monitor.feed(0, &sample(at, i as f64));
        // b is polled in every other scan, and held.
        if i % 2 == 0 {
            monitor.feed(1, &sample(at, 1.0));
        }
        assert!(monitor.advance(ms(at)).is_empty());
        told.extend(lines(&monitor.end_scan(ms(at))));
    }
    assert_eq!(
        told,
        [
            "0 warming up, 1 of 3 rows",
            "5 warming up, 2 of 3 rows",
            "900 score 2.000",
            "2000 score 3.000",
            // Three seconds without a scan are longer than max_gap.
            "5000 no good value of a, b",
            "5000 warming up, 1 of 3 rows",
        ]
    );
}

#[test]
fn events_begin_and_end() {
    let mut monitor = monitor(&scan_fixture());
    let mut events = Vec::new();
    for (i, value) in [1.0, 1.0, 1.0, 30.0, 30.0, 1.0, 1.0, 1.0]
        .into_iter()
        .enumerate()
    {
        let at = i as i64 * 100;
        monitor.feed(0, &sample(at, value));
        monitor.feed(1, &sample(at, 1.0));
        events.extend(
            monitor
                .end_scan(ms(at))
                .into_iter()
                .filter_map(|output| match output {
                    Output::Event(event) => Some(event),
                    _ => None,
                }),
        );
    }
    let states: Vec<_> = events
        .iter()
        .map(|event| (event.state, event.at, event.end))
        .collect();
    assert_eq!(
        states,
        [
            (EventState::Begin, ms(300), None),
            (EventState::Update, ms(400), None),
            (EventState::End, ms(700), Some(ms(700))),
        ]
    );
    let EventDetail::Anomaly {
        version,
        peak,
        threshold,
        top,
        good,
        ..
    } = &events[2].detail
    else {
        panic!("not an anomaly");
    };
    assert_eq!((version.as_str(), *threshold, *good), ("1.0.0", 10.0, 1.0));
    assert!((peak - (61.0 / 3.0 + 1.0)).abs() < 1e-4);
    assert_eq!(top[0].role, "a");
    assert!(top[0].share > 0.9);
}

#[test]
fn a_model_that_fails_says_so() {
    let fixture = Fixture::new("root").edit("grid = \"1s\"", "grid = \"scan\"");
    let mut monitor = monitor(&fixture);
    let mut last = Vec::new();
    for at in [0, 1, 2] {
        monitor.feed(0, &sample(at, -5.0));
        monitor.feed(1, &sample(at, 1.0));
        last = monitor.end_scan(ms(at));
    }
    assert!(matches!(
        last.as_slice(),
        [Output::NotScored {
            reason: NotScored::Failed(_),
            ..
        }]
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Rows follow event time: how often `advance` is called changes nothing, and no order of samples
    /// makes a window that cannot be scored.
    #[test]
    fn outputs_do_not_depend_on_the_pace(
        samples in prop::collection::vec((0usize..2, 0i64..20_000, -50.0..50.0f64, prop::bool::weighted(0.1)), 0..120),
        steps in prop::collection::vec(1i64..5_000, 0..12),
        linear in any::<bool>(),
    ) {
        let mut fixture = fixture();
        if linear {
            fixture = fixture.edit("fill = \"hold\"", "fill = \"linear\"");
        }
        let mut at_once = monitor(&fixture);
        let mut by_steps = monitor(&fixture);
        for (input, at, value, is_bad) in samples {
            let sample = if is_bad { bad(at) } else { sample(at, value) };
            at_once.feed(input, &sample);
            by_steps.feed(input, &sample);
        }
        let expected = lines(&at_once.advance(ms(30_000)));
        let mut to = 0;
        let mut actual = Vec::new();
        for step in steps {
            to += step;
            actual.extend(lines(&by_steps.advance(ms(to.min(30_000)))));
        }
        actual.extend(lines(&by_steps.advance(ms(30_000))));
        prop_assert!(!expected.iter().any(|line| line.contains("not a finite number")));
        prop_assert_eq!(expected, actual);
    }
}

#[test]
fn a_gate_spares_windows() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    let from = Arc::new(AtomicI64::new(0));
    let asked = from.clone();
    let mut monitor = monitor(&fixture());
    monitor.set_gate(Box::new(move |at| at.0 >= asked.load(Ordering::Relaxed)));
    let second = |monitor: &mut Monitor, second: i64| {
        monitor.feed(0, &sample(second * 1000, 2.0));
        monitor.feed(1, &sample(second * 1000, 1.0));
        lines(&monitor.advance(ms(second * 1000)))
    };
    assert_eq!(monitor.next_row(), None);
    monitor.feed(0, &sample(900, 2.0));
    assert_eq!(monitor.next_row(), Some(ms(1_000)));
    for at in 1..=2 {
        assert!(second(&mut monitor, at)[0].contains("warming up"));
    }
    assert_eq!(second(&mut monitor, 3), ["3000 score 3.000"]);
    assert_eq!(monitor.next_row(), Some(ms(4_000)));
    from.store(ms(5_000).0, Ordering::Relaxed);
    assert_eq!(
        second(&mut monitor, 4),
        ["4000 not scored, to spare the processor"]
    );
    assert_eq!(second(&mut monitor, 5), ["5000 score 3.000"]);
}

#[test]
fn columns_are_made_of_inputs() {
    let fixture = fixture()
        .edit("grid = \"1s\"", "grid = \"1s\"\nmin_good_share = 0.5")
        .edit(
            "[[input]]\nrole = \"b\"",
            "[[input]]\nrole = \"head\"\nfrom = [\"a\", \"b\"]\nop = \"difference\"\n\n\
             [[input]]\nrole = \"b\"\ncolumn = false",
        );
    let mut monitor = monitor(&fixture);
    for at in (0..5).map(|s| s * 1_000) {
        monitor.feed(0, &sample(at, 7.0));
        monitor.feed(1, &sample(at, 4.0));
    }
    let outputs = monitor.advance(ms(4_000));
    // Columns a and head: 7 + 3.
    assert_eq!(lines(&outputs)[2], "2000 score 10.000");
    let Output::Score { share, .. } = &outputs[2] else {
        panic!("expected a score");
    };
    assert_eq!(&*share[1].0, "head");
    assert!((share[1].1 - 0.3).abs() < 1e-6);
}

/// A fast signal beside slow ones: a band of its spectrum at each row.
#[test]
fn a_band_of_a_fast_signal_is_a_column() {
    let fixture = fixture()
        .edit("fill = \"hold\"", "column = false")
        .edit(
            "[[input]]\nrole = \"b\"",
            "[[input]]\nrole = \"hum\"\nfrom = [\"a\"]\nop = \"band\"\nover = \"1s\"\nband = [40, 60]\n\n\
             [[input]]\nrole = \"b\"\nmax_gap = \"1m\"",
        );
    let mut monitor = monitor(&fixture);
    monitor.feed(1, &sample(0, 0.0));
    let mut told = Vec::new();
    for at in (0..6_000).step_by(2) {
        let hz = if at < 3_000 { 50.0 } else { 10.0 };
        let value = 2.0 * (std::f64::consts::TAU * hz * at as f64 / 1_000.0).sin();
        monitor.feed(0, &sample(at, value));
        told.extend(lines(&monitor.advance(ms(at))));
    }
    // 2 / sqrt(2), then less and less of it in the window of three rows.
    assert_eq!(
        told,
        [
            "0 no good value of hum",
            "1000 warming up, 1 of 3 rows",
            "2000 warming up, 2 of 3 rows",
            "3000 score 1.414",
            "4000 score 0.943",
            "5000 score 0.471",
        ]
    );
}

/// A slow input beside fast ones has a gap of its own.
#[test]
fn an_input_may_come_at_another_pace() {
    let fixture = fixture().edit("role = \"b\"", "role = \"b\"\nmax_gap = \"1m\"");
    let mut monitor = monitor(&fixture);
    monitor.feed(1, &sample(0, 1.0));
    for at in (0..30).map(|s| s * 1_000) {
        monitor.feed(0, &sample(at, 1.0));
    }
    let outputs = monitor.advance(ms(29_000));
    assert_eq!(outputs.len(), 30);
    assert_eq!(line(outputs.last().unwrap()), "29000 score 2.000");
}

/// A clock that jumps by years makes neither rows for each second of them, nor an end of scoring.
#[test]
fn silence_ends_in_a_gap_whatever_inputs_may_lack() {
    let fixture = fixture()
        .edit("fill = \"hold\"", "required = false")
        .edit("range =", "required = false\nrange =")
        .edit("grid = \"1s\"", "grid = \"1s\"\nmin_good_share = 0.000001");
    let mut monitor = monitor(&fixture);
    monitor.feed(0, &sample(0, 1.0));
    monitor.feed(1, &sample(0, 1.0));
    let year = 365 * 86_400_000;
    let outputs = monitor.advance(ms(50 * year));
    assert_eq!(
        line(outputs.last().unwrap()),
        "10000000 no good value of a, b"
    );
    assert!(outputs.len() <= 10_002);
    monitor.feed(0, &sample(60 * year, 1.0));
    assert_eq!(monitor.advance(ms(60 * year)).len(), 1);
}

const LATENESS_MS: i64 = 2_500;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Late samples: whatever order they arrive in, as long as none is later than the time that rows wait, windows and scores are
    /// the same, and so they are when all of it is replayed.
    #[test]
    fn outputs_do_not_depend_on_the_order_of_arrival(
        samples in prop::collection::vec(
            (0usize..2, 0i64..15_000, -50.0..50.0f64, prop::bool::weighted(0.1), 0i64..=LATENESS_MS), 0..150),
        coarse in any::<bool>(),
        linear in any::<bool>(),
        made in any::<bool>(),
    ) {
        let mut fixture = fixture();
        if linear {
            fixture = fixture.edit("fill = \"hold\"", "fill = \"linear\"");
        }
        if made {
            fixture = fixture.edit("[[input]]\nrole = \"b\"", "[[input]]\nrole = \"c\"\nfrom = [\"a\"]\nop = \"std\"\nover = \"3s\"\n\n[[input]]\nrole = \"b\"\ncolumn = false");
        }
        let of = |(input, at, value, is_bad, _): &(usize, i64, f64, bool, i64)| {
            // Many at the same moment, with the coarse ones.
            let at = if coarse { at / 500 * 500 } else { *at };
            (*input, at, if *is_bad { bad(at) } else { sample(at, *value) })
        };
        let mut replayed = monitor(&fixture);
        for (input, _, sample) in samples.iter().map(of) {
            replayed.feed(input, &sample);
        }
        let expected = lines(&replayed.advance(ms(40_000)));

        let mut live = monitor(&fixture);
        let mut arriving: Vec<_> = samples.iter().map(|it| (of(it), of(it).1 + it.4)).collect();
        arriving.sort_by_key(|(_, arrival)| *arrival);
        let mut actual = Vec::new();
        for ((input, _, sample), arrival) in arriving {
            // What arrives at this very moment may still lie so far back.
            actual.extend(lines(&live.advance(ms(arrival - LATENESS_MS - 1))));
            live.feed(input, &sample);
        }
        actual.extend(lines(&live.advance(ms(40_000))));
        prop_assert_eq!(expected, actual);
    }
}
