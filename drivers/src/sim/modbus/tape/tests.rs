use millrace_tags::{Clock, Moment, SystemClock};
use tokio::net::TcpStream;

use super::*;
use crate::SessionError;
use crate::modbus::tape::{Label, Recorder};
use crate::modbus::trace::Cutter;
use crate::modbus::{Answer, FaultCounts, Link, Pace, Peer, Tap};
use crate::sim::modbus::{Faults, RegisterMap, SimModbus, SimUnit};

const READ: Request = Request::Read(ReadRequest {
    table: Table::Holding,
    start: 0,
    count: 4,
});

fn record(since_ms: u64, way: Way, bytes: &[u8]) -> Record {
    Record {
        since: Duration::from_millis(since_ms),
        link: 0,
        way,
        bytes: bytes.to_vec(),
        missed: 0,
    }
}

fn tape(kind: Kind, records: Vec<Record>) -> Tape {
    let label = Label {
        kind,
        begun: None,
        of: "pump".to_owned(),
    };
    Tape {
        label,
        records,
        is_cut_off: false,
    }
}

fn asked(unit: u8, request: &Request) -> Asked {
    let mut pdu = Vec::new();
    request.encode(&mut pdu);
    Asked {
        transaction: 0x0500,
        unit,
        bytes: 0,
        pdu,
    }
}

fn rtu(unit: u8, pdu: &[u8]) -> Vec<u8> {
    Framing::Rtu.frame(0, unit, pdu)
}

#[test]
fn replies_come_in_order_and_then_the_last_good_one() {
    let request = rtu(3, &asked(3, &READ).pdu);
    let reply = |value: u8| rtu(3, &[3, 8, 0, value, 0, 2, 0, 3, 0, 4]);
    let mut records = Vec::new();
    for (at, value) in [(0, 1), (1_000, 2)] {
        records.push(record(at, Way::Sent, &request));
        records.push(record(at + 20, Way::Received, &reply(value)));
    }
    records.push(record(2_000, Way::Sent, &request));
    records.push(record(4_000, Way::Sent, &request));
    records.push(record(4_010, Way::Received, &[0x55]));
    // The recording ended before this one was answered.
    records.push(record(5_000, Way::Sent, &request));
    let mut device = TapeDevice::new(&tape(Kind::Rtu, records));
    let first = Request::Read(ReadRequest {
        table: Table::Holding,
        start: 0,
        count: 1,
    });
    let refused = device.answer(&asked(3, &first));
    assert_eq!(refused.pieces[0].1, rtu(3, &[0x83, 2]));
    let mut given: Vec<Vec<(u128, Vec<u8>)>> = Vec::new();
    for _ in 0..6 {
        let reply = device.answer(&asked(3, &READ));
        given.push(
            reply
                .pieces
                .into_iter()
                .map(|(after, bytes)| (after.as_millis(), bytes))
                .collect(),
        );
    }
    let expected: [Vec<(u128, Vec<u8>)>; 6] = [
        vec![(20, reply(1))],
        vec![(20, reply(2))],
        vec![],
        vec![(10, vec![0x55])],
        vec![(20, reply(2))],
        vec![(20, reply(2))],
    ];
    assert_eq!(given, expected);
    // What a read has shown is known, though it was never asked for alone.
    let known = device.answer(&asked(3, &first));
    assert_eq!(known.pieces[0].1, rtu(3, &[3, 2, 0, 2]));
    assert_eq!(device.answer(&asked(4, &READ)), Reply::default());
    assert_eq!(
        device.counts,
        TapeCounts {
            requests: 9,
            unknown: 3
        }
    );
}

#[test]
fn a_gap_takes_no_reply_for_another() {
    let request = rtu(3, &asked(3, &READ).pdu);
    let reply = rtu(3, &[3, 8, 0, 1, 0, 2, 0, 3, 0, 4]);
    let mut after_gap = record(100, Way::Received, &reply);
    after_gap.missed = 1;
    let records = vec![record(0, Way::Sent, &request), after_gap];
    let device = TapeDevice::new(&tape(Kind::Rtu, records));
    assert_eq!(device.units().count(), 0);
}

/// What came of each exchange: data, an exception, or the name of an error.
type Outcomes = Vec<String>;

