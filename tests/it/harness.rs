//! The harness itself: what the broker has acknowledged reaches the subscriber over a restart of the broker.

use anyhow::{Context, Result};
use millrace_tests::broker::Broker;
use millrace_tests::certificates::Certificates;
use millrace_tests::served::Served;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};

use crate::plant;

/// Publishes one sample and waits for its PUBACK.
fn publish(port: u16, seq: u64) -> Result<()> {
    let (client, mut connection) = Client::new(MqttOptions::new("publisher", "127.0.0.1", port), 8);
    let payload = format!(
        "{{\"gateway\":\"gw-1\",\"source\":\"s\",\"stream\":\"x\",\"first_seq\":{seq},\"last_seq\":{seq},\
         \"lane\":\"live\",\"samples\":[{{\"n\":\"a\",\"t\":1.5,\"v\":{seq}}}]}}"
    );
    client.publish("millrace/gw-1/data/s", QoS::AtLeastOnce, false, payload)?;
    for event in connection.iter() {
        if let Event::Incoming(Packet::PubAck(_)) = event? {
            return Ok(());
        }
    }
    anyhow::bail!("the connection ended")
}

#[test]
fn the_subscriber_survives_a_restart_of_the_broker() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let certificates = Certificates::make(directory.path())?;
    let mut broker = Broker::start_tls(directory.path(), &certificates)?;
    let subscriber = Subscriber::start(broker.port)?;
    publish(broker.port, 1)?;
    broker.stop()?;
    broker.restart()?;
    publish(broker.port, 3)?;
    subscriber.wait("both samples", STEP, |got| got.count("s") == 2)?;
    let got = subscriber.stop();
    assert_eq!(got.violations, Vec::<String>::new());
    assert_eq!(got.line("s")?.holes(), [2..=2]);
    Ok(())
}

#[test]
fn the_foreign_devices_start_and_write_down_what_they_serve() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (_ticks, _) = plant::start_ticks(directory.path())?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    read_registers(port)?;
    let log = directory.path().join("served.jsonl");
    wait_for("the log", STEP, || {
        (Served::read(&log).ok()?.total() == 2).then_some(())
    })
}

/// Reads four holding registers: the request and the reply's length by hand, so that no library is proved by itself.
fn read_registers(port: u16) -> Result<()> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(&[0, 1, 0, 0, 0, 6, 1, 3, 0, 0, 0, 4])?;
    let mut reply = [0; 17];
    stream
        .read_exact(&mut reply)
        .context("a reply of four registers")?;
    anyhow::ensure!(reply[7..9] == [3, 8], "{reply:?}");
    Ok(())
}
