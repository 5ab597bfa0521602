use std::sync::Arc;

use millrace_tags::{Quality, Reason, SystemClock, TagId, Value};

use super::*;
use crate::modbus::{Point, TcpDriver, TcpSettings};
use crate::{Driver, Session};

fn driver(sim: &SimModbus, map: &RegisterMap) -> TcpDriver {
    let mut settings = TcpSettings::new("sim", sim.local_addr().to_string());
    settings.timeout = Duration::from_secs(30);
    let points = (0..).zip(map.entries()).map(|(i, entry)| Point {
        tag: TagId(i),
        spec: entry.spec,
        interval: Duration::from_secs(1),
    });
    TcpDriver::new(settings, points.collect(), Arc::new(SystemClock::new()))
}

async fn open(map: &RegisterMap, faults: Faults) -> (SimModbus, Box<dyn Session>) {
    let sim = SimModbus::bind("127.0.0.1:0", map.clone(), faults).unwrap();
    let session = driver(&sim, map).open().await.unwrap();
    (sim, session)
}

fn counters(csv_lines: &str) -> RegisterMap {
    let csv = format!("name,address,type,order,signal\n{csv_lines}");
    RegisterMap::from_csv(csv.as_bytes()).unwrap()
}

#[tokio::test]
async fn everything_encoded_is_decoded_again() {
    let mut lines = String::new();
    let mut offset = 0;
    for order in ["abcd", "badc", "cdab", "dcba"] {
        for (data_type, value) in [
            ("bool", "1"),
            ("i8", "-100"),
            ("u8", "200"),
            ("i16", "-30000"),
            ("u16", "60000"),
            ("i32", "-2000000000"),
            ("u32", "4000000000"),
            ("i64", "-9007199254740992"),
            ("u64", "9007199254740992"),
            ("f32", "-1.5"),
            ("f64", "0.1"),
            ("bcd16", "9876"),
            ("bcd32", "98765432"),
        ] {
            lines += &format!(
                "{order}-{data_type},holding:{offset},{data_type},{order},constant {value}\n"
            );
            offset += 4;
        }
    }
    lines += "text,input:3,string:7,badc,text PUMP-01\n";
    lines += "bit3,input:9.3,bool,,constant 1\nbit4,input:9.4,bool,,constant 0\n";
    lines += "coil,coil:17,bool,,constant 1\noff,coil:3,bool,,constant 0\nin,discrete:0,bool,,constant 1\n";
    let map = counters(&lines);
    let (_sim, mut session) = open(&map, Faults::default()).await;
    let reading = session.read(0).await.unwrap();
    assert_eq!(reading.samples.len(), map.entries().len());
    for sample in reading.samples {
        let entry = &map.entries()[sample.tag.0 as usize];
        let Source::Signal(signal) = &entry.source else {
            panic!("{} has no signal", entry.name)
        };
        match (signal, sample.value.unwrap()) {
            (Signal::Text(text), value) => assert_eq!(value, Value::Text(Arc::clone(text))),
            (Signal::Constant(number), value) => {
                assert_eq!(value.as_f64(), Some(*number), "{}", entry.name);
                assert_eq!(value.value_type(), entry.spec.value_type());
            }
            (signal, _) => panic!("{signal:?}"),
        }
    }
}

#[tokio::test]
async fn served_is_counted_exactly() {
    let map =
        counters("a,holding:0,u32,,counter\nb,holding:2,u16,,counter\nc,input:5,f32,,counter\n");
    let (sim, mut session) = open(&map, Faults::default()).await;
    sim.keep_log();
    for round in 0..5u64 {
        let reading = session.read(0).await.unwrap();
        assert!(
            reading
                .samples
                .iter()
                .all(|s| s.value.as_ref().unwrap().as_f64() == Some(round as f64))
        );
    }
    let served = sim.served();
    assert_eq!(served.total, 15);
    assert!(served.tags.iter().all(|(_, count)| *count == 5));
    let log = sim.take_log();
    assert_eq!(log.len(), 15);
    let bits = u64::from(4f32.to_bits());
    assert!(log.contains(&ServedValue {
        tag: "c".into(),
        bits
    }));
}

