//! What raw values mean: states by name, scale by another register, totals of counters that roll over. Read and
//! written over TCP, from simulated devices that change under way.

// A test that cannot set itself up has failed.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use millrace_drivers::modbus::plan::{Barrier, Limits};
use millrace_drivers::modbus::{
    Address, Meaning, Point, PointSpec, ScaleRegister, ScaleRule, Table, TcpDriver, TcpSettings,
    Total, WordOrder,
};
use millrace_drivers::sim::modbus::{Faults, Hole, RegisterMap, SimModbus};
use millrace_drivers::sim::signal::Signal;
use millrace_drivers::{Driver, Session, WriteError};
use millrace_tags::{Quality, Reason, Sample, SystemClock, TagId, TestClock, Timestamp, Value};

fn spec(address: &str, data_type: &str) -> PointSpec {
    let (address, data_type) = (address.parse().unwrap(), data_type.parse().unwrap());
    PointSpec::new(address, data_type, WordOrder::Abcd).unwrap()
}

fn scaled(address: &str, data_type: &str, scale: &str, rule: ScaleRule) -> PointSpec {
    let scale: Address = scale.parse().unwrap();
    let register = ScaleRegister::new(scale, rule.default_type(), rule).unwrap();
    spec(address, data_type).scaled_by(register).unwrap()
}

fn point(tag: u32, spec: PointSpec, meaning: Meaning) -> Point {
    Point {
        tag: TagId(tag),
        spec,
        meaning,
        interval: Duration::from_secs(1),
    }
}

fn sim(map: &str) -> SimModbus {
    let csv = format!("name,address,type,signal\n{map}");
    let map = RegisterMap::from_csv(csv.as_bytes()).unwrap();
    SimModbus::bind("127.0.0.1:0", map, Faults::default()).unwrap()
}

fn settings(sim: &SimModbus) -> TcpSettings {
    let mut settings = TcpSettings::new("sim", sim.local_addr().to_string());
    settings.timeout = Duration::from_secs(30);
    settings
}

fn driver(settings: TcpSettings, points: Vec<Point>) -> TcpDriver {
    TcpDriver::new(settings, points, Arc::new(SystemClock::new()))
}

async fn open(sim: &SimModbus, points: Vec<Point>) -> Box<dyn Session> {
    driver(settings(sim), points).open().await.unwrap()
}

/// One sample a tag, in order of tags.
async fn read(session: &mut dyn Session) -> Vec<(Option<Value>, Quality)> {
    let mut samples: Vec<Sample> = session.read(0).await.unwrap().samples;
    samples.sort_by_key(|sample| sample.tag);
    let tags: Vec<u32> = samples.iter().map(|sample| sample.tag.0).collect();
    let each: Vec<u32> = (0..).take(tags.len()).collect();
    assert_eq!(tags, each, "one sample each");
    samples.into_iter().map(|s| (s.value, s.quality)).collect()
}

fn good(value: Value) -> (Option<Value>, Quality) {
    (Some(value), Quality::Good)
}

