use std::collections::HashSet;
use std::sync::Arc;

use millrace_tags::{Quality, SystemClock, TagId, TestClock, Timestamp, Value};

use super::*;
use crate::modbus::point::PointSpec;
use crate::modbus::{
    Address, DataType, Line, RtuDriver, RtuSettings, Table, TcpDriver, TcpSettings, Transport,
    WordOrder,
};
use crate::sim::modbus::{
    Fault, Faults, Framing as SimFraming, Hole, Listen, RegisterMap, SimModbus, SimUnit,
};
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
        meaning: Default::default(),
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

fn excluded(session: &dyn Session) -> Vec<String> {
    let ranges = session.excluded().into_iter();
    ranges.map(|range| range.addresses).collect()
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
    let excluded = session.excluded();
    assert_eq!(excluded.len(), 1, "{excluded:?}");
    assert_eq!(
        (&*excluded[0].addresses, excluded[0].tags),
        ("holding:77", 1)
    );
    assert_eq!(excluded[0].retry_at, excluded[0].since + ILLEGAL_RETRY);
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
    assert_eq!(excluded(&*session), ["holding:4"]);
}

#[tokio::test]
async fn what_was_learned_survives_the_session() {
    let clock = clock();
    let faults = Faults {
        max_registers: 30,
        ..with_holes(vec![hole(40, 3), hole(90, 1)])
    };
    let sim = device(100, faults);
    sim.keep_exchanges();
    let point = |offset: u16| Point {
        tag: TagId(u32::from(offset)),
        spec: holding(offset, DataType::U16),
        meaning: Default::default(),
        interval: Duration::from_secs(1),
    };
    let settings = TcpSettings::new("sim", sim.local_addr().to_string());
    let driver = TcpDriver::new(settings, (0..100).map(point).collect(), clock.clone());
    let mut first = driver.open().await.unwrap();
    let mut parallel = driver.open().await.unwrap();
    let truth = HashSet::from([40, 41, 42, 90]);
    for _ in 0..8 {
        let reading = first.read(0).await.unwrap();
        assert_eq!(bad_tags(&reading), truth);
    }
    let learned = (first.remarks(), first.excluded());
    assert_eq!(excluded(&*first), ["holding:40-42", "holding:90"]);
    assert_eq!(
        learned.0,
        ["the device gives at most 30 of holding in one request"]
    );
    drop(first);
    clock.advance(Duration::from_secs(60));
    sim.take_exchanges(1);
    // Another one at the same time has it from its next read on, one after it from the beginning.
    let mut second = driver.open().await.unwrap();
    for session in [&mut parallel, &mut second] {
        let reading = session.read(0).await.unwrap();
        assert_eq!(bad_tags(&reading), truth);
        assert_eq!((session.remarks(), session.excluded()), learned);
        // 40 registers, 47 and 9.
        assert_eq!(sim.take_exchanges(1).len(), 2 + 2 + 1);
    }
    // A maximum is not believed for ever either.
    sim.set_faults(with_holes(vec![]));
    clock.advance(learned::RELEARN);
    second.read(0).await.unwrap();
    assert_eq!(second.remarks(), [""; 0]);
}

#[tokio::test]
async fn device_that_refused_everything_is_back_at_once() {
    let sim = device(30, with_holes(vec![hole(0, 30)]));
    let mut session = open(&sim, 0..30, clock()).await;
    for _ in 0..3 {
        let reading = session.read(0).await.unwrap();
        assert_eq!((reading.samples.len(), bad_tags(&reading).len()), (30, 30));
    }
    assert_eq!(excluded(&*session), ["holding:0-29"]);
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
    assert!(session.excluded().is_empty());
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

/// A large map: the first read brings every register that is there, and names every one that is not.
#[tokio::test]
async fn first_read_brings_all_that_is_there_of_two_thousand_registers() {
    for seed in 0..4 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let holes: Vec<Hole> = (0..40)
            .map(|_| hole(rng.u16(0..2_000), rng.u16(1..4)))
            .collect();
        let in_hole = |r: &u16| {
            let mut holes = holes.iter();
            holes.any(|h| (h.start..h.start + h.count).contains(r))
        };
        let truth: HashSet<u32> = (0..2_000).filter(in_hole).map(u32::from).collect();
        let sim = device(2_000, with_holes(holes.clone()));
        let mut session = open(&sim, 0..2_000, clock()).await;
        let reading = session.read(0).await.unwrap();
        assert_eq!(reading.samples.len(), 2_000);
        assert_eq!(bad_tags(&reading), truth, "seed {seed}");
        let listed = excluded(&*session).into_iter().flat_map(|range| {
            let (_, range) = range.split_once(':').unwrap();
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            first.parse::<u32>().unwrap()..=last.parse().unwrap()
        });
        assert_eq!(listed.collect::<HashSet<u32>>(), truth, "seed {seed}");
    }
}