/// Asks again and again, over one connection where it lasts.
async fn ask(address: &str, framing: crate::modbus::Framing, tap: &Tap) -> (Outcomes, FaultCounts) {
    let clock = SystemClock::new();
    let peer = Peer {
        device: "pump".to_owned(),
        unit: 3,
        timeout: Duration::from_millis(500),
    };
    let faults = FaultCounts::default();
    let mut link = None;
    let mut outcomes = Vec::new();
    for _ in 0..24 {
        let mut open: Link<TcpStream> = match link.take() {
            Some(open) => open,
            None => {
                let stream = TcpStream::connect(address).await.unwrap();
                Link::new(stream, framing, faults.clone()).tapped(tap)
            }
        };
        let (outcome, is_broken) = match open.exchange(&peer, &READ, &clock).await {
            Ok(reply) => match reply.answer {
                Answer::Data(data) => (format!("{data:?}"), false),
                answer => (format!("{answer:?}"), false),
            },
            Err(SessionError::Lost { .. }) => ("lost".to_owned(), true),
            Err(error) => (error.to_string(), framing == crate::modbus::Framing::Tcp),
        };
        outcomes.push(outcome);
        if !is_broken {
            link = Some(open);
        }
    }
    (outcomes, faults)
}

/// Records a device that misbehaves, and asks the tape the same.
async fn record_and_play(listen: Listen, words: &[&str]) {
    let (kind, framing) = match listen {
        Listen::Tcp(_) => (Kind::Tcp, crate::modbus::Framing::Tcp),
        _ => (
            Kind::Rtu,
            crate::modbus::Framing::Rtu(Pace::behind_network()),
        ),
    };
    let mut faults = Faults::default();
    for words in words {
        faults.add(words).unwrap();
    }
    let map = RegisterMap::ticks(2, 2, Duration::from_millis(1)).unwrap();
    let unit = SimUnit {
        id: Some(3),
        map,
        faults,
    };
    let sim = SimModbus::start(&listen, vec![unit], 1).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let tap = Tap::new(Arc::clone(&clock));
    let mut ear = tap.listen().unwrap();
    let (recorded, counted) = ask(sim.address(), framing, &tap).await;
    drop((tap, sim));

    let mut file = Vec::new();
    let label = Label {
        kind,
        begun: None,
        of: "pump".to_owned(),
    };
    let mut recorder = Recorder::new(&mut file, &label).unwrap();
    let mut cutter = Cutter::new(kind);
    loop {
        let pieces = ear.hear(64).await;
        if pieces.is_empty() {
            break;
        }
        for frame in pieces.iter().flat_map(|piece| cutter.take(piece)) {
            recorder.record(&frame).unwrap();
        }
    }
    for frame in cutter.take_broken_off(Moment(i64::MAX)) {
        recorder.record(&frame).unwrap();
    }
    recorder.finish().unwrap();
    let tape = Tape::read(file.as_slice()).unwrap();

    let played = PlayedTape::start(&listen, TapeDevice::new(&tape), false).unwrap();
    let silent = Tap::new(clock);
    let (again, counted_again) = ask(played.address(), framing, &silent).await;
    assert_eq!(again, recorded);
    assert_eq!(counted_again.by_name(), counted.by_name());
    let distinct: BTreeSet<&String> = recorded.iter().collect();
    assert!(distinct.len() > 8, "values and faults: {recorded:?}");
    assert!(counted.by_name().len() > 3, "{:?}", counted.by_name());
    assert_eq!(played.counts().unknown, 0);
    played.shutdown().await;
}

#[tokio::test]
async fn a_played_tape_repeats_every_fault_over_tcp() {
    let faults = [
        "silent every 13",
        "exception 4 every 5",
        "duplicate every 6",
        "wrong-transaction every 17",
        "wrong-unit every 7",
        "short every 11",
        "drop every 23",
        "truncated every 19",
    ];
    record_and_play(Listen::Tcp("127.0.0.1:0".to_owned()), &faults).await;
}

#[tokio::test]
async fn a_played_tape_repeats_every_fault_of_a_line() {
    let faults = [
        "silent every 13",
        "busy every 5",
        "noise every 6",
        "crc every 7",
        "truncated every 11",
        "wrong-unit every 17",
        "echo every 8",
    ];
    record_and_play(Listen::RtuOverTcp("127.0.0.1:0".to_owned()), &faults).await;
}
