use std::collections::HashSet;
use std::sync::Arc;

use millrace_tags::{Quality, SystemClock, TestClock, Timestamp, Value};

use super::*;
use crate::modbus::{Address, DataType, Table, TcpDriver, TcpSettings, WordOrder};
use crate::sim::modbus::{Fault, Faults, Hole, RegisterMap, SimModbus};
use crate::{Driver, Session};

/// A device with one u16 a register from 0 on, each worth its own offset.
fn device(registers: u16, faults: Faults) -> SimModbus {
    let mut csv = "name,address,type,signal\n".to_owned();
    for i in 0..registers {
        csv += &format!("r{i},holding:{i},u16,constant {i}\n");
    }
    let map = RegisterMap::from_csv(csv.as_bytes()).unwrap();
    SimModbus::bind("127.0.0.1:0", map, faults).unwrap()
}

fn holding(offset: u16, data_type: DataType) -> PointSpec {
    let address = Address {
        table: Table::Holding,
        offset,
        bit: None,
    };
    PointSpec::new(address, data_type, WordOrder::Abcd).unwrap()
}

/// A session that reads these registers; tag numbers are offsets.
async fn open(
    sim: &SimModbus,
    registers: impl IntoIterator<Item = u16>,
    clock: Arc<TestClock>,
) -> Box<dyn Session> {
    let point = |offset| Point {
        tag: TagId(u32::from(offset)),
        spec: holding(offset, DataType::U16),
        interval: Duration::from_secs(1),
    };
    let mut settings = TcpSettings::new("sim", sim.local_addr().to_string());
    settings.timeout = Duration::from_secs(30);
    let points = registers.into_iter().map(point).collect();
    let driver = TcpDriver::new(settings, points, clock);
    driver.open().await.unwrap()
}

fn clock() -> Arc<TestClock> {
    Arc::new(TestClock::new(1, Some(Timestamp(0))))
}

/// The tags of the bad samples; every good sample is checked against its register.
fn bad_tags(reading: &Reading) -> HashSet<u32> {
    let mut bad = HashSet::new();
    for sample in &reading.samples {
        match sample.quality {
            Quality::Good => {
                assert_eq!(sample.value, Some(Value::U64(u64::from(sample.tag.0))));
            }
            quality => {
                assert_eq!(quality, Quality::Bad(Reason::IllegalAddress));
                bad.insert(sample.tag.0);
            }
        }
    }
    bad
}

fn hole(start: u16, count: u16) -> Hole {
    Hole {
        table: Table::Holding,
        start,
        count,
    }
}

fn with_holes(holes: Vec<Hole>) -> Faults {
    Faults {
        holes,
        ..Faults::default()
    }
}

#[tokio::test]
async fn illegal_address_costs_only_itself_from_the_first_read_on() {
    let sim = device(200, with_holes(vec![hole(77, 1)]));
    let mut session = open(&sim, 0..200, clock()).await;
    for _ in 0..3 {
        let reading = session.read(0).await.unwrap();
        assert_eq!(reading.samples.len(), 200);
        assert_eq!(bad_tags(&reading), HashSet::from([77]));
    }
    let remarks = session.remarks();
    assert_eq!(
        remarks,
        ["holding:77 is no address of the device; it is tried again in 600 s"]
    );
    assert_eq!(sim.served().total, 3 * 199);
}

#[tokio::test]
async fn illegal_address_is_tried_again_on_schedule() {
    let clock = clock();
    let sim = device(10, with_holes(vec![hole(4, 2)]));
    let mut session = open(&sim, 0..10, Arc::clone(&clock)).await;
    assert_eq!(
        bad_tags(&session.read(0).await.unwrap()),
        HashSet::from([4, 5])
    );
    sim.set_faults(with_holes(vec![hole(4, 1)]));
    assert_eq!(
        bad_tags(&session.read(0).await.unwrap()),
        HashSet::from([4, 5])
    );
    clock.advance(ILLEGAL_RETRY);
    assert_eq!(
        bad_tags(&session.read(0).await.unwrap()),
        HashSet::from([4])
    );
    assert_eq!(session.remarks().len(), 1);
}

