//! What a second and a day have: the feed waits, alarms go first, and a restart brings no new budget.

use std::path::Path;

use millrace_tags::{Event, EventDetail, EventState};

use super::*;
use crate::report::MeteredStatus;

/// An uplink with these keys more, over a store in `dir`.
fn limited(dir: &Path, keys: &str, at: Timestamp) -> Store {
    let keys = format!("max_message = \"1KiB\"\n{keys}");
    let store = Store::open(dir, &keys, TestClock::new(1, Some(at)));
    Store {
        delivery: store.delivery.kept_in(dir),
        ..store
    }
}

impl Store {
    fn fill(&self, count: usize) {
        self.append("pump", (0..count).map(|n| format!("{n:0600}")));
    }

    fn alarm(&self) {
        let pump = self
            .buffer
            .register("pump", SourceKind::Device, &[text_tag()]);
        let event = Event {
            state: EventState::Begin,
            at: self.clock.now(),
            start: self.clock.now(),
            end: None,
            detail: EventDetail::Comms {
                message: "lost".into(),
            },
        };
        self.buffer.append_event(pump.source, event);
        self.buffer.commit().unwrap();
    }

    /// Takes what may go now: its lanes, and messages.
    fn take(&mut self) -> Vec<(Lane, usize)> {
        let mut taken = Vec::new();
        while let Some(consignment) = self.delivery.next(WINDOW) {
            taken.push((consignment.lane, consignment.messages.len()));
            self.delivery.acked(consignment.token);
        }
        taken
    }

    fn metered(&self) -> MeteredStatus {
        self.uplink.report().metered.unwrap()
    }
}

