//! Modbus devices that are not ours: types, orders and functions against pymodbus and libmodbus, over TCP, RTU on a
//! pseudo-terminal and RTU over TCP; and their clients against our simulated device.
//!
//! What a peer cannot do: libmodbus has no RTU over TCP, so that the test passes the bytes between its serial port
//! and a socket, as a converter does; it has no function 43/14 either. Each test leaves a line of
//! counts on standard error.

// A test that cannot set itself up has failed.
#![allow(clippy::unwrap_used)]

mod clients;
mod found;
mod functions;
mod peer;
mod plant;

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use millrace_drivers::modbus::{
    Heard, Line, Point, ReadRequest, Request, RtuDriver, RtuSettings, SerialSettings, Table,
    TcpDriver, TcpSettings,
};
use millrace_drivers::{Driver, Session, SessionError, WriteError};
use millrace_tags::{Quality, Reason, SystemClock, Value};

use functions::Functions;
use peer::{Peer, Way};
use plant::Plant;

/// The unit that the peers answer for.
const UNIT: u8 = 7;

/// Beyond what a loaded machine needs.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Between two looks.
const STEP: Duration = Duration::from_millis(10);

async fn open(way: &Way, points: Vec<Point>) -> Box<dyn Session> {
    let clock = Arc::new(SystemClock::new());
    let line = match way {
        Way::Tcp(address) => {
            let mut settings = TcpSettings::new("peer", address.clone());
            settings.unit_id = UNIT;
            settings.timeout = TIMEOUT;
            let driver = TcpDriver::new(settings, points, clock);
            return driver.open().await.unwrap();
        }
        Way::RtuOverTcp(address) => Line::over_tcp(address.clone(), TIMEOUT, clock.clone()),
        Way::Rtu(port) => {
            let mut settings = SerialSettings::new(port.clone());
            settings.baud = 115_200;
            Line::serial("bus", settings, clock.clone())
        }
    };
    let mut settings = RtuSettings::new("peer", UNIT);
    settings.timeout = TIMEOUT;
    let driver = RtuDriver::new(settings, line, points, clock);
    driver.open().await.unwrap()
}

/// Reads every point; they are worth what is expected.
async fn reads_as(session: &mut dyn Session, plant: &Plant, expected: &[Result<Value, Reason>]) {
    let reading = session.read(0).await.unwrap();
    assert_eq!(reading.samples.len(), plant.points.len());
    for sample in reading.samples {
        let index = sample.tag.0 as usize;
        let found = match sample.quality {
            Quality::Bad(reason) | Quality::Uncertain(reason) => Err(reason),
            Quality::Good => Ok(sample.value.unwrap()),
        };
        assert_eq!(found, expected[index], "{:?}", plant.points[index].spec);
    }
}

/// The whole matrix: every type in every order is read, written with another value, and read again; then every
/// function by itself.
async fn matrix(peer: &Peer, name: &str) {
    let plant = Plant::whole();
    let mut session = open(&peer.way, plant.points.clone()).await;
    // The first read isolates the addresses that are not there, the second leaves them out.
    for _ in 0..2 {
        reads_as(session.as_mut(), &plant, &plant.expected).await;
    }
    let excluded = session.excluded();
    assert_eq!(excluded.len(), 2, "{excluded:?}");
    let mut after = plant.expected.clone();
    let mut written = 0;
    for (index, point) in plant.points.iter().enumerate() {
        let Some(value) = &plant.written[index] else {
            let Ok(value) = &plant.expected[index] else {
                continue;
            };
            let refused = session.write(point.tag, value).await;
            assert!(matches!(refused, Err(WriteError::ReadOnly { .. })));
            continue;
        };
        let report = session.write(point.tag, value).await;
        let report = report.unwrap_or_else(|error| panic!("{:?}: {error}", point.spec));
        assert_eq!(report.read_back.as_ref(), Some(value), "{:?}", point.spec);
        assert_eq!(report.old, plant.expected[index].clone().ok());
        after[index] = Ok(value.clone());
        written += 1;
    }
    reads_as(session.as_mut(), &plant, &after).await;
    session.close().await;
    drop(session);
    holds(&peer.way, &plant.after).await;

    let types: BTreeSet<String> = plant
        .points
        .iter()
        .map(|point| point.spec.data_type().to_string())
        .collect();
    let read = plant.expected.iter().filter(|value| value.is_ok()).count();
    say(&format!(
        "{name}, {}: {} types in 4 orders, {read} values read and {written} written",
        peer.way.name(),
        types.len(),
    ));
}

/// The registers of the peer, bare: what is not a value's own was left alone.
async fn holds(way: &Way, registers: &[u16]) {
    let mut caller = functions::caller(way, TIMEOUT);
    for (i, expected) in registers.chunks(100).enumerate() {
        let request = Request::Read(ReadRequest {
            table: Table::Holding,
            start: i as u16 * 100,
            count: expected.len() as u16,
        });
        let bytes: Vec<u8> = expected.iter().flat_map(|r| r.to_be_bytes()).collect();
        let heard = loop {
            match caller.call(UNIT, &request).await {
                // The line of the session lets its port go in a task of its own.
                Err(SessionError::Connect { .. }) => tokio::time::sleep(STEP).await,
                heard => break heard.unwrap(),
            }
        };
        assert_eq!(heard, Heard::Data(bytes), "from register {}", i * 100);
    }
}

/// Every function of the peer, on tables that nobody has written to.
async fn every_function(peer: &Peer, name: &str, identifies: bool) {
    let functions = Functions::new(&peer.way, &Plant::whole().registers);
    let exchanges = functions.all(identifies).await;
    let known = if identifies {
        "1-6, 15, 16, 22, 23, 43/14"
    } else {
        "1-6, 15, 16, 22, 23 (no 43/14)"
    };
    say(&format!(
        "{name}, {}: functions {known} in {exchanges} exchanges",
        peer.way.name()
    ));
}

/// A line of figures that is seen although the test passes.
fn say(line: &str) {
    // Nobody reads it: nothing to be done.
    let _ = writeln!(std::io::stderr(), "peers: {line}");
}

#[tokio::test]
async fn pymodbus_passes_the_matrix() {
    let Some(program) = peer::pymodbus("pymodbus_server.py") else {
        return;
    };
    let tables = Plant::whole().tables();
    for start in [peer::on_tcp, peer::on_rtu_over_tcp, peer::on_line] {
        matrix(&start(&program, &tables), "pymodbus").await;
        every_function(&start(&program, &tables), "pymodbus", true).await;
    }
}

#[tokio::test]
async fn libmodbus_passes_the_matrix() {
    let directory = tempfile::tempdir().unwrap();
    let Some(program) = peer::libmodbus("libmodbus_server.c", directory.path()) else {
        return;
    };
    let tables = Plant::whole().tables();
    for start in [peer::on_tcp, peer::on_line] {
        matrix(&start(&program, &tables), "libmodbus").await;
        every_function(&start(&program, &tables), "libmodbus", false).await;
    }
    matrix(
        &peer::behind_converter(&program, &tables).await,
        "libmodbus",
    )
    .await;
    let peer = peer::behind_converter(&program, &tables).await;
    every_function(&peer, "libmodbus", false).await;
}