fn bad(reason: Reason) -> (Option<Value>, Quality) {
    (None, Quality::Bad(reason))
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

#[tokio::test]
async fn states_are_read_and_written_by_name() {
    let sim = sim("mode,holding:0,u16,constant 1\n\
         valve,coil:0,bool,constant 1\n\
         flags,holding:2,u16,constant 48\n\
         odd,holding:3,i16,constant 9\n");
    let pump = || Meaning::States(Arc::new("0=off, 1=running, 2=fault".parse().unwrap()));
    let valve = Meaning::States(Arc::new("0=open, 1=closed".parse().unwrap()));
    let level = Meaning::States(Arc::new("0=low, 3=high".parse().unwrap()));
    let points = vec![
        point(0, spec("holding:0", "u16"), pump()),
        point(1, spec("coil:0", "bool"), valve),
        point(2, spec("holding:2.4-5", "u8"), level),
        point(3, spec("holding:3", "i16"), pump()),
    ];
    let mut session = open(&sim, points).await;
    let samples = read(session.as_mut()).await;
    let unnamed = (Some(text("9")), Quality::Uncertain(Reason::OutOfRange));
    assert_eq!(
        samples,
        [
            good(text("running")),
            good(text("closed")),
            good(text("high")),
            unnamed
        ]
    );

    let report = session.write(TagId(0), &text("fault")).await.unwrap();
    assert_eq!(report.old, Some(text("running")));
    assert_eq!(report.read_back, Some(text("fault")));
    let report = session.write(TagId(0), &Value::U64(0)).await.unwrap();
    assert_eq!(report.read_back, Some(text("off")));
    session.write(TagId(1), &text("open")).await.unwrap();
    session.write(TagId(2), &text("low")).await.unwrap();
    for (value, said) in [(text("on"), "\"on\""), (Value::I64(3), "3")] {
        let Err(WriteError::Unfit { message }) = session.write(TagId(0), &value).await else {
            panic!("{value:?} was written");
        };
        let expected =
            format!("{said} is no state of holding:0: they are 0=off, 1=running, 2=fault");
        assert_eq!(message, expected);
    }
    let after = read(session.as_mut()).await;
    let names = after.iter().map(|(value, _)| value.clone().unwrap());
    assert_eq!(
        names.collect::<Vec<_>>(),
        [text("off"), text("open"), text("low"), text("9")]
    );
}

#[tokio::test]
async fn value_and_scale_come_in_one_request() {
    let sim = sim("w,holding:0,i16,constant 1234\n\
         v,holding:10,u32,constant 50\n\
         sf,holding:100,i16,constant -1\n\
         k,holding:101,u16,constant 4\n");
    let points = vec![
        point(
            0,
            scaled("holding:0", "i16", "holding:100", ScaleRule::Exponent),
            Meaning::Plain,
        ),
        point(
            1,
            scaled("holding:10", "u32", "holding:101", ScaleRule::Factor),
            Meaning::Plain,
        ),
        point(
            2,
            scaled("holding:0", "i16", "holding:101", ScaleRule::Divisor),
            Meaning::Plain,
        ),
        point(3, spec("holding:100", "i16"), Meaning::Plain),
    ];
    // Even where a gap costs more than a request.
    let mut settings = settings(&sim);
    settings.limits.cost = millrace_drivers::modbus::plan::Cost::in_bytes(0);
    let mut session = driver(settings, points).open().await.unwrap();
    sim.keep_exchanges();
    let expected = [
        good(Value::F64(123.4)),
        good(Value::F64(200.0)),
        good(Value::F64(308.5)),
        good(Value::I64(-1)),
    ];
    assert_eq!(read(session.as_mut()).await, expected);
    let exchanges = sim.take_exchanges(1);
    assert!((1..=3).contains(&exchanges.len()), "{}", exchanges.len());

    // The device changes both at once: no value comes with the scale of another.
    for exponent in -5..5 {
        sim.set_signal("sf", Signal::Constant(f64::from(exponent)));
        let samples = read(session.as_mut()).await;
        let Some(Value::F64(watts)) = samples[0].0 else {
            panic!("{samples:?}");
        };
        let exact = 1234.0 * 10f64.powi(exponent);
        assert!(
            (watts - exact).abs() < exact * 1e-12,
            "{watts} at 10^{exponent}"
        );
    }
}

#[tokio::test]
async fn a_scale_that_cannot_be_meant_spoils_its_value_only() {
    let sim = sim("w,holding:0,i16,constant 7\n\
         sf,holding:1,i16,constant -32768\n\
         x,holding:2,u16,constant 5\n");
    let total = Arc::new(Total::new(&spec("holding:2", "u16"), None, None).unwrap());
    let points = vec![
        point(
            0,
            scaled("holding:0", "i16", "holding:1", ScaleRule::Exponent),
            Meaning::Plain,
        ),
        point(1, spec("holding:2", "u16"), Meaning::Plain),
        point(
            2,
            scaled("holding:2", "u16", "holding:1", ScaleRule::Exponent),
            Meaning::Total(Arc::clone(&total)),
        ),
    ];
    let mut session = open(&sim, points).await;
    let samples = read(session.as_mut()).await;
    let expected = [
        bad(Reason::BadScale),
        good(Value::U64(5)),
        bad(Reason::BadScale),
    ];
    assert_eq!(samples, expected);
    assert_eq!(total.count_now().unwrap().raw, 5, "it counts all the same");
    sim.set_signal("sf", Signal::Constant(1.0));
    let samples = read(session.as_mut()).await;
    assert_eq!(samples[0], good(Value::F64(70.0)));
    assert_eq!(samples[2], good(Value::F64(50.0)));
}

#[tokio::test]
async fn a_scale_out_of_reach_is_read_in_the_same_cycle() {
    // Another table; too far; across a range that must not be read.
    let sim = sim("w,holding:0,i16,constant 12\n\
         near,holding:60,i16,constant 1\n\
         far,holding:9000,i16,constant -1\n\
         other,input:0,i16,constant 2\n");
    let points = ["holding:9000", "input:0", "holding:60"];
    let points = (0..).zip(points).map(|(i, scale)| {
        let spec = scaled("holding:0", "i16", scale, ScaleRule::Exponent);
        point(i, spec, Meaning::Plain)
    });
    let mut settings = settings(&sim);
    settings.forbidden = vec![Barrier {
        table: Table::Holding,
        at: 30,
    }];
    let mut session = driver(settings, points.collect()).open().await.unwrap();
    let expected = [
        good(Value::F64(1.2)),
        good(Value::F64(1200.0)),
        good(Value::F64(120.0)),
    ];
    for _ in 0..2 {
        assert_eq!(read(session.as_mut()).await, expected);
    }
    sim.set_signal("far", Signal::Constant(0.0));
    assert_eq!(read(session.as_mut()).await[0], good(Value::F64(12.0)));
}

#[tokio::test]
async fn a_hole_between_value_and_scale_is_read_around() {
    let sim = sim("w,holding:0,i16,constant 12\nsf,holding:60,i16,constant -1\n");
    let hole = |start, count| Hole {
        table: Table::Holding,
        start,
        count,
    };
    let holes = |holes| Faults {
        holes,
        ..Faults::default()
    };
    sim.set_faults(holes(vec![hole(20, 3)]));
    let spec = scaled("holding:0", "i16", "holding:60", ScaleRule::Exponent);
    let mut session = open(&sim, vec![point(0, spec, Meaning::Plain)]).await;
    for _ in 0..3 {
        assert_eq!(read(session.as_mut()).await, [good(Value::F64(1.2))]);
    }
    assert_eq!(session.excluded(), []);
    let report = session.write(TagId(0), &Value::F64(1.5)).await.unwrap();
    assert_eq!(report.read_back, Some(Value::F64(1.5)));

    // The register itself is none of the device: there is no value, and it is said why.
    sim.set_faults(holes(vec![hole(60, 1)]));
    let mut session = open(&sim, vec![point(0, spec, Meaning::Plain)]).await;
    for _ in 0..3 {
        assert_eq!(read(session.as_mut()).await, [bad(Reason::IllegalAddress)]);
    }
    let excluded = session.excluded();
    assert!(
        excluded.len() == 1 && excluded[0].addresses == "holding:60",
        "{excluded:?}"
    );
}

#[tokio::test]
async fn value_and_scale_are_together_again_when_the_device_is_back() {
    let sim = sim(
        "w,holding:0,i16,constant 12\nsf,holding:60,i16,constant -1\nn,holding:70,u16,constant 7\n",
    );
    let missing = |start, count| Faults {
        holes: vec![Hole {
            table: Table::Holding,
            start,
            count,
        }],
        ..Faults::default()
    };
    let spec_of_w = scaled("holding:0", "i16", "holding:60", ScaleRule::Exponent);
    let points = vec![
        point(0, spec_of_w, Meaning::Plain),
        point(1, spec("holding:70", "u16"), Meaning::Plain),
    ];
    let clock = Arc::new(TestClock::new(1, Some(Timestamp(0))));
    let driver = TcpDriver::new(settings(&sim), points, clock.clone());
    let mut session = driver.open().await.unwrap();
    for (start, count, others) in [
        (0, 71, bad(Reason::IllegalAddress)),
        (60, 1, good(Value::U64(7))),
    ] {
        sim.set_faults(missing(start, count));
        let samples = read(session.as_mut()).await;
        assert_eq!(samples, [bad(Reason::IllegalAddress), others]);
        sim.set_faults(Faults::default());
        clock.advance(Duration::from_secs(601));
        // One read to find out, one that asks for all that was left out.
        for _ in 0..2 {
            read(session.as_mut()).await;
        }
        sim.keep_exchanges();
        sim.take_exchanges(1);
        let samples = read(session.as_mut()).await;
        assert_eq!(samples, [good(Value::F64(1.2)), good(Value::U64(7))]);
        assert_eq!(sim.take_exchanges(1).len(), 1, "all in one request");
        assert!(session.remarks().is_empty(), "{:?}", session.remarks());
    }
}

#[tokio::test]
async fn a_device_that_gives_few_at_once_is_read_in_parts() {
    let sim = sim("w,holding:0,i16,constant 12\nsf,holding:60,i16,constant -1\n");
    let spec = scaled("holding:0", "i16", "holding:60", ScaleRule::Exponent);
    let mut settings = settings(&sim);
    settings.limits = Limits {
        max_registers: 10,
        ..settings.limits
    };
    let points = vec![point(0, spec, Meaning::Plain)];
    let mut session = driver(settings, points).open().await.unwrap();
    sim.keep_exchanges();
    assert_eq!(read(session.as_mut()).await, [good(Value::F64(1.2))]);
    assert_eq!(sim.take_exchanges(1).len(), 2);
}

#[tokio::test]
async fn a_scaled_value_is_written_by_the_scale_of_the_moment() {
    let sim = sim("w,holding:0,i16,constant 12\nsf,holding:1,i16,constant -2\n");
    let spec = scaled("holding:0", "i16", "holding:1", ScaleRule::Exponent);
    let mut session = open(&sim, vec![point(0, spec, Meaning::Plain)]).await;
    let report = session.write(TagId(0), &Value::F64(0.07)).await.unwrap();
    assert_eq!(report.old, Some(Value::F64(0.12)));
    assert_eq!(report.read_back, Some(Value::F64(0.07)));
    sim.set_signal("sf", Signal::Constant(1.0));
    session.write(TagId(0), &Value::U64(70)).await.unwrap();
    assert_eq!(read(session.as_mut()).await, [good(Value::F64(70.0))]);

    for (value, part) in [
        (Value::U64(75), "75 is 7.5 counts, since the scale is × 10"),
        (Value::F64(1e9), "the range is -32768 to 32767"),
        (text("x"), "is no number"),
    ] {
        let Err(WriteError::Unfit { message }) = session.write(TagId(0), &value).await else {
            panic!("{value:?} was written");
        };
        assert!(message.contains(part), "{message}");
    }
    sim.set_signal("sf", Signal::Constant(100.0));
    let refused = session.write(TagId(0), &Value::U64(70)).await.unwrap_err();
    assert!(matches!(refused, WriteError::Refused { .. }), "{refused}");
}

#[tokio::test]
async fn a_total_goes_on_over_roll_overs_resets_and_sessions() {
    let sim = sim("n,holding:0,u16,constant 65530\n");
    let spec = spec("holding:0", "u16");
    let total = Meaning::Total(Arc::new(Total::new(&spec, None, None).unwrap()));
    let driver = driver(settings(&sim), vec![point(0, spec, total)]);
    let mut session = driver.open().await.unwrap();
    assert_eq!(read(session.as_mut()).await, [good(Value::U64(65_530))]);
    sim.set_signal("n", Signal::Constant(10.0));
    assert_eq!(read(session.as_mut()).await, [good(Value::U64(65_546))]);

    // Another session: the state is the tag's.
    session.close().await;
    let mut session = driver.open().await.unwrap();
    sim.set_signal("n", Signal::Constant(30_000.0));
    assert_eq!(read(session.as_mut()).await, [good(Value::U64(95_536))]);

    // Too far from the top for a roll-over: the device began anew.
    sim.set_signal("n", Signal::Constant(4.0));
    let reset = (
        Some(Value::U64(95_540)),
        Quality::Uncertain(Reason::CounterReset),
    );
    assert_eq!(read(session.as_mut()).await, [reset]);
    sim.set_signal("n", Signal::Constant(5.0));
    assert_eq!(read(session.as_mut()).await, [good(Value::U64(95_541))]);

    let refused = session.write(TagId(0), &Value::U64(0)).await.unwrap_err();
    assert!(matches!(refused, WriteError::Unfit { .. }), "{refused}");
}
