use millrace_tags::{TagId, Value};

use super::*;

fn sample(value: u64, time: i64) -> Sample {
    Sample {
        source_time: Some(Timestamp(time)),
        ..Sample::good(TagId(0), Value::U64(value), Moment(0))
    }
}

fn at(time: i64) -> Sample {
    sample(time.unsigned_abs(), time)
}

/// A gap after the value of time 10.
fn gaps(was_bad: bool) -> Gaps {
    let mut after = Cursor::default();
    after.take(&at(10));
    let mut gaps = Gaps::default();
    gaps.open(0, after, was_bad);
    gaps
}

/// The times of what came out; zero where something is lost.
fn times(out: &[(usize, Sample)]) -> Vec<i64> {
    let time = |(_, sample): &(usize, Sample)| match sample.quality.reason() {
        Some(Reason::Lost) => 0,
        _ => sample.source_time.map_or(-1, |time| time.0),
    };
    out.iter().map(time).collect()
}

fn request(gaps: &mut Gaps) -> Option<(Span, usize)> {
    let later = Instant::now() + Duration::from_secs(60);
    let request = gaps.next_request(50, later)?;
    Some((request.span, request.places.len()))
}

fn span(from: i64, until: i64) -> Span {
    Span {
        from: Timestamp(from),
        until: Timestamp(until),
    }
}

/// Offers 20, which is held, and hands the request's answer over; returns what comes out.
fn filled(gaps: &mut Gaps, pages: &[&[i64]]) -> Vec<i64> {
    let mut out = Vec::new();
    gaps.offer(0, at(20), &mut out);
    assert!(out.is_empty());
    for page in pages {
        let (asked, _) = request(gaps).expect("a request");
        let values = page.iter().map(|&time| at(time)).collect();
        gaps.filled(0, values, asked, ByteString::null(), &mut out);
    }
    times(&out)
}

#[test]
fn history_between_both_ends_comes_once_and_in_order() {
    let mut gaps = gaps(true);
    assert_eq!(filled(&mut gaps, &[&[10, 12, 14, 20]]), [12, 14, 20]);
    assert!(gaps.is_empty());
}

#[test]
fn a_page_without_an_end_is_followed_by_the_next() {
    let mut gaps = gaps(true);
    assert_eq!(
        filled(&mut gaps, &[&[10, 12], &[12, 14], &[14, 20]]),
        [12, 14, 20]
    );
}

#[test]
fn a_history_that_begins_too_late_is_marked_where_it_begins() {
    let mut gaps = gaps(true);
    assert_eq!(filled(&mut gaps, &[&[12, 14, 20]]), [0, 12, 14, 20]);
}

#[test]
fn a_history_that_ends_too_early_is_asked_again_then_marked() {
    let mut gaps = gaps(true);
    let late: &[i64] = &[12];
    let pages = [&[10, 12][..], late, late, late, late, late];
    assert_eq!(filled(&mut gaps, &pages), [12, 0, 20]);
    assert!(gaps.is_empty());
}

#[test]
fn an_empty_history_is_a_mark() {
    let mut gaps = gaps(true);
    let mut out = Vec::new();
    gaps.offer(0, at(20), &mut out);
    gaps.give_up(0, &mut out);
    assert_eq!(times(&out), [0, 20]);
}

#[test]
fn what_did_not_change_is_no_gap_and_is_shown_again_only_if_it_was_bad() {
    for was_bad in [true, false] {
        let mut gaps = gaps(was_bad);
        let mut out = Vec::new();
        let known = gaps.offer(0, at(10), &mut out);
        assert_eq!(known, was_bad.then(|| at(10)));
        assert!(out.is_empty() && gaps.is_empty());
    }
}

#[test]
fn several_values_of_one_time_are_told_apart() {
    let mut gaps = gaps(true);
    let mut out = Vec::new();
    gaps.offer(0, at(20), &mut out);
    let values = vec![at(10), sample(11, 10), sample(19, 20), at(20)];
    request(&mut gaps).expect("a request");
    gaps.filled(0, values, span(10, 20), ByteString::null(), &mut out);
    let values: Vec<Option<Value>> = out.into_iter().map(|(_, s)| s.value).collect();
    assert_eq!(values, [11, 19, 20].map(|v| Some(Value::U64(v))));
}

