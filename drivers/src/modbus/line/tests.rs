//! Lines on a paused clock: units with the pace of their bytes on the other end of a pipe.

use std::collections::HashMap;

use millrace_tags::{TestClock, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::sleep;

use super::*;
use crate::modbus::exchange::Exchange;
use crate::modbus::frame::rtu::{decode, encode};
use crate::modbus::request::ReadRequest;
use crate::modbus::{Fault, Table};

mod neighbours;

const PACE_BAUD: u32 = 9_600;
const TIMEOUT: Duration = Duration::from_secs(1);

/// What each unit does: absent is dead.
type Units = Arc<Mutex<HashMap<u8, Behaviour>>>;

#[derive(Clone, Copy, PartialEq)]
enum Behaviour {
    Good,
    Dead,
    /// Answers when nobody waits for it any more.
    Late(Duration),
}

fn pace() -> Pace {
    Pace::of(PACE_BAUD, 11)
}

fn read(count: u16) -> Request {
    Request::Read(ReadRequest {
        table: Table::Holding,
        start: 0,
        count,
    })
}

fn peer(unit: u8) -> Peer {
    Peer {
        device: format!("unit {unit}"),
        unit,
        timeout: TIMEOUT,
    }
}

/// The bus: answers at the pace of its bytes, 2 ms after each request.
async fn bus(far: DuplexStream, units: Units, log: Arc<Mutex<Vec<(u8, u8)>>>) {
    let mut frame = [0; 8];
    let (mut requests, replies) = tokio::io::split(far);
    let replies = Arc::new(tokio::sync::Mutex::new(replies));
    while requests.read_exact(&mut frame).await.is_ok() {
        let Some((unit, pdu)) = decode(&frame) else {
            panic!("{frame:02X?} is no frame");
        };
        sleep(pace().bytes(8)).await;
        log.lock().unwrap().push((unit, pdu[0]));
        let behaviour = units.lock().unwrap().get(&unit).copied();
        let reply = match pdu[0] {
            6 => encode(unit, pdu),
            function => {
                let bytes = pdu[4] * 2;
                let data = vec![unit; usize::from(bytes)];
                encode(unit, &[&[function, bytes], &data[..]].concat())
            }
        };
        let bytes = pace().bytes(reply.len());
        match behaviour {
            Some(Behaviour::Good) => {
                sleep(Duration::from_millis(2) + bytes).await;
                if replies.lock().await.write_all(&reply).await.is_err() {
                    return;
                }
            }
            Some(Behaviour::Late(late)) => {
                let replies = replies.clone();
                tokio::spawn(async move {
                    sleep(late + bytes).await;
                    let _ = replies.lock().await.write_all(&reply).await;
                });
            }
            Some(Behaviour::Dead) | None => {}
        }
    }
}

struct Plant {
    line: Line,
    units: Units,
    log: Arc<Mutex<Vec<(u8, u8)>>>,
}

fn plant(units: u8) -> Plant {
    let behaviours: HashMap<u8, Behaviour> =
        (1..=units).map(|unit| (unit, Behaviour::Good)).collect();
    let units = Arc::new(Mutex::new(behaviours));
    let log = Arc::new(Mutex::new(Vec::new()));
    let clock = Arc::new(TestClock::new(1, Some(Timestamp(0))));
    let (bus_units, bus_log) = (units.clone(), log.clone());
    let line = Line::new("bus", pace(), clock, move || {
        let (near, far) = tokio::io::duplex(4096);
        tokio::spawn(bus(far, bus_units.clone(), bus_log.clone()));
        let opened: Box<dyn Transport> = Box::new(near);
        Box::pin(std::future::ready(Ok(opened)))
    });
    Plant { line, units, log }
}

impl Plant {
    fn kill(&self, unit: u8) {
        self.make(unit, Behaviour::Dead);
    }

    fn make(&self, unit: u8, behaviour: Behaviour) {
        self.units.lock().unwrap().insert(unit, behaviour);
    }

    fn revive(&self, unit: u8) {
        self.units.lock().unwrap().insert(unit, Behaviour::Good);
    }

    /// How many answers each unit gave while ten pollers asked as fast as they could.
    async fn poll(&self, units: u8, span: Duration) -> HashMap<u8, u32> {
        let until = Instant::now() + span;
        let pollers = (1..=units).map(|unit| {
            let line = self.line.clone();
            tokio::spawn(async move {
                let mut answers = 0;
                let mut pause = Duration::from_millis(500);
                let mut seat = line.sit(peer(unit), 1.0);
                while Instant::now() < until {
                    match seat.exchange(&read(20)).await {
                        Ok(reply) => match reply.answer {
                            Answer::Data(data) => {
                                assert!(data.iter().all(|byte| *byte == unit));
                                answers += 1;
                                pause = Duration::from_millis(500);
                            }
                            Answer::Spoilt(_) => {}
                            other => panic!("{other:?}"),
                        },
                        // As the agent's poller does.
                        Err(_) => {
                            sleep(pause).await;
                            pause = (pause * 2).min(Duration::from_secs(30));
                            seat = line.sit(peer(unit), 1.0);
                        }
                    }
                }
                (unit, answers)
            })
        });
        let mut answers = HashMap::new();
        for poller in pollers.collect::<Vec<_>>() {
            let (unit, count) = poller.await.unwrap();
            answers.insert(unit, count);
        }
        answers
    }
}

const SPAN: Duration = Duration::from_secs(600);

#[tokio::test(start_paused = true)]
async fn dead_units_cost_their_neighbours_next_to_nothing() {
    let plant = plant(10);
    let healthy = plant.poll(10, SPAN).await;
    let share = healthy[&1];
    assert!(
        healthy
            .values()
            .all(|count| count.abs_diff(share) <= share / 100),
        "{healthy:?}"
    );
    // The line is used: request, reply, both silences, 2 ms of the unit, and ticks of 1 ms.
    let line_time = pace().exchange(8, 45) + Duration::from_millis(2);
    let ideal = SPAN.as_secs_f64() / line_time.as_secs_f64() / 10.0;
    assert!(f64::from(share) >= 0.95 * ideal, "{share} of {ideal}");
    for dead in [vec![3], vec![3, 7, 9]] {
        dead.iter().for_each(|unit| plant.kill(*unit));
        let answers = plant.poll(10, SPAN).await;
        for (unit, count) in answers {
            match dead.contains(&unit) {
                true => assert_eq!(count, 0),
                false => assert!(
                    f64::from(count) >= 0.97 * f64::from(share),
                    "unit {unit}: {count} of {share} with {dead:?} dead"
                ),
            }
        }
        let timeouts = plant.line.faults().get(Fault::Timeout);
        // What they had in all: 2 % of ten minutes, and the time to find out.
        assert!(timeouts as f64 <= 0.02 * 600.0 * 2.0 + 8.0, "{timeouts}");
    }
}

#[tokio::test(start_paused = true)]
async fn unit_that_comes_back_is_polled_again() {
    let plant = plant(3);
    plant.kill(2);
    let before = plant.poll(3, Duration::from_secs(120)).await;
    assert_eq!(before[&2], 0);
    plant.revive(2);
    // The longest pause of the line and of a poller.
    plant.poll(3, Duration::from_secs(120)).await;
    let after = plant.poll(3, Duration::from_secs(60)).await;
    assert!(after[&2].abs_diff(after[&1]) <= after[&1] / 20, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn line_that_was_cut_is_back_as_a_whole() {
    let plant = plant(10);
    (1..=10).for_each(|unit| plant.kill(unit));
    let none = plant.poll(10, Duration::from_secs(300)).await;
    assert!(none.values().all(|count| *count == 0));
    (1..=10).for_each(|unit| plant.revive(unit));
    let back = plant.poll(10, Duration::from_secs(150)).await;
    assert!(back.values().all(|count| *count > 0), "{back:?}");
}

#[tokio::test(start_paused = true)]
async fn stream_of_writes_leaves_turns_to_reads() {
    let plant = plant(6);
    let writers: Vec<_> = (1..=5)
        .map(|unit| {
            let line = plant.line.clone();
            tokio::spawn(async move {
                let mut seat = line.sit(peer(unit), 1.0);
                seat.hurry(true);
                loop {
                    let write = Request::WriteRegister {
                        address: 1,
                        value: 2,
                    };
                    let _ = seat.exchange(&write).await;
                }
            })
        })
        .collect();
    let mut reader = plant.line.sit(peer(6), 1.0);
    for _ in 0..20 {
        reader.exchange(&read(1)).await.unwrap();
    }
    let log = plant.log.lock().unwrap();
    // The first write asks for one read, to see whether the adapter hears itself.
    let reads = log.iter().filter(|(_, function)| *function == 3).count();
    assert_eq!(reads, 20 + 1);
    assert!(
        log.len() <= 20 * (WRITES_IN_A_ROW as usize + 1) + 6,
        "{}",
        log.len()
    );
    writers.iter().for_each(|writer| writer.abort());
}

#[tokio::test(start_paused = true)]
async fn need_decides_the_share_of_a_line_that_is_too_slow() {
    let plant = plant(2);
    let counts = [(1, 3.0), (2, 1.0)].map(|(unit, need)| {
        let line = plant.line.clone();
        tokio::spawn(async move {
            let mut seat = line.sit(peer(unit), need);
            let until = Instant::now() + Duration::from_secs(120);
            let mut answers = 0;
            while Instant::now() < until {
                seat.exchange(&read(20)).await.unwrap();
                answers += 1;
            }
            answers
        })
    });
    let [greedy, modest] = counts;
    let (greedy, modest): (u32, u32) = (greedy.await.unwrap(), modest.await.unwrap());
    // Each waits for the other's exchange at least, hence not three times as many.
    assert!(greedy >= modest, "{greedy} {modest}");
}

#[tokio::test(start_paused = true)]
async fn lease_has_the_line_to_itself_and_gives_it_back() {
    let plant = plant(2);
    let line = plant.line.clone();
    let poller = tokio::spawn(async move {
        let mut seat = line.sit(peer(1), 1.0);
        loop {
            seat.exchange(&read(1)).await.unwrap();
        }
    });
    sleep(Duration::from_secs(1)).await;
    let mut lease = plant.line.lease(Duration::from_secs(30)).await.unwrap();
    plant.log.lock().unwrap().clear();
    for _ in 0..5 {
        lease.exchange(&peer(2), &read(1)).await.unwrap();
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(*plant.log.lock().unwrap(), [(2, 3); 5]);
    drop(lease);
    sleep(Duration::from_secs(1)).await;
    assert!(plant.log.lock().unwrap().iter().any(|(unit, _)| *unit == 1));
    // One that is not given back runs out.
    let mut kept = plant.line.lease(Duration::from_secs(5)).await.unwrap();
    sleep(Duration::from_secs(6)).await;
    assert!(kept.exchange(&peer(2), &read(1)).await.is_err());
    plant.log.lock().unwrap().clear();
    sleep(Duration::from_secs(2)).await;
    assert!(!plant.log.lock().unwrap().is_empty());
    poller.abort();
}

#[tokio::test(start_paused = true)]
async fn port_is_free_when_the_last_seat_is_left() {
    let plant = plant(1);
    let mut seat = plant.line.sit(peer(1), 1.0);
    seat.exchange(&read(1)).await.unwrap();
    assert!(plant.line.0.turns().is_running());
    drop(seat);
    sleep(Duration::from_millis(10)).await;
    assert!(!plant.line.0.turns().is_running());
    let mut again = plant.line.sit(peer(1), 1.0);
    assert!(matches!(
        again.exchange(&read(1)).await.unwrap().answer,
        Answer::Data(_)
    ));
}
