//! Where the core settles: only what it acknowledges counts, and what it does not is sent again.

use super::*;

/// One uplink that settles by the core, and `pump` with this many samples behind its three texts, of which the second is
/// too large for any message.
fn settled_by_core(samples: i64) -> (Bench, String) {
    let mut bench = bench_with(TestClock::new(1, Some(Timestamp(0))));
    bench.delivery.acks = Some(Acks::new(Duration::from_secs(60)));
    let tag = TagSpec {
        name: "level".into(),
        value_type: ValueType::I64,
        unit: None,
    };
    let pump = bench.buffer.register("pump", SourceKind::Device, &[tag]);
    let now = bench.clock.now();
    let sample = |n| millrace_tags::Sample::good(pump.tags[0], Value::I64(n), now);
    bench
        .buffer
        .append(pump.source, (0..samples).map(sample).collect());
    bench.buffer.commit().unwrap();
    bench.delivery.greeting();
    (bench, String::new())
}

/// Everything that is to be sent, acknowledged by the broker: first and last number of each message.
async fn send(bench: &mut Bench, stream: &mut String) -> Vec<(u64, u64)> {
    let (mut sent, mut idle) = (Vec::new(), 0);
    while idle < 20 {
        let Some(consignment) = bench.delivery.next(WINDOW) else {
            idle += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        idle = 0;
        for message in &consignment.messages {
            let body: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
            if let (Some(first), Some(last)) =
                (body["first_seq"].as_u64(), body["last_seq"].as_u64())
            {
                sent.push((first, last));
                *stream = body["stream"].as_str().unwrap().to_owned();
            }
        }
        bench.delivery.acked(consignment.token);
    }
    sent.sort_unstable();
    sent
}

fn queued(bench: &Bench) -> u64 {
    bench.buffer.ledger().devices["pump"].queued
}

/// The answer to an `ack` with these arguments.
fn ack(bench: &mut Bench, args: serde_json::Value) -> serde_json::Value {
    let command = millrace_tags::Command {
        id: "a".into(),
        op: ACK.into(),
        args,
        ..millrace_tags::Command::default()
    };
    json!(bench.delivery.take_ack(&command))
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_core_settles_and_what_it_does_not_have_is_sent_again() {
    let (mut bench, mut stream) = settled_by_core(10);
    let sent = send(&mut bench, &mut stream).await;
    assert_eq!(sent.last().map(|s| s.1), Some(13), "{sent:?}");
    assert_eq!(
        queued(&bench),
        13,
        "the broker has all, and that counts for nothing"
    );

    // A range in the middle of a message.
    let told = ack(
        &mut bench,
        json!({"source": "pump", "stream": stream, "first_seq": 6, "seq": 8}),
    );
    assert_eq!(told["status"], "done", "{told}");
    assert_eq!(
        told["result"],
        json!({"settled": 3, "waiting": 9}),
        "{told}"
    );
    assert_eq!(queued(&bench), 10);
    let again = ack(
        &mut bench,
        json!({"source": "pump", "stream": stream, "first_seq": 6, "seq": 8}),
    );
    assert_eq!(again["result"]["settled"], 0, "{again}");

    // Nothing before its time, then all but these.
    bench.clock.advance(Duration::from_secs(59));
    assert_eq!(send(&mut bench, &mut stream).await, []);
    bench.clock.advance(Duration::from_secs(1));
    let sent = send(&mut bench, &mut stream).await;
    let numbers: Vec<u64> = sent.iter().flat_map(|(a, b)| *a..=*b).collect();
    assert_eq!(numbers, [1, 3, 4, 5, 9, 10, 11, 12, 13]);

    // All that was sent; number 2 fits into no message and stays aside.
    let told = ack(
        &mut bench,
        json!({"source": "pump", "stream": stream, "seq": 13}),
    );
    assert_eq!(
        told["result"],
        json!({"settled": 9, "waiting": 0}),
        "{told}"
    );
    assert_eq!(queued(&bench), 1);
    let shown = bench.delivery.uplink.report();
    let core = shown.core.unwrap();
    assert_eq!((core.waiting, core.sent_again_total), (0, 9));
    assert_eq!(shown.records_acked_total, 12);
    assert_eq!(bench.buffer.verify().unwrap(), bench.buffer.ledger());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_connection_sends_what_the_core_has_not_acknowledged() {
    let (mut bench, mut stream) = settled_by_core(10);
    send(&mut bench, &mut stream).await;
    ack(
        &mut bench,
        json!({"source": "pump", "stream": stream, "seq": 5}),
    );
    bench.delivery.greeting();
    // What was sent on the connection before does not count on this one.
    let early = ack(
        &mut bench,
        json!({"source": "pump", "stream": stream, "seq": 13}),
    );
    assert_eq!(early["result"]["settled"], 0, "{early}");
    let sent = send(&mut bench, &mut stream).await;
    let numbers: Vec<u64> = sent.iter().flat_map(|(a, b)| *a..=*b).collect();
    assert_eq!(numbers, (6..=13).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_before_the_pubacks_counts() {
    let (mut bench, _) = settled_by_core(10);
    let mut under_way = Vec::new();
    let mut stream = String::new();
    for _ in 0..200 {
        let Some(consignment) = bench.delivery.next(WINDOW) else {
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        };
        for message in &consignment.messages {
            let body: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
            stream = body["stream"].as_str().unwrap_or(&stream).to_owned();
        }
        under_way.push(consignment.token);
    }
    ack(
        &mut bench,
        json!({"source": "pump", "stream": stream, "seq": 13}),
    );
    assert_eq!(queued(&bench), 1);
    for token in under_way {
        bench.delivery.acked(token);
    }
    assert_eq!(queued(&bench), 1);
    assert_eq!(bench.delivery.acks.as_ref().unwrap().next_overdue(), None);
    bench.clock.advance(Duration::from_secs(600));
    assert_eq!(send(&mut bench, &mut stream).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_acknowledged_is_refused_with_the_reason() {
    let (mut bench, mut stream) = settled_by_core(10);
    send(&mut bench, &mut stream).await;
    let foreign = "6f0c0000000000000000000000000001";
    for (args, words) in [
        (
            json!({"source": "pump", "stream": stream, "seq": 14}),
            "has got to 13",
        ),
        (
            json!({"source": "pump", "stream": foreign, "seq": 3}),
            stream.as_str(),
        ),
        (
            json!({"source": "kettle", "stream": stream, "seq": 3}),
            "no device",
        ),
        (
            json!({"source": "pump", "stream": "boiler", "seq": 3}),
            "32 hex digits",
        ),
        (
            json!({"source": "pump", "stream": stream, "first_seq": 4, "seq": 3}),
            "ascend",
        ),
        (json!({"source": "pump", "stream": stream}), "expected"),
    ] {
        let told = ack(&mut bench, args);
        assert_eq!(told["status"], "rejected", "{told}");
        assert!(told["error"].as_str().unwrap().contains(words), "{told}");
    }
    assert_eq!(queued(&bench), 13);
    bench.delivery.acks = None;
    let told = ack(
        &mut bench,
        json!({"source": "pump", "stream": stream, "seq": 3}),
    );
    assert!(
        told["error"]
            .as_str()
            .unwrap()
            .contains("settle = \"core\""),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_core_holds_samples_back_but_no_alarm() {
    let (mut bench, mut stream) = settled_by_core(0);
    let tag = TagSpec {
        name: "level".into(),
        value_type: ValueType::I64,
        unit: None,
    };
    let pump = bench.buffer.register("pump", SourceKind::Device, &[tag]);
    let mut sent = send(&mut bench, &mut stream).await.len();
    for n in 0..1200 {
        let sample = millrace_tags::Sample::good(pump.tags[0], Value::I64(n), bench.clock.now());
        bench.buffer.append(pump.source, vec![sample]);
        if n % 100 == 0 {
            bench.buffer.commit().unwrap();
        }
        if let Some(consignment) = bench.delivery.next(WINDOW) {
            sent += 1;
            bench.delivery.acked(consignment.token);
        }
    }
    assert!(
        (1000..1100).contains(&sent),
        "{sent} messages of which the core has acknowledged none"
    );
    assert_eq!(send(&mut bench, &mut stream).await, []);
    let now = bench.clock.now();
    let event = millrace_tags::Event {
        state: millrace_tags::EventState::Begin,
        at: now,
        start: now,
        end: None,
        detail: millrace_tags::EventDetail::Comms {
            message: "gone".into(),
        },
    };
    bench.buffer.append_event(pump.source, event);
    bench.buffer.commit().unwrap();
    let alarm = bench.delivery.next(WINDOW).unwrap();
    assert_eq!(alarm.lane, Lane::Alarm);
}
