//! Real agents that are switched on at one moment, against one bootstrap service and one mosquitto.

use super::*;

/// `make soak-fleet` has 20; a few show the same in less time.
fn agents() -> usize {
    let told = std::env::var("MILLRACE_FLEET").ok();
    told.and_then(|told| told.parse().ok()).unwrap_or(4)
}

const SPREAD_S: f64 = 10.0;

#[test]
fn a_fleet_comes_up_and_asks_spread_out() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(directory.path())?;
    let count = agents();
    let mut gateways = serde_json::Map::new();
    for number in 0..count {
        let id = format!("fleet-{number}");
        let content = format!(
            "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{}\"\nclient_id = \"{id}\"\n",
            broker.port
        );
        let reply = json!({"thing_id": id, "thing_key": PLANTED_SECRET, "content": content});
        gateways.insert(id, json!({"key": KEY, "reply": reply}));
    }
    std::fs::write(
        directory.path().join("gateways.json"),
        Value::Object(gateways).to_string(),
    )?;
    let peer = Peer::start(
        "bootstrap_server.py",
        &["--gateways", "gateways.json"],
        directory.path(),
    )?;
    let port = peer.ready["port"].as_u64().context("it says its port")?;
    let mut fleet = Vec::new();
    for number in 0..count {
        let place = directory.path().join(format!("fleet-{number}"));
        std::fs::create_dir(&place)?;
        let mut gateway = Gateway::new(&place);
        gateway.write("bootstrap.key", KEY)?;
        gateway.configure(&format!(
            "[bootstrap]\nprovider = \"mainflux\"\nurl = \"http://127.0.0.1:{port}/things/bootstrap\"\n\
             external_id = \"fleet-{number}\"\nexternal_key_file = \"bootstrap.key\"\nspread = \"{SPREAD_S}s\"\n"
        ))?;
        gateway.launch(&[])?;
        fleet.push(gateway);
    }
    let began = std::time::Instant::now();
    for gateway in &fleet {
        wait_state(gateway, "ready")?;
        let status = gateway.json(&["status"])?;
        assert_eq!(status["uplinks"][0]["state"], "connected", "{status}");
    }
    let took = began.elapsed();
    let said = peer.said();
    let mut asked: Vec<f64> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for request in &said {
        if seen.insert(request["path"].to_string()) {
            asked.extend(request["at"].as_f64());
        }
    }
    asked.sort_by(f64::total_cmp);
    let span = asked
        .last()
        .zip(asked.first())
        .map_or(0.0, |(last, first)| last - first);
    eprintln!(
        "fleet: {count} agents up {took:.1?} after the last was started; first requests over {span:.1} s of {SPREAD_S} s, {} requests",
        said.len()
    );
    assert_eq!(asked.len(), count);
    assert_eq!(said.len(), count, "one request each was enough");
    // A few names say little of a spread.
    if count >= 20 {
        assert!(span >= 0.8 * SPREAD_S, "{span}");
    }
    Ok(())
}
