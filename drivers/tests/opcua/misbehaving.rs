//! Each fault of the simulated server, as our driver sees it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millrace_drivers::opcua::{
    Collect, NodeAddress, OpcuaDriver, Security, inspect, pin, read_once,
};
use millrace_drivers::sim::opcua::{NAMESPACE_URI, SimOpcua, SimOpcuaSettings, Upset};
use millrace_drivers::{Driver, SessionError};
use millrace_tags::{Quality, Reason, Sample, SystemClock, Value};

use crate::session::{PATIENCE, collect, next, of};
use crate::simulated::{driver, items, settings, sim_settings};

async fn sim_with(faults: &[&str]) -> SimOpcua {
    let mut settings = sim_settings();
    for words in faults {
        settings.faults.add(words).expect(words);
    }
    SimOpcua::start(settings).await.expect("server")
}

/// More nodes than any limit here.
async fn hundred_with(faults: &[&str]) -> (SimOpcua, Vec<String>) {
    let names: Vec<String> = (0..100).map(|count| format!("N{count}")).collect();
    let lines = names.iter().map(|name| format!("{name},u32,constant 7\n"));
    let csv = format!("name,type,signal\n{}", lines.collect::<String>());
    let nodes = millrace_drivers::sim::opcua::nodes_from_csv(csv.as_bytes()).expect("nodes");
    let mut settings = SimOpcuaSettings::new("127.0.0.1:0".parse().expect("address"), nodes);
    for words in faults {
        settings.faults.add(words).expect(words);
    }
    (SimOpcua::start(settings).await.expect("server"), names)
}

async fn happened(sim: &SimOpcua, name: &str) {
    let happened = async {
        while !sim.happened().contains_key(name) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, happened).await.expect(name);
}

