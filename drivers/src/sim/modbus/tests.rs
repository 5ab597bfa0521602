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
        meaning: Default::default(),
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

/// Asks in memory, frame by frame, and has the PDU of the reply.
struct Client {
    stream: tokio::io::DuplexStream,
    framing: Framing,
}

impl Client {
    async fn ask(&mut self, unit: u8, pdu: &[u8]) -> Vec<u8> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let frame = self.framing.frame(7, unit, pdu);
        self.stream.write_all(&frame).await.unwrap();
        let mut reply = vec![0; 512];
        let waiting = Duration::from_secs(10);
        match tokio::time::timeout(waiting, self.stream.read(&mut reply)).await {
            Ok(count) => reply.truncate(count.unwrap()),
            Err(_) => return Vec::new(),
        }
        let (head, tail) = match self.framing {
            Framing::Tcp => (7, 0),
            Framing::Rtu => (1, 2),
        };
        // A frame made of the same PDU is the same frame: checksum and header are right.
        let pdu = reply[head..reply.len() - tail].to_vec();
        assert_eq!(reply, self.framing.frame(7, unit, &pdu));
        pdu
    }
}

fn in_memory(framing: Framing, units: &[(Option<u8>, &str)]) -> (SimModbus, Client) {
    let units = units.iter().map(|(id, lines)| SimUnit {
        id: *id,
        map: counters(lines),
        faults: Faults::default(),
    });
    let sim = SimModbus::start(&Listen::Memory(framing), units.collect(), 1).unwrap();
    let stream = sim.connect();
    (sim, Client { stream, framing })
}