#[tokio::test]
async fn value_in_parts_is_not_served() {
    let map = counters("a,holding:0,u32,,constant 65537\nb,holding:2,u16,,counter\n");
    let half = counters("low,holding:1,u16,,counter\nb,holding:2,u16,,counter\n");
    let sim = SimModbus::bind("127.0.0.1:0", map, Faults::default()).unwrap();
    let mut session = driver(&sim, &half).open().await.unwrap();
    let reading = session.read(0).await.unwrap();
    assert_eq!(reading.samples[0].value, Some(Value::U64(1)));
    let served: Vec<u64> = sim
        .served()
        .tags
        .into_iter()
        .map(|(_, count)| count)
        .collect();
    assert_eq!(served, [0, 1]);
}

fn recording(rows: usize) -> RegisterMap {
    let columns: Vec<Arc<str>> = (0..70).map(|i| format!("c{i}").into()).collect();
    let values = (0..rows * 70).map(|i| i as f32).collect();
    let replay = Replay::from_rows(columns, values, Advance::Read).unwrap();
    RegisterMap::replay(replay).unwrap()
}

#[tokio::test]
async fn replay_by_read_serves_each_row_once() {
    // 140 registers: two requests a row.
    let map = recording(20);
    let (sim, mut session) = open(&map, Faults::default()).await;
    for row in 0..20usize {
        assert!(!sim.is_replayed());
        let reading = session.read(0).await.unwrap();
        for (column, sample) in reading.samples.iter().enumerate() {
            assert_eq!(sample.value, Some(Value::F32((row * 70 + column) as f32)));
        }
    }
    assert!(sim.is_replayed());
    let after = session.read(0).await.unwrap();
    let failed = Quality::Bad(Reason::DeviceFailure);
    assert!(after.samples.iter().all(|sample| sample.quality == failed));
    assert_eq!(sim.served().total, 20 * 70);
}

#[tokio::test]
async fn replay_by_tick_ends() {
    let replay = Replay::from_rows(
        vec!["a".into()],
        vec![7.0, 8.0],
        Advance::Tick {
            interval: Duration::from_millis(20),
        },
    );
    let map = RegisterMap::replay(replay.unwrap()).unwrap();
    let (sim, mut session) = open(&map, Faults::default()).await;
    let first = session.read(0).await.unwrap();
    assert_eq!(first.samples[0].value, Some(Value::F32(7.0)));
    while !sim.is_replayed() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!session.read(0).await.unwrap().samples[0].quality.is_good());
}

#[tokio::test]
async fn reboot_closes_the_port_and_opens_it_again() {
    let map = counters("a,holding:0,u16,,counter\n");
    let (sim, mut session) = open(&map, Faults::default()).await;
    session.read(0).await.unwrap();
    session.read(0).await.unwrap();
    sim.inject(Fault::Reboot(Duration::from_millis(50)));
    while session.read(0).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let driver = driver(&sim, &map);
    let mut session = loop {
        match driver.open().await {
            Ok(session) => break session,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let reading = loop {
        match session.read(0).await {
            Ok(reading) => break reading,
            Err(_) => session = driver.open().await.unwrap(),
        }
    };
    assert!(reading.samples[0].quality.is_good());
    sim.shutdown().await;
    assert!(driver.open().await.is_err());
}

#[tokio::test]
async fn signal_is_changed_at_run_time() {
    let map = counters("a,holding:0,u16,,constant 1\n");
    let (sim, mut session) = open(&map, Faults::default()).await;
    assert!(sim.set_signal("a", Signal::Constant(9.0)));
    assert!(!sim.set_signal("b", Signal::Constant(9.0)));
    let reading = session.read(0).await.unwrap();
    assert_eq!(reading.samples[0].value, Some(Value::U64(9)));
}

#[test]
fn configuration_is_ready_to_paste() {
    let map = counters("\"a,b\",holding:0,f32,cdab,counter\n");
    assert_eq!(
        print_tags_csv(&map),
        "name,address,type,order\n\"a,b\",holding:0,f32,cdab\n"
    );
    let toml = print_tags_toml(&map, "pump", "127.0.0.1:1502");
    assert!(
        toml.starts_with("[[device]]\nname = \"pump\"\ndriver = \"modbus-tcp\"\n"),
        "{toml}"
    );
    assert!(
        toml.contains(
            "name = \"a,b\"\naddress = \"holding:0\"\ntype = \"f32\"\norder = \"cdab\"\n"
        )
    );
}
