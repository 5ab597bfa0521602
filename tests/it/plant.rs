//! The plant of the tests: tick counters on Modbus and OPC UA, and the configuration to read them.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use millrace_tests::agent::Gateway;
use millrace_tests::peer::Peer;
use millrace_tests::ports::free_port;

/// Tags of each device.
pub(crate) const TAGS: u64 = 200;

/// Ticks a second of the Modbus device: faster than it is polled, so that nearly every reply differs.
pub(crate) const MODBUS_RATE: f64 = 100.0;

/// Ticks a second of the OPC UA server: each one is a notification.
pub(crate) const OPCUA_RATE: f64 = 2.0;

/// A Modbus device with 200 tick counters, and the file in which it writes down what it serves.
pub(crate) fn start_pump(directory: &Path, extra: &[&str]) -> Result<(Peer, u16)> {
    let port = free_port()?;
    let (port_text, tags, rate) = (port.to_string(), TAGS.to_string(), MODBUS_RATE.to_string());
    let mut args = vec![
        "--port",
        &port_text,
        "--tags",
        &tags,
        "--rate",
        &rate,
        "--log",
        "served.jsonl",
    ];
    args.extend(extra);
    Ok((Peer::start("modbus_ticks.py", &args, directory)?, port))
}

/// An OPC UA server with 200 tick counters behind Basic256Sha256 and a password.
pub(crate) fn start_ticks(directory: &Path) -> Result<(Peer, u16)> {
    let port = free_port()?;
    let (port_text, variables, rate) = (port.to_string(), TAGS.to_string(), OPCUA_RATE.to_string());
    let args = [
        "--port",
        &port_text,
        "--variables",
        &variables,
        "--rate",
        &rate,
        "--security",
        "Basic256Sha256",
        "--user",
        "operator:tick-tock",
    ];
    Ok((Peer::start("opcua_ticks.py", &args, directory)?, port))
}

/// Configuration of the Modbus device, with its tags beside it.
pub(crate) fn pump_config(gateway: &Gateway, port: u16, poll_interval: &str) -> Result<String> {
    let mut tags = String::from("name,address,type\n");
    for index in 0..TAGS {
        let _ = writeln!(tags, "t{index},holding:{},u32", 2 * index);
    }
    gateway.write("pump.csv", &tags)?;
    Ok(format!(
        "[[device]]\nname = \"pump\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:{port}\"\nunit_id = 1\n\
         poll_interval = \"{poll_interval}\"\ntimeout = \"1s\"\ntags_file = \"pump.csv\"\n\n"
    ))
}

/// Configuration of the OPC UA server, whose certificate is in `directory`.
pub(crate) fn ticks_config(gateway: &Gateway, port: u16, directory: &Path) -> Result<String> {
    let mut tags = String::from("name,address,type\n");
    for index in 0..TAGS {
        let _ = writeln!(tags, "t{index},nsu=urn:millrace:ticks;s=tick.{index},u32");
    }
    gateway.write("ticks.csv", &tags)?;
    gateway.write("ticks.password", "tick-tock")?;
    Ok(format!(
        "[[device]]\nname = \"ticks\"\ndriver = \"opcua\"\naddress = \"opc.tcp://127.0.0.1:{port}/ticks\"\n\
         security = \"Basic256Sha256\"\nmode = \"sign-and-encrypt\"\nserver_cert_file = \"{}\"\n\
         username = \"operator\"\npassword_file = \"ticks.password\"\npublish_interval = \"500ms\"\n\
         sampling_interval = \"100ms\"\nqueue_size = 50\ntags_file = \"ticks.csv\"\n\n",
        directory.join("server-cert.der").display()
    ))
}

/// Configuration of the uplink to a broker on loopback.
pub(crate) fn uplink_config(port: u16) -> String {
    format!(
        "[[uplink]]\nname = \"cloud\"\nprofile = \"generic\"\nurl = \"mqtt://127.0.0.1:{port}\"\n\n"
    )
}

/// A Modbus device with few inline tags at the addresses of tick counters.
pub(crate) fn small_pump_config(port: u16, indices: &[u64]) -> String {
    let mut text = format!(
        "[[device]]\nname = \"pump\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:{port}\"\nunit_id = 1\n\
         poll_interval = \"200ms\"\ntimeout = \"1s\"\n\n"
    );
    for index in indices {
        let _ = write!(
            text,
            "[[device.tag]]\nname = \"t{index}\"\naddress = \"holding:{}\"\ntype = \"u32\"\n\n",
            2 * index
        );
    }
    text
}
