//! Links that break and servers that go away.

use std::time::Duration;

use millrace_drivers::opcua::{Security, Settings, inspect, pin};
use millrace_drivers::sim::opcua::SimOpcua;
use millrace_drivers::{Driver, SessionError};

use crate::link::Link;
use crate::session::{PATIENCE, collect, counts, next, of};
use crate::simulated::{driver, settings, sim, sim_settings};

#[tokio::test]
async fn a_restart_breaks_the_session_and_the_next_one_starts_fresh() {
    let (mut sim, pki) = (sim().await, tempfile::tempdir().expect("pki"));
    let driver = driver(settings(&sim, pki.path()), &["Tick", "Fixed"]);
    let mut session = driver.open().await.expect("session");
    collect(&mut session, 5).await;
    sim.stop().await;
    let error = loop {
        if let Err(error) = next(&mut session).await {
            break error;
        }
    };
    assert!(!error.is_refusal(), "{error:?}");
    assert!(matches!(
        driver.open().await,
        Err(SessionError::Connect { .. })
    ));
    drop(session);

    sim.resume().await.expect("server");
    let before = std::time::SystemTime::now();
    let mut session = driver.open().await.expect("session");
    let samples = collect(&mut session, 4).await;
    let newest = of(&samples, 0)
        .last()
        .and_then(|s| s.source_time)
        .expect("a tick");
    let began = before
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    assert!(
        newest.0 >= began.as_nanos() as i64,
        "a value from before the restart"
    );
    assert_eq!(of(&samples, 1).len(), 1);
}

#[tokio::test]
async fn a_cut_link_loses_no_value_and_makes_no_second_session() {
    let (server_pki, pki) = (
        tempfile::tempdir().expect("pki"),
        tempfile::tempdir().expect("pki"),
    );
    let mut sim_settings = sim_settings();
    sim_settings.pki_dir = Some(server_pki.path().to_owned());
    let sim = SimOpcua::start(sim_settings).await.expect("server");
    for endpoint in inspect(&sim.url(), PATIENCE).await.expect("endpoints") {
        if let Some(der) = endpoint.certificate {
            pin(pki.path(), &der).expect("pinned");
        }
    }
    let link = Link::to(&sim.url()).await;
    for security in [Security::None, Security::BestOffered] {
        let mut settings = settings(&sim, pki.path());
        settings.url = link.url();
        settings.security = security;
        let driver = driver(settings, &["Count", "Fixed"]);
        let served = |name: &str| sim.served().nodes.get(name).copied().unwrap_or(0);
        let (counted, fixed) = (served("Count"), served("Fixed"));
        let mut session = driver.open().await.expect("session");
        let mut samples = Vec::new();
        for _ in 0..3 {
            samples.extend(collect(&mut session, 20).await);
            link.cut();
            while let Ok(reading) = next(&mut session).await {
                samples.extend(reading.samples);
            }
            session.close().await;
            // The server goes on counting meanwhile, and keeps what it counts for us.
            let missed = served("Count") + 10;
            while served("Count") < missed {
                tokio::task::yield_now().await;
            }
            session = driver.open().await.expect("session");
            assert_eq!(sim.sessions(), 1);
        }
        // A tag that does not change is read once after each cut: it was bad in between.
        while served("Fixed") < fixed + 2 {
            samples.extend(collect(&mut session, 1).await);
        }
        sim.freeze(true);
        while (counts(&samples, 0).len() as u64) < served("Count") - counted {
            samples.extend(collect(&mut session, 1).await);
        }
        let expected: Vec<u64> = (counted..served("Count")).collect();
        assert_eq!(counts(&samples, 0), expected);
        session.close().await;
        assert_eq!(sim.sessions(), 0);
        sim.freeze(false);
    }
}

/// Takes as long as three keep-alives.
#[tokio::test]
async fn a_silent_link_is_noticed_and_loses_no_value() {
    let (sim, pki) = (sim().await, tempfile::tempdir().expect("pki"));
    let link = Link::to(&sim.url()).await;
    let mut settings = settings(&sim, pki.path());
    settings.url = link.url();
    settings.timeout = Duration::from_secs(5);
    settings.queue_size = 10_000;
    let driver = driver(settings, &["Count"]);
    let mut session = driver.open().await.expect("session");
    let mut samples = collect(&mut session, 5).await;
    link.silence(true);
    let error = loop {
        match next(&mut session).await {
            Ok(reading) => samples.extend(reading.samples),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SessionError::Timeout { .. }), "{error:?}");
    session.close().await;
    assert!(driver.open().await.is_err(), "nobody answers");
    link.silence(false);
    let mut session = driver.open().await.expect("session");
    sim.freeze(true);
    while (samples.len() as u64) < sim.served().total {
        samples.extend(collect(&mut session, 1).await);
    }
    let expected: Vec<u64> = (0..sim.served().total).collect();
    assert_eq!(counts(&samples, 0), expected);
    assert_eq!(sim.sessions(), 1);
}

#[tokio::test]
async fn nobody_there_is_no_refusal() {
    let pki = tempfile::tempdir().expect("pki");
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("opc.tcp://{}", free.local_addr().expect("address"));
    drop(free);
    let settings = Settings::new("press", &url, pki.path());
    let error = driver(settings, &["Fixed"])
        .open()
        .await
        .err()
        .expect("nobody");
    assert!(matches!(error, SessionError::Connect { .. }), "{error:?}");
}

#[tokio::test]
async fn a_listener_that_says_nothing_times_out() {
    let pki = tempfile::tempdir().expect("pki");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("listener");
    let url = format!("opc.tcp://{}", silent.local_addr().expect("address"));
    let mut settings = Settings::new("press", &url, pki.path());
    settings.timeout = Duration::from_millis(200);
    let error = driver(settings, &["Fixed"])
        .open()
        .await
        .err()
        .expect("silence");
    assert!(matches!(error, SessionError::Timeout { .. }), "{error:?}");
}
