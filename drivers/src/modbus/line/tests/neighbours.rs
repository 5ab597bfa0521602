//! What one unit costs the others, on a line that is nearly full and polled on schedule; and what polling
//! costs a write.

use millrace_tags::{TagId, Value};

use super::*;
use crate::Driver;
use crate::modbus::{DataType, Point, PointSpec, RtuDriver, RtuSettings, WordOrder};

const UNITS: u8 = 10;
const INTERVAL: Duration = Duration::from_secs(1);

/// Ten reads of so many registers take 93 % of the line in [`INTERVAL`].
const REGISTERS: u16 = 29;

impl Plant {
    /// How many reads each unit answered in `span` that was asked for on the grid of [`INTERVAL`], as the agent's
    /// poller asks: a slot that is past is not made up for.
    async fn poll_on_schedule(&self, span: Duration) -> HashMap<u8, u32> {
        let start = Instant::now();
        let pollers = (1..=UNITS).map(|unit| {
            let line = self.line.clone();
            tokio::spawn(async move {
                let mut answers = 0;
                let mut pause = Duration::from_millis(500);
                let mut slot = start + INTERVAL * u32::from(unit) / u32::from(UNITS);
                let mut seat = line.sit(peer(unit), 0.093);
                while slot < start + span {
                    sleep_until(slot).await;
                    match seat.exchange(&read(REGISTERS)).await {
                        Ok(reply) => {
                            if matches!(reply.answer, Answer::Data(_)) {
                                answers += 1;
                                pause = Duration::from_millis(500);
                            }
                        }
                        Err(_) => {
                            sleep(pause).await;
                            pause = (pause * 2).min(Duration::from_secs(30));
                            seat = line.sit(peer(unit), 0.093);
                        }
                    }
                    while slot <= Instant::now() {
                        slot += INTERVAL;
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

    /// Every unit but `odd` has at least 97 % of its rate while those behave so.
    async fn assert_neighbours_keep_their_rate(&self, odd: &[u8], behaviour: Behaviour) {
        let healthy = self.poll_on_schedule(SPAN).await;
        let slots = SPAN.as_secs() as u32;
        let full = |count: &u32| count.abs_diff(slots) <= 2;
        assert!(healthy.values().all(full), "{healthy:?}");
        for unit in odd {
            self.make(*unit, behaviour);
        }
        let answers = self.poll_on_schedule(SPAN).await;
        for (unit, count) in &answers {
            if !odd.contains(unit) {
                assert!(
                    f64::from(*count) >= 0.97 * f64::from(healthy[unit]),
                    "unit {unit}: {count} of {slots} beside {odd:?}: {answers:?}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_dead_unit_of_ten_leaves_the_others_their_schedule() {
    let plant = plant(UNITS);
    plant
        .assert_neighbours_keep_their_rate(&[3], Behaviour::Dead)
        .await;
}

#[tokio::test(start_paused = true)]
async fn three_dead_units_of_ten_leave_the_others_their_schedule() {
    let plant = plant(UNITS);
    plant
        .assert_neighbours_keep_their_rate(&[3, 7, 9], Behaviour::Dead)
        .await;
}

#[tokio::test(start_paused = true)]
async fn unit_that_answers_late_leaves_the_others_their_schedule() {
    for late in [1_300, 1_900, 4_700] {
        let plant = plant(UNITS);
        let late = Behaviour::Late(Duration::from_millis(late));
        plant.assert_neighbours_keep_their_rate(&[3], late).await;
    }
}

/// Eight units ask for as much as they can get. A write waits for the request that is under way, and no other.
#[tokio::test(start_paused = true)]
async fn write_waits_for_one_frame_at_most() {
    const WRITER: u8 = 9;
    let plant = plant(WRITER);
    let pollers: Vec<_> = (1..WRITER)
        .map(|unit| {
            let line = plant.line.clone();
            tokio::spawn(async move {
                let mut seat = line.sit(peer(unit), 1.0);
                loop {
                    let _ = seat.exchange(&read(125)).await;
                }
            })
        })
        .collect();
    sleep(Duration::from_secs(10)).await;
    let frame = pace().exchange(8, 255) + Duration::from_millis(2);
    let mut seat = plant.line.sit(peer(WRITER), 1.0);
    seat.hurry(true);
    let write = Request::WriteRegister {
        address: 1,
        value: 2,
    };
    let mut waits = Vec::new();
    for _ in 0..300 {
        let asked = Instant::now();
        let reply = seat.exchange(&write).await.unwrap();
        assert_eq!(reply.answer, Answer::Written);
        waits.push(asked.elapsed());
        sleep(Duration::from_millis(337)).await;
    }
    waits.sort_unstable();
    let p99 = waits[waits.len() * 99 / 100];
    assert!(
        p99 <= frame + Duration::from_millis(50),
        "{p99:?} of {frame:?}"
    );

    // With the old value before it and the read-back behind it no other request comes between.
    let tag = TagId(1);
    let point = Point {
        tag,
        spec: PointSpec::new("holding:1".parse().unwrap(), DataType::U16, WordOrder::Abcd).unwrap(),
        meaning: Default::default(),
        interval: Duration::from_secs(60),
    };
    let clock = Arc::new(TestClock::new(1, Some(Timestamp(0))));
    let settings = RtuSettings::new("valve", WRITER);
    let driver = RtuDriver::new(settings, plant.line.clone(), vec![point], clock);
    let mut session = driver.open().await.unwrap();
    let own = pace().exchange(8, 7) * 2 + pace().exchange(8, 8) + Duration::from_millis(6);
    for _ in 0..50 {
        let asked = Instant::now();
        // The units of this bus hold nothing but their number.
        let value = Value::U64(u64::from(WRITER) * 0x0101);
        session.write(tag, &value).await.unwrap();
        let waited = asked.elapsed();
        assert!(
            waited <= frame + own + Duration::from_millis(50),
            "{waited:?}"
        );
        sleep(Duration::from_millis(337)).await;
    }
    pollers.iter().for_each(|poller| poller.abort());
}
