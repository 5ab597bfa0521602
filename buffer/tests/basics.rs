//! The way of samples and events through the buffer, without trouble.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::sync::Arc;
use std::time::Duration;

use millrace_buffer::{Budget, Buffer, Item, Offer, Outbox, Settings, Start, TagSpec};
use millrace_tags::{
    Clock, DropReason, Event, EventDetail, EventState, Lane, Moment, Records, Sample, SourceId,
    SourceKind, TagId, TestClock, Timestamp, Value, ValueType,
};

fn settings(dir: &std::path::Path) -> Settings {
    Settings {
        commit_interval: Duration::from_secs(3600),
        ..Settings::new(dir)
    }
}

fn clock() -> Arc<TestClock> {
    Arc::new(TestClock::new(
        1,
        Some(Timestamp(1_763_690_000_000_000_000)),
    ))
}

fn register(buffer: &Buffer) -> (SourceId, Vec<TagId>) {
    let tag = |name: &str| TagSpec {
        name: name.into(),
        value_type: ValueType::F64,
        unit: Some("bar".into()),
    };
    let registration = buffer.register("boiler", SourceKind::Device, &[tag("a"), tag("b")]);
    (registration.source, registration.tags)
}

fn sample(tag: TagId, at: i64, value: f64) -> Sample {
    Sample::good(tag, Value::F64(value), Moment(at))
}