#[tokio::test(start_paused = true)]
async fn what_is_written_stays_until_a_reboot() {
    let map = "a,holding:0,u16,,counter\nb,holding:9,u32,,counter\nc,coil:0,bool,,constant 0\nd,coil:20,bool,,constant 1\n";
    for framing in [Framing::Tcp, Framing::Rtu] {
        let (sim, mut client) = in_memory(framing, &[(None, map)]);
        sim.keep_log();
        let exchanges: [(&[u8], &[u8]); 14] = [
            (&[6, 0, 0, 0x12, 0x34], &[6, 0, 0, 0x12, 0x34]),
            (&[3, 0, 0, 0, 1], &[3, 2, 0x12, 0x34]),
            // 22: the high byte stays.
            (
                &[22, 0, 0, 0xFF, 0x00, 0x00, 0x56],
                &[22, 0, 0, 0xFF, 0x00, 0x00, 0x56],
            ),
            (&[3, 0, 0, 0, 1], &[3, 2, 0x12, 0x56]),
            // Between the tags too.
            (&[16, 0, 3, 0, 2, 4, 1, 2, 3, 4], &[16, 0, 3, 0, 2]),
            (&[3, 0, 2, 0, 4], &[3, 8, 0, 0, 1, 2, 3, 4, 0, 0]),
            // 23: written, then read.
            (
                &[23, 0, 9, 0, 2, 0, 9, 0, 2, 4, 0, 0, 0, 7],
                &[23, 4, 0, 0, 0, 7],
            ),
            (&[5, 0, 0, 0xFF, 0x00], &[5, 0, 0, 0xFF, 0x00]),
            (&[15, 0, 18, 0, 3, 1, 0b011], &[15, 0, 18, 0, 3]),
            (&[1, 0, 0, 0, 21], &[1, 3, 1, 0, 0b0_1100]),
            // Not there, not writable, not known, not whole.
            (&[6, 0, 99, 0, 1], &[0x86, 2]),
            (&[4, 0, 0, 0, 1], &[0x84, 2]),
            (&[16, 0, 0, 0, 0, 0], &[0x90, 3]),
            (
                &[43, 14, 4, 1],
                b"\x2B\x0E\x04\x82\0\0\x01\x01\x0Asim-modbus",
            ),
        ];
        for (request, reply) in exchanges {
            assert_eq!(
                client.ask(1, request).await,
                reply,
                "{framing:?} {request:02X?}"
            );
        }
        let served = ServedValue {
            tag: "b".into(),
            bits: 7,
        };
        assert!(sim.take_log().contains(&served), "as it was written");
        assert_eq!(sim.counts().requests[&3], 3);
        sim.inject(Fault::Reboot(Duration::from_millis(1)));
        assert_eq!(client.ask(1, &[3, 0, 3, 0, 1]).await, [3, 2, 0, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn units_of_a_line_are_apart() {
    let units = [
        (Some(1), "a,holding:0,u16,,constant 11\n"),
        (Some(5), "a,holding:0,u16,,constant 55\n"),
    ];
    let read = [3, 0, 0, 0, 1];
    let (sim, mut line) = in_memory(Framing::Rtu, &units);
    assert_eq!(line.ask(1, &read).await, [3, 2, 0, 11]);
    assert_eq!(line.ask(5, &read).await, [3, 2, 0, 55]);
    assert_eq!(line.ask(2, &read).await, [] as [u8; 0], "nobody speaks");
    assert_eq!(
        line.ask(0, &[6, 0, 0, 0, 9]).await,
        [] as [u8; 0],
        "all obey, none answers"
    );
    assert_eq!(line.ask(5, &read).await, [3, 2, 0, 9]);
    let mut silent = Faults::default();
    silent.add("silent every 1").unwrap();
    assert!(sim.set_unit_faults(5, silent));
    assert_eq!(line.ask(5, &read).await, [] as [u8; 0]);
    assert_eq!(line.ask(1, &read).await, [3, 2, 0, 9]);
    let (_sim, mut gateway) = in_memory(Framing::Tcp, &units);
    assert_eq!(gateway.ask(2, &read).await, [0x83, 0x0B]);
}

#[tokio::test(start_paused = true)]
async fn line_recovers_from_broken_requests() {
    use tokio::io::AsyncWriteExt;
    let (_sim, mut client) = in_memory(Framing::Rtu, &[(None, "a,holding:0,u16,,constant 3\n")]);
    for broken in [
        &[1u8, 3, 0][..],
        &[0xFF, 0xFF, 0xFF],
        &[1, 3, 0, 0, 0, 1, 0, 0],
    ] {
        client.stream.write_all(broken).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(
            client.ask(1, &[3, 0, 0, 0, 1]).await,
            [3, 2, 0, 3],
            "{broken:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn seed_repeats_a_run_of_faults() {
    let run = async |seed| {
        let mut faults = Faults::default();
        for words in [
            "late 1s 5%",
            "truncated 5%",
            "crc 5%",
            "garbage 5%",
            "busy 5%",
            "echo 5%",
        ] {
            faults.add(words).unwrap();
        }
        let unit = SimUnit {
            id: None,
            map: counters("a,holding:0,u32,,unique\n"),
            faults,
        };
        let sim = SimModbus::start(&Listen::Memory(Framing::Rtu), vec![unit], seed).unwrap();
        sim.keep_exchanges();
        let mut stream = sim.connect();
        for _ in 0..200 {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let frame = Framing::Rtu.frame(0, 1, &[3, 0, 0, 0, 2]);
            stream.write_all(&frame).await.unwrap();
            let mut reply = [0; 64];
            let _ = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut reply)).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        (sim.take_exchanges(1), sim.counts())
    };
    let first = run(7).await;
    assert_eq!(first, run(7).await);
    assert_ne!(first.0, run(8).await.0);
    assert_eq!(first.1.faults.len(), 6, "{:?}", first.1);
}

/// A client that knows nothing of us: a file that is opened, written and read.
#[cfg(unix)]
#[tokio::test]
async fn pseudo_terminal_is_a_serial_port() {
    use std::io::{Read, Write};
    let unit = SimUnit {
        id: Some(3),
        map: counters("a,holding:0,u16,,constant 515\n"),
        faults: Faults::default(),
    };
    let sim = SimModbus::start(&Listen::Pty, vec![unit], 1).unwrap();
    let path = sim.address().to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        // Opened again and again, as ports are.
        for _ in 0..3 {
            let mut port = std::fs::File::options()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap();
            let request = Framing::Rtu.frame(0, 3, &[3, 0, 0, 0, 1]);
            port.write_all(&request).unwrap();
            let mut reply = [0; 7];
            port.read_exact(&mut reply).unwrap();
            assert_eq!(reply[..], Framing::Rtu.frame(0, 3, &[3, 2, 2, 3]));
        }
    });
    asked.await.unwrap();
    assert_eq!(sim.served().total, 3);
    sim.shutdown().await;
}