#[test]
fn a_clock_that_was_set_back_is_a_mark() {
    let mut gaps = gaps(true);
    let mut out = Vec::new();
    gaps.offer(0, at(5), &mut out);
    assert_eq!(times(&out), [0, 5]);
}

#[test]
fn bad_news_without_a_time_waits_for_a_value_that_has_one() {
    let mut gaps = gaps(true);
    let mut out = Vec::new();
    let waiting = Sample::bad(TagId(0), Reason::Status(0x8032_0000), Moment(0));
    gaps.offer(0, waiting, &mut out);
    assert!(request(&mut gaps).is_none());
    gaps.offer(0, at(20), &mut out);
    assert!(out.is_empty());
    let (asked, _) = request(&mut gaps).expect("a request");
    assert_eq!(asked, span(10, 20));
}

#[test]
fn what_was_held_when_the_session_broke_again_is_not_lost_without_a_history() {
    // A value that is the same as before has no second gap before it.
    for (next, expected) in [(30, &[0, 20, 0, 30][..]), (20, &[0, 20])] {
        let mut gaps = gaps(true);
        let mut out = Vec::new();
        gaps.offer(0, at(20), &mut out);
        let mut after = Cursor::default();
        after.take(&at(10));
        gaps.open(0, after, true);
        gaps.offer(0, at(next), &mut out);
        assert!(out.is_empty());
        let (asked, _) = request(&mut gaps).expect("a request");
        assert_eq!(asked, span(10, next));
        gaps.give_up(0, &mut out);
        assert_eq!(times(&out), expected);
        assert!(gaps.held == 0);
    }
}

#[test]
fn a_receipt_waits_until_nothing_is_held() {
    let mut gaps = gaps(true);
    assert_eq!(gaps.receipt(Receipt(1)), Some(Receipt(1)));
    gaps.offer(0, at(20), &mut Vec::new());
    assert_eq!(gaps.receipt(Receipt(2)), None);
    assert!(gaps.free_receipts().is_empty());
    gaps.give_up(0, &mut Vec::new());
    assert_eq!(gaps.free_receipts(), [Receipt(2)]);
}

#[test]
fn gaps_that_begin_far_apart_are_asked_for_apart() {
    const SECOND: i64 = 1_000_000_000;
    let mut gaps = Gaps::default();
    for (place, begin) in [(0, 10), (1, 11), (2, 100)] {
        let mut after = Cursor::default();
        after.take(&at(begin * SECOND));
        gaps.open(place, after, true);
        gaps.offer(place, at(200 * SECOND), &mut Vec::new());
    }
    let spans = [request(&mut gaps), request(&mut gaps), request(&mut gaps)];
    let until = 200 * SECOND;
    let expected = [
        Some((span(10 * SECOND, until), 2)),
        Some((span(100 * SECOND, until), 1)),
        None,
    ];
    assert_eq!(spans, expected);
}

#[test]
fn a_second_gap_behind_held_values_is_filled_with_the_first_or_marked_too() {
    for history in [true, false] {
        let mut gaps = gaps(false);
        let mut after = Cursor::default();
        after.take(&at(10));
        let mut out = Vec::new();
        gaps.offer(0, at(20), &mut out);
        gaps.open(0, after, false);
        gaps.offer(0, at(30), &mut out);
        assert!(out.is_empty());
        let (asked, _) = request(&mut gaps).expect("a request");
        assert_eq!(asked, span(10, 30));
        if history {
            let values = [10, 15, 20, 25, 30].map(at).to_vec();
            gaps.filled(0, values, asked, ByteString::null(), &mut out);
            assert_eq!(times(&out), [15, 20, 25, 30]);
        } else {
            gaps.give_up_all(&mut out);
            assert_eq!(times(&out), [0, 20, 0, 30]);
        }
        assert!(gaps.is_empty() && gaps.held == 0);
    }
}