#[tokio::test]
async fn device_that_refused_everything_is_back_at_once() {
    let sim = device(30, with_holes(vec![hole(0, 30)]));
    let mut session = open(&sim, 0..30, clock()).await;
    for _ in 0..3 {
        let reading = session.read(0).await.unwrap();
        assert_eq!((reading.samples.len(), bad_tags(&reading).len()), (30, 30));
    }
    assert_eq!(
        session.remarks()[0].split_once(' ').unwrap().1,
        "is no address of the device, nor is any of its poll group"
    );
    sim.set_faults(Faults::default());
    assert_eq!(bad_tags(&session.read(0).await.unwrap()).len(), 29);
    assert_eq!(bad_tags(&session.read(0).await.unwrap()).len(), 0);
}

#[tokio::test]
async fn hole_between_tags_is_read_around() {
    let sim = device(60, with_holes(vec![hole(20, 1), hole(41, 3)]));
    let wanted = [0, 10, 19, 21, 30, 40, 44, 59];
    let mut session = open(&sim, wanted, clock()).await;
    for _ in 0..3 {
        let reading = session.read(0).await.unwrap();
        assert_eq!(reading.samples.len(), wanted.len());
        assert_eq!(bad_tags(&reading), HashSet::new());
    }
    assert!(session.remarks().is_empty());
}

#[tokio::test]
async fn device_with_small_requests_is_read_whole() {
    let faults = Faults {
        max_registers: 9,
        ..Faults::default()
    };
    let sim = device(100, faults);
    let mut session = open(&sim, 0..100, clock()).await;
    for _ in 0..2 {
        let reading = session.read(0).await.unwrap();
        assert_eq!((reading.samples.len(), bad_tags(&reading).len()), (100, 0));
    }
}

/// Random holes: what is bad is exactly what is missing, in the first read and in every one after it.
#[tokio::test]
async fn list_of_holes_equals_the_truth() {
    for seed in 0..8 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let holes: Vec<Hole> = (0..rng.u16(1..12))
            .map(|_| hole(rng.u16(0..500), rng.u16(1..5)))
            .collect();
        let missing = |r: u16| {
            let mut holes = holes.iter();
            holes.any(|h| (h.start..h.start + h.count).contains(&r))
        };
        let wanted: Vec<u16> = (0..500).filter(|_| rng.u8(0..3) > 0).collect();
        let truth = wanted.iter().filter(|r| missing(**r));
        let truth: HashSet<u32> = truth.map(|r| u32::from(*r)).collect();
        let sim = device(500, with_holes(holes.clone()));
        let mut session = open(&sim, wanted.clone(), clock()).await;
        for _ in 0..3 {
            let reading = session.read(0).await.unwrap();
            assert_eq!(reading.samples.len(), wanted.len(), "seed {seed}");
            assert_eq!(bad_tags(&reading), truth, "seed {seed}");
        }
    }
}

#[tokio::test]
async fn other_exceptions_cost_the_tags_of_their_request() {
    let sim = device(130, Faults::default());
    let mut session = open(&sim, (0..5).chain(126..130), clock()).await;
    for (code, reason) in [
        (1, Reason::IllegalFunction),
        (4, Reason::DeviceFailure),
        (6, Reason::DeviceFailure),
        (11, Reason::DeviceFailure),
    ] {
        sim.inject(Fault::Exception(code));
        let reading = session.read(0).await.unwrap();
        let bad = reading.samples.iter().filter(|s| !s.quality.is_good());
        let reasons: Vec<_> = bad.map(|sample| sample.quality.reason()).collect();
        assert_eq!(reasons, [Some(reason); 5]);
        assert_eq!(reading.samples.len(), 9);
    }
    assert!(session.remarks().is_empty());
}

