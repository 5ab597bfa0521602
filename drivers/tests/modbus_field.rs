//! The field tools against simulated devices: the truth is known, and what they say must equal it.

use std::sync::Arc;
use std::time::Duration;

use millrace_drivers::modbus::scan::{self, LineFound, LineSearch};
use millrace_drivers::modbus::{
    Caller, Line, Parity, Readable, SerialSettings, Sweep, Table, identify, serve_line,
};
use millrace_drivers::sim::modbus::{Faults, Listen, RegisterMap, SimModbus, SimUnit};
use millrace_tags::{Clock, SystemClock};

const TIMEOUT: Duration = Duration::from_secs(2);

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

fn map(csv: &str) -> RegisterMap {
    RegisterMap::from_csv(csv.as_bytes()).expect("a map")
}

fn faults(words: &[&str]) -> Faults {
    let mut faults = Faults::default();
    for word in words {
        faults.add(word).expect("a fault");
    }
    faults
}

fn unit(id: u8) -> SimUnit {
    SimUnit {
        id: Some(id),
        map: map("name,address,type\na,holding:0,u16\nb,holding:9,u16\n"),
        faults: Faults::default(),
    }
}

async fn sweep(sim: &SimModbus, table: Table, step: u16) -> Readable {
    let mut caller = Caller::tcp(sim.address(), TIMEOUT, &clock());
    let sweep = Sweep {
        addresses: 0..=2_999,
        step,
    };
    sweep
        .run(&mut caller, 1, table, &mut |_| {})
        .await
        .expect("a way")
}

#[tokio::test]
async fn readable_ranges_equal_the_truth() {
    // Registers 100 to 1299, with holes of all sizes, some at the borders of blocks.
    let map = map(
        "name,address,type\na,holding:100,u16\nb,holding:1299,u16\nc,coil:40,bool\nd,coil:49,bool\n",
    );
    let mut rng = fastrand::Rng::with_seed(7);
    let mut holes = vec![(125, 1), (374, 2), (500, 125)];
    holes.extend((0..12).map(|i| (640 + i * 50 + rng.u16(..20), rng.u16(1..25))));
    let words: Vec<String> = holes
        .iter()
        .map(|(at, n)| format!("hole holding:{at}+{n}"))
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let sim = SimModbus::bind("127.0.0.1:0", map, faults(&words)).unwrap();
    let is_hole = |at: u16| {
        holes
            .iter()
            .any(|(from, n)| (*from..from + n).contains(&at))
    };
    let truth: Vec<u16> = (100..1_300).filter(|at| !is_hole(*at)).collect();
    for step in [10, 1] {
        let found = sweep(&sim, Table::Holding, step).await;
        let readable: Vec<u16> = found.ranges.iter().cloned().flatten().collect();
        assert_eq!(readable, truth, "step {step}");
        assert_eq!(
            (found.offered, found.max_quantity, found.gave_up_at),
            (true, None, None)
        );
        // 3,000 addresses one by one are what this is to save.
        assert!(
            found.requests < if step == 1 { 2_999 } else { 1_200 },
            "{}",
            found.requests
        );
    }
    let coils = sweep(&sim, Table::Coil, 10).await;
    assert_eq!(coils.ranges, [40..=49]);
    let inputs = sweep(&sim, Table::Input, 10).await;
    assert!(inputs.ranges.is_empty());
}

#[tokio::test]
async fn device_that_gives_little_at_once_teaches_its_maximum() {
    let map = map("name,address,type\na,holding:0,u16\nb,holding:299,u16\n");
    let sim = SimModbus::bind("127.0.0.1:0", map, faults(&["limit 20"])).unwrap();
    let found = sweep(&sim, Table::Holding, 10).await;
    assert_eq!(found.ranges, [0..=299]);
    assert_eq!(found.max_quantity, Some(20));
}

#[tokio::test]
async fn unit_says_who_it_is() {
    let sim = SimModbus::bind("127.0.0.1:0", RegisterMap::new(), Faults::default()).unwrap();
    let mut caller = Caller::tcp(sim.address(), TIMEOUT, &clock());
    let found = identify(&mut caller, 1).await.unwrap().unwrap();
    assert!(found.objects.len() >= 3, "{found:?}");
    assert!(!found.summary().is_empty());
}

fn at_38400_odd() -> SerialSettings {
    let mut settings = SerialSettings::new("");
    settings.baud = 38_400;
    settings.parity = Parity::Odd;
    settings
}

#[tokio::test]
async fn three_units_are_found_at_settings_that_nobody_knows() {
    let units = vec![unit(2), unit(17), unit(200)];
    let sim = SimModbus::start(&Listen::PtyAt(at_38400_odd()), units, 1).unwrap();
    let frames = [(Parity::None, 1), (Parity::Odd, 1)];
    let search = LineSearch {
        candidates: scan::candidates(sim.address(), &[9_600, 38_400], &frames),
        // The machine of the test may be slow: few silent units, and time for each.
        units: (1..=4).chain(15..=18).chain(199..=201).collect(),
        timeout: Duration::from_millis(200),
        clock: clock(),
    };
    let mut found = LineFound::default();
    let mut last = None;
    let mut tell = |progress: scan::Progress| last = Some(progress.left);
    search.run(&mut found, &mut tell).await.unwrap();
    let wanted = SerialSettings {
        port: sim.address().to_owned(),
        ..at_38400_odd()
    };
    assert_eq!(found.settings, Some(wanted));
    let ids: Vec<u8> = found.units.iter().map(|found| found.unit).collect();
    assert_eq!(ids, [2, 17, 200]);
    assert!(last.is_some_and(|left| left < Duration::from_secs(1)));
}

#[tokio::test]
async fn tool_asks_through_the_arbiter_of_a_line() {
    let sim = SimModbus::start(&Listen::Pty, vec![unit(2), unit(3)], 1).unwrap();
    let line = Line::serial("bus", SerialSettings::new(sim.address()), clock());
    let (near, far) = tokio::io::duplex(1024);
    let serving = tokio::spawn({
        let line = line.clone();
        async move { serve_line(far, &line, Duration::from_millis(200), |_, _| {}).await }
    });
    let mut caller = Caller::over(Box::new(near), Duration::from_secs(20), &clock());
    let mut found = Vec::new();
    scan::find_units(&mut caller, &[1, 2, 3, 4], TIMEOUT, &mut found, &mut |_| {})
        .await
        .unwrap();
    let ids: Vec<u8> = found.iter().map(|found| found.unit).collect();
    assert_eq!(ids, [2, 3]);
    let spec = "holding:9".parse().unwrap();
    let spec = millrace_drivers::modbus::PointSpec::new(
        spec,
        millrace_drivers::modbus::DataType::U16,
        millrace_drivers::modbus::WordOrder::Abcd,
    )
    .unwrap();
    let value = millrace_tags::Value::U64(4711);
    let report = caller.write(3, &spec, &value).await.unwrap();
    assert_eq!(report.read_back, Some(value.clone()));
    let sample = caller.read(3, &spec).await.unwrap();
    assert_eq!(sample.value, Some(value));
    drop(caller);
    serving.await.unwrap().unwrap();
}