fn everything(outbox: &mut Outbox) -> Vec<Offer> {
    let budget = Budget {
        records: 100,
        backlog: true,
    };
    let mut offers = Vec::new();
    let mut idle = 0;
    while idle < 20 {
        match outbox.next(budget) {
            Some(offer) => {
                offers.push(offer);
                idle = 0;
            }
            None => {
                idle += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    offers
}

fn values(offers: &[Offer]) -> Vec<(u64, f64, Lane)> {
    let mut out = Vec::new();
    for offer in offers {
        if let Item::Parcel(parcel) = &offer.item
            && let Records::Samples(samples) = &parcel.records
        {
            for (i, sample) in samples.iter().enumerate() {
                let value = sample.value.as_ref().and_then(Value::as_f64).unwrap();
                out.push((parcel.first_seq + i as u64, value, offer.lane));
            }
        }
    }
    out
}

#[test]
fn live_then_acked_then_gone() {
    let dir = tempfile::tempdir().unwrap();
    let buffer = Buffer::open(settings(dir.path()), clock()).unwrap();
    assert!(buffer.recovery().clean);
    let (source, tags) = register(&buffer);
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let ticket = buffer.append(
        source,
        vec![sample(tags[1], 5, 2.0), sample(tags[0], 5, 1.0)],
    );
    buffer.commit().unwrap();
    assert!(buffer.durable(ticket));
    buffer.append(source, vec![sample(tags[0], 6, 3.0)]);
    let offers = everything(&mut outbox);
    assert_eq!(
        values(&offers),
        [
            (1, 1.0, Lane::Live),
            (2, 2.0, Lane::Live),
            (3, 3.0, Lane::Live)
        ]
    );
    let ledger = buffer.ledger();
    assert_eq!(ledger.devices["boiler"].queued, 3);
    for offer in &offers {
        outbox.acked(offer.id);
    }
    let verified = buffer.verify().unwrap();
    assert_eq!(verified.devices["boiler"].acked, 3);
    assert_eq!(verified.devices["boiler"].queued, 0);
    assert_eq!(verified, buffer.ledger());
    buffer.close().unwrap();

    let buffer = Buffer::open(settings(dir.path()), clock()).unwrap();
    assert!(buffer.recovery().clean, "{:?}", buffer.recovery());
    assert_eq!(buffer.ledger(), verified);
    assert_eq!(register(&buffer), (source, tags.clone()));
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    assert_eq!(everything(&mut outbox), []);
    buffer.append(source, vec![sample(tags[0], 7, 4.0)]);
    buffer.commit().unwrap();
    assert_eq!(values(&everything(&mut outbox)), [(4, 4.0, Lane::Live)]);
}

#[test]
fn backlog_survives_a_crash_and_comes_after_live() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let buffer = Buffer::open(settings(dir.path()), clock.clone()).unwrap();
    let (source, tags) = register(&buffer);
    drop(buffer.outbox("cloud", Start::Oldest));
    for i in 0..10 {
        buffer.append(source, vec![sample(tags[0], i, i as f64)]);
        buffer.commit().unwrap();
    }
    buffer.append(source, vec![sample(tags[0], 11, 99.0)]);
    buffer.crash();

    let buffer = Buffer::open(settings(dir.path()), clock.clone()).unwrap();
    assert!(!buffer.recovery().clean);
    let (source, tags) = register(&buffer);
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    buffer.append(source, vec![sample(tags[0], 12, 100.0)]);
    buffer.commit().unwrap();
    let offers = everything(&mut outbox);
    let values = values(&offers);
    assert_eq!(values[0].1, 100.0);
    assert_eq!(values[0].2, Lane::Live);
    let backlog: Vec<_> = values[1..].to_vec();
    let expected: Vec<_> = (0..10)
        .map(|i| (i as u64 + 1, i as f64, Lane::Backlog))
        .collect();
    assert_eq!(backlog, expected);
    let gap = offers
        .iter()
        .find_map(|o| match &o.item {
            Item::Gap(gap) => Some(gap),
            Item::Parcel(_) => None,
        })
        .unwrap();
    assert_eq!(gap.holes[0].first_seq, 11);
    assert_eq!(gap.holes[0].last_seq, Some(values[0].0 - 1));
    for offer in &offers {
        outbox.acked(offer.id);
    }
    let ledger = buffer.verify().unwrap();
    let row = &ledger.devices["boiler"];
    assert!(
        row.balances() && row.queued == 0 && row.acked == 11,
        "{row:?}"
    );
    assert_eq!(ledger, buffer.ledger());
}

#[test]
fn what_is_not_acked_is_offered_again() {
    let dir = tempfile::tempdir().unwrap();
    let buffer = Buffer::open(settings(dir.path()), clock()).unwrap();
    let (source, tags) = register(&buffer);
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    for i in 0..3 {
        buffer.append(source, vec![sample(tags[0], i, i as f64)]);
        buffer.commit().unwrap();
    }
    let offers = everything(&mut outbox);
    let sent = values(&offers);
    assert_eq!(sent.len(), 3);
    outbox.acked(offers[0].id);
    for offer in &offers[1..] {
        outbox.failed(offer.id);
    }
    let again = everything(&mut outbox);
    let acked = match &offers[0].item {
        Item::Parcel(parcel) => parcel.records.len(),
        Item::Gap(_) => 0,
    };
    assert_eq!(values(&again).len(), 3 - acked);
    outbox.reconnected();
    let again = everything(&mut outbox);
    assert_eq!(values(&again).len(), 3 - acked);
    outbox.acked(offers[0].id);
    for offer in again {
        outbox.acked(offer.id);
    }
    assert_eq!(buffer.verify().unwrap().devices["boiler"].queued, 0);
}

#[test]
fn events_take_the_alarm_lane() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let buffer = Buffer::open(settings(dir.path()), clock.clone()).unwrap();
    let (source, _) = register(&buffer);
    let event = Event {
        state: EventState::Begin,
        at: clock.now(),
        start: clock.now(),
        end: None,
        detail: EventDetail::Comms {
            message: "timeout".into(),
        },
    };
    let ticket = buffer.append_event(source, event.clone());
    buffer.commit().unwrap();
    assert!(buffer.durable(ticket));
    buffer.close().unwrap();
    let buffer = Buffer::open(settings(dir.path()), clock).unwrap();
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let offers = everything(&mut outbox);
    assert_eq!(offers.len(), 1);
    assert_eq!(offers[0].lane, Lane::Alarm);
    let Item::Parcel(parcel) = &offers[0].item else {
        panic!("no parcel");
    };
    assert_eq!(parcel.records, Records::Events(vec![event]));
    outbox.give_up(offers[0].id, DropReason::NotRouted);
    let row = &buffer.verify().unwrap().events["boiler"];
    assert_eq!(row.dropped[&DropReason::NotRouted], 1);
    assert!(row.balances());
}

#[test]
fn uplinks_begin_where_they_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let buffer = Buffer::open(settings(dir.path()), clock()).unwrap();
    let (source, tags) = register(&buffer);
    buffer.append(source, vec![sample(tags[0], 1, 1.0)]);
    buffer.commit().unwrap();
    assert_eq!(buffer.ledger().devices["boiler"].queued, 1);
    let mut early = buffer.outbox("early", Start::Oldest);
    let mut late = buffer.outbox("late", Start::Now);
    buffer.append(source, vec![sample(tags[0], 2, 2.0)]);
    buffer.commit().unwrap();
    assert_eq!(values(&everything(&mut early)).len(), 2);
    assert_eq!(values(&everything(&mut late)).len(), 1);
    let ledger = buffer.verify().unwrap();
    assert_eq!(ledger, buffer.ledger());
    assert!(
        ledger
            .uplinks
            .values()
            .all(|u| u.devices["boiler"].balances())
    );
    buffer.retain_uplinks(&["late"]);
    assert_eq!(buffer.ledger().uplinks.len(), 1);
}