#[tokio::test]
async fn session_that_failed_stays_closed() {
    let sim = device(5, Faults::default());
    let mut session = open(&sim, 0..5, clock()).await;
    sim.inject(Fault::WrongUnit);
    let first = session.read(0).await;
    assert!(
        matches!(first, Err(SessionError::Protocol { .. })),
        "{first:?}"
    );
    let second = session.read(0).await;
    assert!(
        matches!(second, Err(SessionError::Lost { .. })),
        "{second:?}"
    );
}

#[tokio::test]
async fn intervals_make_poll_groups() {
    let sim = device(5, Faults::default());
    let point = |offset: u16, ms| Point {
        tag: TagId(u32::from(offset)),
        spec: holding(offset, DataType::U16),
        interval: Duration::from_millis(ms),
    };
    let points = vec![point(0, 1000), point(1, 100), point(2, 1000)];
    let settings = TcpSettings::new("sim", sim.local_addr().to_string());
    let driver = TcpDriver::new(settings, points, clock());
    let groups: Vec<_> = driver
        .poll_groups()
        .iter()
        .map(|g| g.tags.clone())
        .collect();
    assert_eq!(groups, [vec![TagId(1)], vec![TagId(0), TagId(2)]]);
    assert_eq!(driver.tags().len(), 3);
    let mut session = driver.open().await.unwrap();
    let tags = |reading: Reading| -> Vec<_> { reading.samples.iter().map(|s| s.tag).collect() };
    assert_eq!(tags(session.read(1).await.unwrap()), [TagId(0), TagId(2)]);
    assert_eq!(tags(session.read(0).await.unwrap()), [TagId(1)]);
    assert!(session.read(2).await.unwrap().samples.is_empty());
    session.close().await;
}

#[tokio::test]
async fn nan_and_wrong_digits_are_bad_samples() {
    let csv = "name,address,type,signal\nnan,holding:0,u32,constant 4290772992\n\
               digits,holding:2,u16,constant 4660\nnone,holding:3,u16,constant 4666\n";
    let map = RegisterMap::from_csv(csv.as_bytes()).unwrap();
    let sim = SimModbus::bind("127.0.0.1:0", map, Faults::default()).unwrap();
    let settings = TcpSettings::new("sim", sim.local_addr().to_string());
    let clock: Arc<dyn Clock> = clock();
    let read = async |spec| {
        crate::modbus::read_once(&settings, &spec, &clock)
            .await
            .unwrap()
    };
    let nan = read(holding(0, DataType::F32)).await;
    assert_eq!(nan.quality, Quality::Bad(Reason::NotANumber));
    let digits = read(holding(2, DataType::Bcd16)).await;
    assert_eq!(digits.value, Some(Value::U64(1234)));
    let none = read(holding(3, DataType::Bcd16)).await;
    assert_eq!(none.quality, Quality::Bad(Reason::InvalidEncoding));
    let past = read(holding(9, DataType::U16)).await;
    assert_eq!(past.quality, Quality::Bad(Reason::IllegalAddress));
}

/// A scan of a slow device takes long; its values are as old as their own request, not as the scan.
#[tokio::test]
async fn samples_are_stamped_with_their_own_reply() {
    let latency = Duration::from_millis(20);
    let faults = Faults {
        latency,
        ..Faults::default()
    };
    let sim = device(300, faults);
    let point = |offset| Point {
        tag: TagId(u32::from(offset)),
        spec: holding(offset, DataType::U16),
        interval: Duration::from_secs(1),
    };
    let settings = TcpSettings::new("sim", sim.local_addr().to_string());
    let clock = Arc::new(SystemClock::new());
    let driver = TcpDriver::new(settings, (0..300).map(point).collect(), clock.clone());
    let mut session = driver.open().await.unwrap();
    let reading = session.read(0).await.unwrap();
    let end = clock.now();
    let mut times: Vec<Moment> = reading.samples.iter().map(|s| s.gateway_time).collect();
    assert!(times.is_sorted());
    times.dedup();
    assert_eq!(times.len(), 3);
    assert!(
        times
            .windows(2)
            .all(|pair| pair[1].since(pair[0]) >= latency)
    );
    assert!(times[2] <= end);
}
