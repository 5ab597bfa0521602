//! The feed against a real buffer, with the session's calls made by hand.

mod broker;
mod by_core;
#[path = "../../../uplink/tests/support/checked.rs"]
mod checked;
#[path = "../../../tests/src/fault_broker.rs"]
mod fault_broker;
mod faults;
mod limits;
mod node;
mod reasons;
mod store;

use std::time::Duration;

use millrace_buffer::{Buffer, Settings, TagSpec};
use millrace_tags::{DropReason, SourceKind, TestClock, Timestamp, Value, ValueType};
use millrace_uplink::{Feed, Inbound, Refusal, SessionState, Window};

use self::store::Store;
use super::*;
use crate::command::{Admission, Journal, Ran, RunCommand};

struct Echo;

impl RunCommand for Echo {
    async fn run(&self, command: &millrace_tags::Command) -> Result<Ran, crate::command::Undone> {
        Ok(Ran::Done(command.args.clone()))
    }

    fn knows(&self, _: &str) -> bool {
        true
    }
}

/// `read` is granted.
fn granted() -> Admission {
    Admission::new(&config::Local {
        commands: vec!["read".to_owned()],
        ..config::Local::default()
    })
}

fn text_tag() -> TagSpec {
    TagSpec {
        name: "text".into(),
        value_type: ValueType::Text,
        unit: None,
    }
}

struct Bench {
    store: Store,
    _dir: tempfile::TempDir,
}

impl std::ops::Deref for Bench {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl std::ops::DerefMut for Bench {
    fn deref_mut(&mut self) -> &mut Store {
        &mut self.store
    }
}

const WINDOW: Window = Window {
    messages: 100,
    bytes: 1 << 20,
    backlog: true,
};

/// One uplink that routes `pump` only, with three samples of `pump` and one of `fan` committed; the middle
/// one of `pump` is too large for any message.
fn bench() -> Bench {
    bench_with(TestClock::new(1, Some(Timestamp(0))))
}

fn bench_with(clock: TestClock) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let keys = "max_message = \"1KiB\"\nroute = [\"pump\"]";
    let store = Store::open(dir.path(), keys, clock);
    store.append("pump", ["a".to_owned(), "x".repeat(2000), "c".to_owned()]);
    store.append("fan", ["d".to_owned()]);
    Bench { store, _dir: dir }
}

fn command(topic: &str, payload: &'static str) -> Inbound {
    Inbound {
        topic: topic.into(),
        payload: payload.into(),
        retained: false,
        properties: millrace_uplink::Properties::default(),
    }
}