fn at(hour: i64) -> Timestamp {
    Timestamp((20_000 * 24 + hour) * 3600 * 1_000_000_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_messages_lets_two_seconds_of_them_go_and_then_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut limited = limited(dir.path(), "messages_per_second = 10", at(0));
    limited.delivery.greeting();
    // Each sample is a message; a parcel may overdraw.
    for _ in 0..30 {
        limited.fill(1);
    }
    let sent: usize = limited.take().iter().map(|(_, messages)| messages).sum();
    assert!((10..=40).contains(&sent), "{sent}");
    let wait = limited.delivery.pause().unwrap();
    assert!(wait <= Duration::from_secs(3), "{wait:?}");
    limited.fill(5);
    assert_eq!(limited.take(), []);
    limited.clock.advance(wait);
    assert_eq!(limited.take().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_too_large_for_the_broker_is_withheld_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut limited = limited(dir.path(), "", at(0));
    limited.delivery.greeting();
    // As a broker of MQTT 5 says it.
    limited.delivery.granted_max = 500;
    limited.fill(100);
    assert_eq!(limited.take(), []);
    assert_eq!(limited.uplink.report().refused_sources, ["pump"]);
    let rows = limited.buffer.set_aside();
    let (mut single, mut withheld) = (0, 0);
    for row in &rows {
        match row.tries {
            0 => withheld += row.records,
            _ => single += row.records,
        }
    }
    assert_eq!(single + withheld, 100, "{rows:?}");
    assert!((1..10).contains(&single), "{rows:?}");
    let row = |of: &Store| of.buffer.ledger().devices["pump"].clone();
    assert_eq!(
        (row(&limited).queued, row(&limited).dropped.len()),
        (100, 0)
    );

    // A broker that takes more: a trial within the minute frees all of it.
    limited.delivery.granted_max = 1024;
    limited.clock.advance(Duration::from_secs(60));
    limited.fill(1);
    for _ in 0..500 {
        limited.take();
        if row(&limited).queued <= single {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(row(&limited).queued, single, "what was withheld has gone");
    assert_eq!(
        limited.uplink.report().refused_sources,
        Vec::<String>::new()
    );
}

/// ThingsBoard answers to `getSessionLimits`.
fn told(limits: &mut Store, payload: &'static str) {
    let mut answer = command("v1/devices/me/rpc/response/1", payload);
    answer.retained = false;
    limits.delivery.received(answer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_is_asked_for_its_limits_and_obeyed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "t0ken").unwrap();
    let keys = "profile = \"thingsboard\"\npassword_file = \"token\"";
    let mut limited = limited(dir.path(), keys, at(0));
    let first = limited.delivery.greeting().remove(0);
    assert_eq!(first.topic, "v1/devices/me/rpc/request/1");
    for _ in 0..40 {
        limited.fill(1);
    }
    assert_eq!(limited.take(), [], "data wait for the answer");
    assert!(limited.delivery.pause().is_some());
    told(
        &mut limited,
        r#"{"maxPayloadSize":900,"maxInflightMessages":3,"rateLimits":{"messages":"1:1"},
            "gatewayRateLimits":{"messages":"10:1,600:60","telemetryDataPoints":"1000:1"}}"#,
    );
    assert_eq!(limited.delivery.granted_max, 900);
    let sent: usize = limited.take().iter().map(|(_, messages)| messages).sum();
    assert!((1..=4).contains(&sent), "{sent} at once");
    for _ in 0..10 {
        limited.clock.advance(Duration::from_secs(1));
        let sent: usize = limited.take().iter().map(|(_, messages)| messages).sum();
        assert!(sent <= 10, "{sent} in a second");
    }
    // At most so many without their acknowledgement.
    limited.fill(40);
    let mut under_way = Vec::new();
    for _ in 0..100 {
        limited.clock.advance(Duration::from_secs(1));
        under_way.extend(limited.delivery.next(WINDOW));
    }
    let messages: usize = under_way.iter().map(|c| c.messages.len()).sum();
    assert!((3..6).contains(&messages), "{messages} under way");
    let learned = limited.uplink.report().learned.unwrap();
    assert_eq!(
        (learned.messages_per_second, learned.max_inflight),
        (Some(10.0), Some(3))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_that_does_not_answer_gets_data_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "t0ken").unwrap();
    let keys = "profile = \"thingsboard\"\npassword_file = \"token\"";
    let mut limited = limited(dir.path(), keys, at(0));
    limited.delivery.greeting();
    limited.fill(5);
    told(&mut limited, r#"{"error":"no such method"}"#);
    assert_eq!(limited.take(), []);
    limited.clock.advance(limited.delivery.pause().unwrap());
    let sent: usize = limited.take().iter().map(|(_, messages)| messages).sum();
    assert!(sent > 0);
    assert_eq!(limited.uplink.report().learned, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn points_bound_the_parcels() {
    let dir = tempfile::tempdir().unwrap();
    let mut limited = limited(dir.path(), "points_per_second = 3", at(0));
    limited.delivery.greeting();
    limited.fill(30);
    let sent: usize = limited.take().iter().map(|(_, messages)| messages).sum();
    assert!((3..=6).contains(&sent), "{sent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_budget_leaves_alarms_and_a_spent_day_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let keys = "metered_bytes_per_day = \"240KiB\"";
    let mut metered = limited(dir.path(), keys, at(0));
    metered.delivery.greeting();
    metered.fill(3);
    assert!(!metered.take().is_empty());
    metered.uplink.counters.count_traffic(10 * 1024);
    metered.fill(3);
    metered.alarm();
    let taken = metered.take();
    assert_eq!(taken, [(Lane::Alarm, 1)], "an hour's share is spent");
    assert_eq!(metered.metered().sends, "alarms");
    metered.clock.advance(Duration::from_secs(3600));
    assert!(!metered.take().is_empty(), "an hour later");
    metered.uplink.counters.count_traffic(230 * 1024);
    metered.fill(3);
    metered.alarm();
    assert_eq!(metered.take(), []);
    let status = metered.metered();
    assert_eq!(
        (status.sends.as_str(), status.used_today),
        ("nothing", 240 << 10)
    );
    drop(metered);

    // Restarted: the day is still spent; the next one is not.
    let mut metered = limited(dir.path(), keys, at(2));
    metered.delivery.greeting();
    assert_eq!(metered.take(), []);
    metered.clock.advance(Duration::from_secs(22 * 3600));
    for _ in 0..500 {
        if metered.take().iter().any(|(lane, _)| *lane == Lane::Alarm) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the alarm did not go: {:?}", metered.metered());
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_go_in_batches_and_alarms_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut metered = limited(dir.path(), "metered_batch_interval = \"10m\"", at(0));
    metered.delivery.greeting();
    metered.fill(3);
    assert!(!metered.take().is_empty());
    metered.clock.advance(Duration::from_secs(3));
    assert_eq!(metered.take(), []);
    metered.fill(3);
    metered.alarm();
    assert_eq!(metered.take(), [(Lane::Alarm, 1)]);
    assert!(
        metered
            .metered()
            .next_batch_s
            .is_some_and(|left| left > 500)
    );
    metered.clock.advance(Duration::from_secs(600));
    let lanes: Vec<Lane> = metered.take().iter().map(|(lane, _)| *lane).collect();
    assert_eq!(lanes, [Lane::Live]);
}