#[tokio::test]
async fn device_that_refuses_large_reads_teaches_its_maximum() {
    for most in [1, 9, 50, 124] {
        let faults = Faults {
            max_registers: most,
            ..Faults::default()
        };
        let sim = device(250, faults);
        sim.keep_exchanges();
        let mut session = open(&sim, 0..250, clock()).await;
        let mut reads = 0;
        while session.remarks().is_empty() {
            let reading = session.read(0).await.unwrap();
            assert_eq!((reading.samples.len(), bad_tags(&reading).len()), (250, 0));
            reads += 1;
            assert!(reads <= 9, "{most}");
        }
        let taught = format!("the device gives at most {most} of holding in one request");
        assert_eq!(session.remarks(), [taught]);
        sim.take_exchanges(1);
        session.read(0).await.unwrap();
        let least = usize::from(250_u16.div_ceil(most));
        assert_eq!(sim.take_exchanges(1).len(), least, "{most}");
    }
}

#[tokio::test]
async fn forbidden_range_is_never_touched() {
    let sim = device(60, Faults::default());
    sim.keep_exchanges();
    let point = |offset: u16| Point {
        tag: TagId(u32::from(offset)),
        spec: holding(offset, DataType::U16),
        meaning: Default::default(),
        interval: Duration::from_secs(1),
    };
    let mut settings = TcpSettings::new("sim", sim.local_addr().to_string());
    settings.forbidden = vec![Barrier {
        table: Table::Holding,
        at: 20,
    }];
    let points = (0..20).chain(30..60).map(point).collect();
    let driver = TcpDriver::new(settings, points, clock());
    let mut session = driver.open().await.unwrap();
    // Also where all were refused, and what was learned is thrown away.
    for faults in [with_holes(vec![hole(0, 60)]), Faults::default()] {
        sim.set_faults(faults);
        for _ in 0..3 {
            session.read(0).await.unwrap();
        }
    }
    for exchange in sim.take_exchanges(1) {
        let start = u16::from_be_bytes([exchange.request[1], exchange.request[2]]);
        let count = u16::from_be_bytes([exchange.request[3], exchange.request[4]]);
        assert!(start + count <= 20 || start >= 30, "{start}+{count}");
    }
    assert_eq!(bad_tags(&session.read(0).await.unwrap()).len(), 0);
}

/// On a line the search for a hole uses the device's own turns: its neighbour has as many meanwhile.
#[tokio::test(start_paused = true)]
async fn hole_on_a_line_is_found_within_the_devices_own_share() {
    const TAGS: u16 = 64;
    let unit = |id: u8, faults: Faults| SimUnit {
        id: Some(id),
        map: {
            let rows = (0..TAGS).map(|i| format!("r{i},holding:{i},u16,constant {i}\n"));
            let csv = format!("name,address,type,signal\n{}", rows.collect::<String>());
            RegisterMap::from_csv(csv.as_bytes()).unwrap()
        },
        faults,
    };
    for at in [0, 21, 63] {
        let units = vec![
            unit(1, with_holes(vec![hole(at, 1)])),
            unit(2, Faults::default()),
        ];
        let sim = SimModbus::start(&Listen::Memory(SimFraming::Rtu), units, 1).unwrap();
        sim.keep_exchanges();
        let sim = Arc::new(sim);
        let far = sim.clone();
        let line = Line::new("bus", Pace::of(9_600, 11), clock(), move || {
            let near: Box<dyn Transport> = Box::new(far.connect());
            Box::pin(std::future::ready(Ok(near)))
        });
        let open = async |unit: u8| {
            let points = (0..TAGS).map(|offset| Point {
                tag: TagId(u32::from(offset)),
                spec: holding(offset, DataType::U16),
                meaning: Default::default(),
                interval: Duration::from_secs(1),
            });
            let settings = RtuSettings::new("unit", unit);
            let driver = RtuDriver::new(settings, line.clone(), points.collect(), clock());
            driver.open().await.unwrap()
        };
        let mut neighbour = open(2).await;
        let polling = tokio::spawn(async move {
            loop {
                let reading = neighbour.read(0).await.unwrap();
                assert_eq!(bad_tags(&reading).len(), 0);
            }
        });
        let mut session = open(1).await;
        let reading = session.read(0).await.unwrap();
        polling.abort();
        assert_eq!(reading.samples.len(), usize::from(TAGS));
        assert_eq!(bad_tags(&reading), HashSet::from([u32::from(at)]));
        let asked = sim.take_exchanges(1).len();
        let meanwhile = sim.take_exchanges(2).len();
        // The refusal, log2 of 64 for the hole, and what is before and behind it.
        assert!(asked <= 1 + 6 + 2, "{asked}");
        assert!(meanwhile + 1 >= asked / 2, "{asked}, {meanwhile}");
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
    assert!(session.excluded().is_empty());
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
        meaning: Default::default(),
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
    let clock: Arc<dyn Clock> = clock();
    let address = sim.local_addr().to_string();
    let mut caller = crate::modbus::Caller::tcp(address, Duration::from_secs(5), &clock);
    let mut read = async |spec| caller.read(1, &spec).await.unwrap();
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
        meaning: Default::default(),
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