/// Takes and acks until only so many records are left; what is on disk may take a moment to come.
async fn drain(bench: &mut Bench, left: u64) {
    for _ in 0..500 {
        while let Some(consignment) = bench.delivery.next(WINDOW) {
            bench.delivery.acked(consignment.token);
        }
        let ledger = bench.buffer.ledger();
        if ledger.devices.values().map(|row| row.queued).sum::<u64>() == left {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not {left} records are left: {:?}", bench.buffer.ledger());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_fits_no_message_is_set_aside_alone() {
    let mut bench = bench();
    bench.delivery.greeting();
    drain(&mut bench, 1).await;
    let ledger = bench.buffer.verify().unwrap();
    let pump = &ledger.devices["pump"];
    assert_eq!((pump.acked, pump.queued), (2, 1));
    let fan = &ledger.devices["fan"];
    assert_eq!((fan.acked, fan.dropped[&DropReason::NotRouted]), (0, 1));
    let set_aside = bench.buffer.set_aside();
    let [row] = &set_aside[..] else {
        panic!("{set_aside:?}");
    };
    assert_eq!((row.first_seq, row.last_seq, row.tries), (2, 2, 1));
    assert!(row.reason.contains("max_message"), "{}", row.reason);
}

/// Plays a broker that hangs up on a message that holds the number, and one that takes everything else.
async fn refuse(bench: &mut Bench, number: u64, connections: u32) {
    let down = |closed| SessionState::Down {
        error: "gone".to_owned(),
        refused: false,
        closed,
        oversize: false,
        next_try: Duration::ZERO,
    };
    for _ in 0..connections {
        bench.delivery.greeting();
        bench.delivery.state(&SessionState::Connected);
        let mut waiting: Vec<Consignment> = Vec::new();
        let mut idle = 0;
        loop {
            match bench.delivery.next(WINDOW) {
                Some(consignment) => waiting.push(consignment),
                // The broker reads what was sent, in order.
                None if !waiting.is_empty() => {
                    let consignment = waiting.remove(0);
                    if consignment.messages.iter().any(|m| holds(m, number)) {
                        break bench.delivery.state(&down(true));
                    }
                    bench.delivery.acked(consignment.token);
                }
                None if idle == 50 => return,
                None => {
                    idle += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    }
}

fn holds(message: &Message, number: u64) -> bool {
    let payload: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
    let seq = |key: &str| payload[key].as_u64();
    matches!((seq("first_seq"), seq("last_seq")), (Some(a), Some(b)) if a <= number && number <= b)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_record_that_the_broker_hangs_up_on_is_set_aside_and_can_be_sent_later() {
    let mut bench = bench();
    let source = bench
        .buffer
        .register("pump", SourceKind::Device, &[text_tag()]);
    let texts = (0..40).map(|n| {
        let value = Value::Text(format!("{n}").as_str().into());
        millrace_tags::Sample::good(source.tags[0], value, bench.clock.now())
    });
    bench.buffer.append(source.source, texts.collect());
    bench.buffer.commit().unwrap();
    refuse(&mut bench, 21, 100).await;
    let aside: Vec<_> = bench.buffer.set_aside();
    let seqs: Vec<u64> = aside.iter().map(|row| row.first_seq).collect();
    assert_eq!(seqs, [2, 21], "{aside:?}");
    assert_eq!((aside[1].last_seq, aside[1].uplink.as_ref()), (21, "cloud"));
    assert!(aside[1].tries >= 5);
    assert_eq!(bench.buffer.ledger().devices["pump"].acked, 41);
    assert_eq!(bench.buffer.verify().unwrap(), bench.buffer.ledger());

    assert!(bench.buffer.discard(aside[0].id));
    assert!(bench.buffer.retry(aside[1].id));
    drain(&mut bench, 0).await;
    let pump = &bench.buffer.verify().unwrap().devices["pump"];
    assert_eq!((pump.acked, pump.dropped[&DropReason::Poison]), (42, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_only_flaps_makes_no_poison() {
    let mut bench = bench();
    let mut dice = fastrand::Rng::with_seed(7);
    for _ in 0..300 {
        bench.delivery.greeting();
        bench.delivery.state(&SessionState::Connected);
        while let Some(consignment) = bench.delivery.next(WINDOW) {
            if dice.u8(..4) == 0 {
                break;
            }
            bench.delivery.acked(consignment.token);
        }
        bench.delivery.state(&SessionState::Down {
            error: "gone".to_owned(),
            refused: false,
            closed: true,
            oversize: false,
            next_try: Duration::ZERO,
        });
        let tag = bench
            .buffer
            .register("pump", SourceKind::Device, &[text_tag()]);
        let value = Value::Text("more".into());
        let sample = millrace_tags::Sample::good(tag.tags[0], value, bench.clock.now());
        bench.buffer.append(tag.source, vec![sample; 5]);
    }
    let refused: Vec<_> = bench.buffer.set_aside();
    assert!(
        refused.iter().all(|row| row.reason.contains("max_message")),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_core_is_told_where_the_boot_stands_once_that_is_known() {
    let mut bench = bench_with(TestClock::new(1, None));
    bench.delivery.greeting();
    let mut texts = Vec::new();
    let mut messages = |bench: &mut Bench, count: usize| {
        for _ in 0..500 {
            while let Some(consignment) = bench.delivery.next(WINDOW) {
                for message in &consignment.messages {
                    let payload = String::from_utf8_lossy(&message.payload).into_owned();
                    texts.push((message.topic.clone(), payload));
                }
            }
            if texts.len() >= count {
                return std::mem::take(&mut texts);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{texts:?}");
    };
    let unset = messages(&mut bench, 2);
    assert!(
        unset
            .iter()
            .all(|(_, payload)| payload.contains(r#""clock":"unset""#)),
        "{unset:?}"
    );
    bench.clock.set_offset(Timestamp(1_763_690_000_000_000_000));
    let told = messages(&mut bench, 1);
    let clock = "millrace/gw/clock";
    assert_eq!(told[0].0, clock);
    assert!(told[0].1.contains("1763690000000"), "{told:?}");

    // A broken connection: what was on its way is sent again, now with its time.
    bench.delivery.greeting();
    let again = messages(&mut bench, 3);
    assert_eq!(again.iter().filter(|(topic, _)| topic == clock).count(), 1);
    assert!(
        again.iter().all(|(_, payload)| !payload.contains("unset")),
        "{again:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_on_its_way_is_sent_again_after_a_reconnect() {
    let mut bench = bench();
    bench.delivery.greeting();
    let topic = "millrace/gw/cmd";
    bench
        .delivery
        .received(command(topic, r#"{"id":"7","op":"read"}"#));
    let reply = |consignment: Consignment| consignment.messages[0].topic.clone();
    let first = loop {
        match bench.delivery.next(WINDOW).map(reply) {
            Some(topic) if topic.contains("/cmd/") => break topic,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    bench.delivery.greeting();
    assert_eq!(bench.delivery.next(WINDOW).map(reply), Some(first));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_is_too_large_becomes_a_short_one() {
    let mut bench = bench();
    bench.delivery.greeting();
    let topic = "millrace/gw/cmd";
    bench
        .delivery
        .received(command(topic, r#"{"id":"8","op":"read"}"#));
    let token = loop {
        match bench.delivery.next(WINDOW) {
            Some(consignment) if consignment.messages[0].topic.contains("/cmd/") => {
                break consignment.token;
            }
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let why = Refusal::TooLarge {
        topic: topic.to_owned(),
        bytes: 2000,
        limit: 1000,
    };
    bench.delivery.refused(token, why);
    let answer = bench.delivery.next(WINDOW).unwrap();
    let text = String::from_utf8_lossy(&answer.messages[0].payload).into_owned();
    assert!(
        text.contains("\"failed\"") && text.contains("the limit is 1000"),
        "{text}"
    );
}

/// A day of 50 tags at 10 s is on disk when the broker comes back; a plant goes on beside it, and the broker
/// acknowledges four messages between two of its samples.
#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_backlog_drains_and_live_never_stands_behind_64_kib_of_it() {
    const DAY: usize = 24 * 360 * 50;
    const AT_ONCE: usize = 2_000;
    let mut bench = bench();
    let tag = millrace_buffer::TagSpec {
        name: "level".into(),
        value_type: ValueType::F64,
        unit: None,
    };
    let pump = bench.buffer.register("pump", SourceKind::Device, &[tag]);
    let clock = bench.clock.clone();
    let sample = |n: usize| {
        let value = Value::F64(n as f64 * 0.37);
        millrace_tags::Sample::good(pump.tags[0], value, clock.now())
    };
    for from in (0..DAY).step_by(AT_ONCE) {
        bench
            .buffer
            .append(pump.source, (from..from + AT_ONCE).map(sample).collect());
        bench.buffer.commit().unwrap();
    }
    bench.delivery.greeting();
    let (mut under_way, mut most, mut rounds, mut sent) = (Vec::new(), 0, 0, 0);
    loop {
        bench.buffer.append(pump.source, vec![sample(rounds)]);
        rounds += 1;
        let (mut before, mut live) = (0, false);
        for _ in 0..4 {
            let backlog = under_way.len() < 8;
            let Some(consignment) = bench.delivery.next(Window { backlog, ..WINDOW }) else {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            };
            let bytes: usize = consignment.messages.iter().map(|m| m.payload.len()).sum();
            match consignment.lane {
                Lane::Backlog if !live => before += bytes,
                Lane::Backlog => {}
                Lane::Live | Lane::Alarm => live = true,
            }
            sent += bytes;
            under_way.push(consignment.token);
        }
        assert!(live, "a live sample did not go out in round {rounds}");
        most = most.max(before);
        let acked: Vec<u64> = under_way.drain(..under_way.len().min(4)).collect();
        for token in acked {
            bench.delivery.acked(token);
        }
        let queued = bench.buffer.ledger().devices["pump"].queued;
        // One is set aside; the last rounds are under way.
        if queued <= 10 || rounds > 200_000 {
            break;
        }
    }
    assert!(
        rounds < 200_000 && sent > 10 << 20,
        "{rounds} rounds, {sent} bytes"
    );
    assert!(
        most <= 64 * 1024,
        "{most} bytes of backlog before a live sample"
    );
}
