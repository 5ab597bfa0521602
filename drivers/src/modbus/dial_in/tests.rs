use std::sync::Arc;

use millrace_tags::{SystemClock, TagId, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::Driver;
use crate::modbus::{DataType, Point, PointSpec, TcpDriver, TcpSettings, WordOrder};

/// A modem in front of unit `unit`, whose registers hold `value`: it dials, then answers.
async fn modem(address: String, unit: u8, value: u8) {
    let mut stream = loop {
        match TcpStream::connect(&address).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let mut request = [0; 12];
    while stream.read_exact(&mut request).await.is_ok() {
        if request[6] != unit {
            continue;
        }
        let [t0, t1, ..] = request;
        let reply = [t0, t1, 0, 0, 0, 5, unit, 3, 2, 0, value];
        if stream.write_all(&reply).await.is_err() {
            return;
        }
    }
}

async fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

fn driver(dial_in: &DialIn, device: &str, unit: u8) -> TcpDriver {
    let mut settings = TcpSettings::new(device, "modem");
    settings.unit_id = unit;
    settings.timeout = Duration::from_secs(3);
    let spec = PointSpec::new("holding:0".parse().unwrap(), DataType::U16, WordOrder::Abcd);
    let point = Point {
        tag: TagId(1),
        spec: spec.unwrap(),
        meaning: Default::default(),
        interval: Duration::from_secs(1),
    };
    let clock = Arc::new(SystemClock::new());
    TcpDriver::new(settings, vec![point], clock).dialled_in(dial_in.clone())
}

async fn value(driver: &TcpDriver) -> Option<Value> {
    // A device may be offered the other's connection first.
    for _ in 0..5 {
        if let Ok(mut session) = driver.open().await {
            let reading = session.read(0).await.unwrap();
            return reading.samples[0].value.clone();
        }
    }
    None
}

#[tokio::test]
async fn devices_are_told_apart_by_their_first_reply() {
    let address = free_port().await;
    let dial_in = DialIn::new(&address);
    let modems = [
        tokio::spawn(modem(address.clone(), 4, 44)),
        tokio::spawn(modem(address, 5, 55)),
    ];
    let (four, five) = (driver(&dial_in, "four", 4), driver(&dial_in, "five", 5));
    let values = tokio::join!(value(&four), value(&five));
    assert_eq!(values, (Some(Value::U64(44)), Some(Value::U64(55))));
    modems.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn device_with_a_source_takes_no_other() {
    let address = free_port().await;
    let dial_in = DialIn::new(&address);
    dial_in.know("far", "192.0.2.1".parse().unwrap());
    dial_in.know("near", "127.0.0.1".parse().unwrap());
    let modem = tokio::spawn(modem(address, 1, 7));
    let near = driver(&dial_in, "near", 1);
    assert_eq!(value(&near).await, Some(Value::U64(7)));
    let mut far = driver(&dial_in, "far", 1);
    far.shorten(Duration::from_millis(50));
    let error = far.open().await.map(drop).unwrap_err();
    assert!(matches!(error, SessionError::Connect { .. }), "{error}");
    modem.abort();
}