#[test]
fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _buffer = Buffer::open(settings(dir.path()), clock()).unwrap();
    let second = Buffer::open(settings(dir.path()), clock());
    assert!(matches!(
        second.err(),
        Some(millrace_buffer::OpenError::Locked { .. })
    ));
}

#[test]
fn parts_of_an_offer_are_settled_by_their_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let buffer = Buffer::open(settings(dir.path()), clock()).unwrap();
    let (source, tags) = register(&buffer);
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let samples = (1..=10).map(|n| sample(tags[0], n, n as f64)).collect();
    buffer.append(source, samples);
    buffer.commit().unwrap();
    let offers = everything(&mut outbox);
    let [offer] = offers.as_slice() else {
        panic!("{offers:?}");
    };
    let after = outbox.acked_part(offer.id, 4, 6).unwrap();
    let queued = |of: &Buffer| of.ledger().devices["boiler"].queued;
    assert_eq!(queued(&buffer), 7);
    // The offer stands for 1 to 3 now; numbers that are not its own change nothing.
    assert_eq!(outbox.acked_part(offer.id, 5, 9), None);
    assert_eq!(queued(&buffer), 7);
    assert_eq!(outbox.acked_part(offer.id, 1, 3), None);
    assert_eq!(queued(&buffer), 4);
    outbox.failed(after);
    let again: Vec<u64> = values(&everything(&mut outbox))
        .iter()
        .map(|v| v.0)
        .collect();
    assert_eq!(again, [7, 8, 9, 10]);
    assert_eq!(buffer.verify().unwrap(), buffer.ledger());
}

#[test]
fn a_line_is_known_by_its_stream() {
    use millrace_buffer::KnownLine;

    let dir = tempfile::tempdir().unwrap();
    let buffer = Buffer::open(settings(dir.path()), clock()).unwrap();
    let (source, tags) = register(&buffer);
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    buffer.append(source, vec![sample(tags[0], 1, 1.0)]);
    buffer.commit().unwrap();
    let offers = everything(&mut outbox);
    let Item::Parcel(parcel) = &offers[0].item else {
        panic!("{offers:?}");
    };
    let stream = parcel.stream;
    let current = Some(KnownLine::Current { last_seq: 1 });
    assert_eq!(outbox.line("boiler", stream), current);
    assert_eq!(outbox.line("kettle", stream), None);
    let foreign = millrace_tags::StreamId(Default::default());
    let Some(KnownLine::Unknown { samples, .. }) = outbox.line("boiler", foreign) else {
        panic!("{:?}", outbox.line("boiler", foreign));
    };
    assert_eq!(samples, stream);
}
