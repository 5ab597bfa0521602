//! What a misbehaving device does to the samples: nothing.
//!
//! The registers count how often they were served rightly. Whatever a fault spoils is not counted, so that
//! a spoilt value that became a sample would show up as one that was never served.

// A test that cannot set itself up has failed.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use millrace_drivers::modbus::{Point, TcpDriver, TcpSettings};
use millrace_drivers::sim::modbus::{Fault, Faults, Recurring, RegisterMap, SimModbus};
use millrace_drivers::{Driver, SessionError};
use millrace_tags::{SystemClock, TagId};

const READS: usize = 60;

/// One request a read: a fault hits a read as a whole.
const MAP: &str = "name,address,type,order,signal\n\
                   a,holding:0,u32,abcd,counter\n\
                   b,holding:2,f32,cdab,counter\n\
                   c,holding:4,u64,dcba,counter\n";

/// What came of the reads.
#[derive(Default)]
struct Outcome {
    delivered: Vec<(String, f64)>,
    errors: Vec<SessionError>,
}

async fn read_through(fault: Fault, every: u32, timeout: Duration) -> Outcome {
    let map = RegisterMap::from_csv(MAP.as_bytes()).unwrap();
    let faults = Faults {
        recurring: vec![Recurring { fault, every }],
        ..Faults::default()
    };
    let sim = SimModbus::bind("127.0.0.1:0", map.clone(), faults).unwrap();
    sim.keep_log();
    let mut settings = TcpSettings::new("sim", sim.local_addr().to_string());
    settings.timeout = timeout;
    let points = (0..).zip(map.entries()).map(|(i, entry)| Point {
        tag: TagId(i),
        spec: entry.spec,
        meaning: Default::default(),
        interval: Duration::from_secs(1),
    });
    let driver = TcpDriver::new(settings, points.collect(), Arc::new(SystemClock::new()));
    let mut outcome = Outcome::default();
    let mut session = driver.open().await.unwrap();
    for _ in 0..READS {
        match session.read(0).await {
            Ok(reading) => {
                let good = reading.samples.into_iter().filter(|s| s.quality.is_good());
                outcome.delivered.extend(good.map(|sample| {
                    let name = &map.entries()[sample.tag.0 as usize].name;
                    (name.to_string(), sample.value.unwrap().as_f64().unwrap())
                }));
            }
            Err(error) => {
                outcome.errors.push(error);
                session = driver.open().await.unwrap();
            }
        }
    }
    let served: Vec<(String, f64)> = sim
        .take_log()
        .into_iter()
        .map(|value| (value.tag.to_string(), number(&value.tag, value.bits)))
        .collect();
    assert_eq!(outcome.delivered, served, "{fault:?}");
    outcome
}

/// The number of a served value: b is a float.
fn number(tag: &str, bits: u64) -> f64 {
    match tag {
        "b" => f64::from(f32::from_bits(bits as u32)),
        _ => bits as f64,
    }
}

/// A timeout that a device which answers keeps, however loaded the machine.
const PATIENT: Duration = Duration::from_secs(60);

/// A timeout for what will never come; a good reply on a loaded machine must still keep it.
const SHORT: Duration = Duration::from_secs(1);

#[tokio::test]
async fn well_behaved_device_delivers_all_that_it_serves() {
    let outcome = read_through(Fault::Duplicate, u32::MAX, PATIENT).await;
    assert_eq!(
        (outcome.delivered.len(), outcome.errors.len()),
        (READS * 3, 0)
    );
}

#[tokio::test]
async fn doubled_replies_cost_nothing() {
    let outcome = read_through(Fault::Duplicate, 3, PATIENT).await;
    assert_eq!(
        (outcome.delivered.len(), outcome.errors.len()),
        (READS * 3, 0)
    );
}

#[tokio::test]
async fn spoilt_replies_break_the_session() {
    for fault in [Fault::WrongUnit, Fault::WrongFunction, Fault::Short] {
        let outcome = read_through(fault, 7, PATIENT).await;
        assert_eq!(outcome.errors.len(), READS / 7, "{fault:?}");
        for error in outcome.errors {
            assert!(
                matches!(error, SessionError::Protocol { .. }),
                "{fault:?}: {error}"
            );
        }
    }
}

#[tokio::test]
async fn lost_connections_are_told_from_silence() {
    let outcome = read_through(Fault::Drop, 7, PATIENT).await;
    assert_eq!(outcome.errors.len(), READS / 7);
    for error in outcome.errors {
        assert!(matches!(error, SessionError::Lost { .. }), "{error}");
    }
}

#[tokio::test]
async fn late_and_cut_replies_time_out() {
    for fault in [
        Fault::Late(SHORT * 2),
        Fault::Truncated,
        Fault::WrongTransaction,
    ] {
        let outcome = read_through(fault, 30, SHORT).await;
        assert_eq!(outcome.errors.len(), READS / 30, "{fault:?}");
        for error in outcome.errors {
            assert!(
                matches!(error, SessionError::Timeout { .. }),
                "{fault:?}: {error}"
            );
        }
    }
}

#[tokio::test]
async fn busy_device_keeps_the_session() {
    let outcome = read_through(Fault::Exception(6), 3, PATIENT).await;
    assert_eq!(outcome.delivered.len(), (READS - READS / 3) * 3);
    assert!(outcome.errors.is_empty());
}