#[tokio::test]
async fn a_timed_restart_breaks_the_session_once() {
    let sim = sim_with(&["restart 200ms at 500ms"]).await;
    let pki = tempfile::tempdir().expect("pki");
    let driver = driver(settings(&sim, pki.path()), &["Tick"]);
    let mut session = driver.open().await.expect("session");
    let error = loop {
        if let Err(error) = next(&mut session).await {
            break error;
        }
    };
    assert!(matches!(error, SessionError::Lost { .. }), "{error:?}");
    session.close().await;
    happened(&sim, "restart").await;
    let mut session = loop {
        match driver.open().await {
            Ok(session) => break session,
            Err(error) => assert!(!error.is_refusal(), "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    collect(&mut session, 5).await;
    assert_eq!((sim.sessions(), sim.sessions_peak()), (1, 1));
}

#[tokio::test]
async fn dropped_connections_leave_the_session_and_lose_nothing() {
    let mut sim_settings = sim_settings();
    sim_settings.history = 10_000;
    let sim = SimOpcua::start(sim_settings).await.expect("server");
    let pki = tempfile::tempdir().expect("pki");
    let driver = driver(settings(&sim, pki.path()), &["Tick"]);
    let mut session = driver.open().await.expect("session");
    let mut samples = collect(&mut session, 10).await;
    for _ in 0..2 {
        sim.happen(Upset::Drop).await.expect("dropped");
        let error = loop {
            match next(&mut session).await {
                Ok(reading) => samples.extend(reading.samples),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, SessionError::Lost { .. }), "{error:?}");
        session.close().await;
        session = driver.open().await.expect("session");
        samples.extend(collect(&mut session, 10).await);
    }
    sim.freeze(true);
    let recorded = sim.recorded("Tick");
    let last = recorded.last().expect("a value").number as i64;
    let number = |sample: &Sample| match sample.value {
        Some(Value::I64(number)) => number,
        _ => panic!("{sample:?}"),
    };
    while !samples.iter().any(|sample| number(sample) == last) {
        samples.extend(collect(&mut session, 1).await);
    }
    // A resumed session may read a node once more.
    let came: BTreeSet<i64> = samples.iter().map(number).collect();
    let first = came.first().copied();
    let recorded = recorded.iter().map(|value| value.number as i64);
    let expected: BTreeSet<i64> = recorded.filter(|number| first <= Some(*number)).collect();
    assert!(expected.is_subset(&came), "{came:?}");
    assert_eq!(sim.sessions_peak(), 1);
}

#[tokio::test]
async fn a_blackhole_takes_connections_and_says_nothing() {
    let sim = sim_with(&["blackhole 2s at 1ms"]).await;
    let pki = tempfile::tempdir().expect("pki");
    happened(&sim, "blackhole").await;
    let mut settings = settings(&sim, pki.path());
    settings.timeout = Duration::from_millis(300);
    let error = driver(settings.clone(), &["Fixed"])
        .open()
        .await
        .err()
        .expect("silence");
    assert!(matches!(error, SessionError::Timeout { .. }), "{error:?}");
    settings.timeout = PATIENCE;
    let mut session = driver(settings, &["Fixed"]).open().await.expect("session");
    collect(&mut session, 1).await;
}

#[tokio::test]
async fn a_new_certificate_is_not_trusted() {
    let (server_pki, pki) = (
        tempfile::tempdir().expect("pki"),
        tempfile::tempdir().expect("pki"),
    );
    let mut sim_settings = sim_settings();
    sim_settings.pki_dir = Some(server_pki.path().to_owned());
    let sim = SimOpcua::start(sim_settings).await.expect("server");
    let pinned = async || {
        let endpoints = inspect(&sim.url(), PATIENCE).await.expect("endpoints");
        let der = endpoints.into_iter().find_map(|e| e.certificate);
        pin(pki.path(), &der.expect("certificate")).expect("pinned")
    };
    let before = pinned().await;
    let mut settings = settings(&sim, pki.path());
    settings.security = Security::BestOffered;
    let driver = driver(settings, &["Fixed"]);
    let mut session = driver.open().await.expect("session");
    collect(&mut session, 1).await;
    session.close().await;
    sim.happen(Upset::NewCertificate).await.expect("renewed");
    let error = driver.open().await.err().expect("another certificate");
    assert!(error.is_refusal(), "{error:?}");
    assert_ne!(pinned().await, before);
    driver.open().await.expect("trusted again");
}

#[tokio::test]
async fn without_a_directory_there_is_no_new_certificate() {
    let sim = sim_with(&[]).await;
    let error = sim.happen(Upset::NewCertificate).await.expect_err("none");
    assert!(error.to_string().contains("directory"), "{error}");
    let mut settings = sim_settings();
    let words = "new-certificate at 1s";
    settings.faults.add(words).expect("words");
    assert!(SimOpcua::start(settings).await.is_err());
}

#[tokio::test]
async fn reordered_namespaces_are_looked_up_again() {
    let sim = sim_with(&[]).await;
    let pki = tempfile::tempdir().expect("pki");
    let by_index: NodeAddress = "ns=2;s=Fixed".parse().expect("address");
    let by_uri = NodeAddress::named(NAMESPACE_URI, "Fixed");
    let read = async |node: &NodeAddress| {
        let read = read_once(settings(&sim, pki.path()), node).await;
        read.expect("a session").1
    };
    assert_eq!(read(&by_index).await, Quality::Good);
    sim.happen(Upset::Reorder).await.expect("reordered");
    assert_eq!(read(&by_index).await, Quality::Bad(Reason::IllegalAddress));
    assert_eq!(read(&by_uri).await, Quality::Good);
    sim.happen(Upset::Reorder).await.expect("reordered");
    assert_eq!(read(&by_index).await, Quality::Good);
}

#[tokio::test]
async fn bad_nodes_are_those_that_the_server_has_taken_away() {
    let (sim, names) = hundred_with(&["bad-nodes 7"]).await;
    let pki = tempfile::tempdir().expect("pki");
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let driver = driver(settings(&sim, pki.path()), &names);
    let mut session = driver.open().await.expect("session");
    let samples = collect(&mut session, names.len()).await;
    let bad = samples
        .iter()
        .filter(|s| s.quality == Quality::Bad(Reason::IllegalAddress));
    let bad: BTreeSet<&str> = bad.map(|s| names[s.tag.0 as usize]).collect();
    let missing: BTreeSet<&str> = sim.missing().iter().map(String::as_str).collect();
    assert_eq!((bad.len(), bad), (7, missing));
}

#[tokio::test]
async fn limits_split_requests_and_subscriptions() {
    let limits = ["limit-items 30", "limit-item-calls 8", "limit-reads 9"];
    let (sim, names) = hundred_with(&limits).await;
    let pki = tempfile::tempdir().expect("pki");
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut settings = settings(&sim, pki.path());
    let mut session = driver(settings.clone(), &names)
        .open()
        .await
        .expect("session");
    let samples = collect(&mut session, names.len()).await;
    let tags: BTreeSet<u32> = samples.iter().map(|s| s.tag.0).collect();
    assert_eq!(tags.len(), names.len());
    assert!(samples.iter().all(|s| s.quality.is_good()), "{samples:?}");
    session.close().await;

    settings.collect = Collect::Poll;
    let mut session = driver(settings, &names).open().await.expect("session");
    let reading = session.read(0).await.expect("reading");
    assert_eq!(reading.samples.len(), names.len());
    assert!(reading.samples.iter().all(|s| s.quality.is_good()));
}

#[tokio::test]
async fn slow_publishing_is_remarked() {
    let sim = sim_with(&["slow-publish 700ms"]).await;
    let pki = tempfile::tempdir().expect("pki");
    let mut session = driver(settings(&sim, pki.path()), &["Fixed"])
        .open()
        .await
        .expect("session");
    collect(&mut session, 1).await;
    let remarks = session.remarks().join("\n");
    assert!(remarks.contains("every 700 ms instead of"), "{remarks}");
}

#[tokio::test]
async fn a_clock_that_is_off_shows_in_all_times() {
    const HOUR_NS: i64 = 3_600_000_000_000;
    let sim = sim_with(&["clock -2h"]).await;
    let pki = tempfile::tempdir().expect("pki");
    let driver = OpcuaDriver::new(
        settings(&sim, pki.path()),
        items(&["Tick"]),
        Arc::new(SystemClock::new()),
    );
    let mut session = driver.open().await.expect("session");
    let samples = collect(&mut session, 2).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("1970");
    let age = now.as_nanos() as i64 - of(&samples, 0)[1].source_time.expect("a time").0;
    assert!((2 * HOUR_NS..2 * HOUR_NS + HOUR_NS).contains(&age), "{age}");
    session.close().await;
    let current_time: NodeAddress = "i=2258".parse().expect("address");
    let read = read_once(settings(&sim, pki.path()), &current_time).await;
    let (value, _, source_time) = read.expect("a session");
    assert!(matches!(value, Some(Value::Text(_))), "{value:?}");
    let age = now.as_nanos() as i64 - source_time.expect("a time").0;
    assert!((HOUR_NS..3 * HOUR_NS).contains(&age), "{age}");
}

#[tokio::test]
async fn values_without_a_time_of_their_own_have_the_servers() {
    let sim = sim_with(&["no-source-time"]).await;
    let pki = tempfile::tempdir().expect("pki");
    for collect_by in [Collect::Subscribe, Collect::Poll] {
        let mut settings = settings(&sim, pki.path());
        settings.collect = collect_by;
        let driver = driver(settings, &["Fixed", "Nowhere"]);
        let mut session = driver.open().await.expect("session");
        let samples = match collect_by {
            Collect::Subscribe => collect(&mut session, 2).await,
            Collect::Poll => session.read(0).await.expect("reading").samples,
        };
        assert!(of(&samples, 0)[0].source_time.is_some(), "{samples:?}");
        session.close().await;
    }
}
