//! Against our own simulated server.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millrace_drivers::opcua::{
    Auth, Collect, Item, Mode, NodeAddress, OpcuaDriver, Policy, Security, Settings, inspect, pin,
    read_once,
};
use millrace_drivers::sim::opcua::{
    NAMESPACE_URI, SimNode, SimOpcua, SimOpcuaSettings, SimType, nodes_from_csv,
};
use millrace_drivers::{Driver, Session, SessionError};
use millrace_tags::{Quality, Reason, SystemClock, TagId, Value};
use tempfile::TempDir;

use crate::link::Link;
use crate::session::{PATIENCE, collect, counts, next, of};

const NODES: &str = "name,type,signal
Count,u32,counter
Tick,i64,tick 20ms
Level,f64,sine 50 10 3s
Fixed,f32,constant 4.5
Name,string,text PUMP-01
";

fn nodes() -> Vec<SimNode> {
    nodes_from_csv(NODES.as_bytes()).expect("nodes")
}

fn sim_settings() -> SimOpcuaSettings {
    SimOpcuaSettings {
        interval: Duration::from_millis(20),
        ..SimOpcuaSettings::new("127.0.0.1:0".parse().expect("address"), nodes())
    }
}

async fn sim() -> SimOpcua {
    SimOpcua::start(sim_settings())
        .await
        .expect("simulated server")
}

fn settings(sim: &SimOpcua, pki: &Path) -> Settings {
    Settings {
        security: Security::None,
        publish_interval: Duration::from_millis(50),
        sampling_interval: Some(Duration::ZERO),
        timeout: PATIENCE,
        ..Settings::new("press", &sim.url(), pki)
    }
}

fn items(names: &[&str]) -> Vec<Item> {
    let tags = (0..).map(TagId);
    names
        .iter()
        .zip(tags)
        .map(|(name, tag)| Item {
            tag,
            node: NodeAddress::named(NAMESPACE_URI, name),
            interval: Duration::from_millis(100),
        })
        .collect()
}

fn driver(settings: Settings, names: &[&str]) -> OpcuaDriver {
    OpcuaDriver::new(settings, items(names), Arc::new(SystemClock::new()))
}

fn refused(result: Result<Box<dyn Session>, SessionError>) -> String {
    match result {
        Err(error) if error.is_refusal() => error.to_string(),
        Err(error) => panic!("not a refusal: {error:?}"),
        Ok(_) => panic!("the session was opened"),
    }
}

/// Makes no password public in a file name or an argument.
fn password(dir: &TempDir, text: &str) -> Auth {
    let password_file = dir.path().join("password");
    std::fs::write(&password_file, text).expect("password file");
    Auth::UserName {
        user: "gateway".to_owned(),
        password_file,
    }
}

#[tokio::test]
async fn subscription_brings_every_value_that_was_served() {
    let (sim, pki) = (sim().await, tempfile::tempdir().expect("pki"));
    let driver = driver(
        settings(&sim, pki.path()),
        &["Count", "Tick", "Level", "Fixed", "Name"],
    );
    assert!(driver.poll_groups().is_empty());
    let mut session = driver.open().await.expect("session");
    let mut samples = collect(&mut session, 200).await;
    sim.freeze(true);
    let served = sim.served();
    while (samples.len() as u64) < served.total {
        samples.extend(collect(&mut session, 1).await);
    }
    assert_eq!(samples.len() as u64, served.total);

    let mut counted: BTreeMap<u32, u64> = BTreeMap::new();
    for sample in &samples {
        assert_eq!(sample.quality, Quality::Good);
        assert!(sample.source_time.is_some());
        *counted.entry(sample.tag.0).or_default() += 1;
    }
    for (tag, name) in ["Count", "Tick", "Level", "Fixed", "Name"]
        .iter()
        .enumerate()
    {
        assert_eq!(counted[&(tag as u32)], served.nodes[*name], "{name}");
    }
    // The counter goes on by one each time it is served, so a hole or a repetition would show.
    let counts: Vec<Value> = of(&samples, 0)
        .iter()
        .filter_map(|s| s.value.clone())
        .collect();
    let expected: Vec<Value> = (0..served.nodes["Count"]).map(Value::U64).collect();
    assert_eq!(counts, expected);
    assert_eq!(of(&samples, 3)[0].value, Some(Value::F32(4.5)));
    assert_eq!(
        of(&samples, 4)[0].value,
        Some(Value::Text("PUMP-01".into()))
    );
    session.close().await;
}

#[tokio::test]
async fn a_bad_node_costs_only_itself() {
    let (sim, pki) = (sim().await, tempfile::tempdir().expect("pki"));
    let driver = driver(settings(&sim, pki.path()), &["Nowhere", "Fixed"]);
    let mut session = driver.open().await.expect("session");
    let samples = collect(&mut session, 2).await;
    assert_eq!(
        of(&samples, 0)[0].quality,
        Quality::Bad(Reason::IllegalAddress)
    );
    assert_eq!(of(&samples, 1)[0].value, Some(Value::F32(4.5)));
    let remarks = session.remarks().join("\n");
    assert!(remarks.contains("s=Nowhere"), "{remarks}");
    assert!(!remarks.contains("s=Fixed"), "{remarks}");
}

#[tokio::test]
async fn an_unknown_namespace_is_a_bad_node() {
    let (sim, pki) = (sim().await, tempfile::tempdir().expect("pki"));
    let mut all = items(&["Fixed", "Fixed"]);
    all[0].node = "nsu=urn:elsewhere;s=Fixed".parse().expect("address");
    let clock = Arc::new(SystemClock::new());
    for collect_by in [Collect::Subscribe, Collect::Poll] {
        let mut settings = settings(&sim, pki.path());
        settings.collect = collect_by;
        let driver = OpcuaDriver::new(settings, all.clone(), clock.clone());
        let mut session = driver.open().await.expect("session");
        let samples = match collect_by {
            Collect::Subscribe => collect(&mut session, 2).await,
            Collect::Poll => session.read(0).await.expect("reading").samples,
        };
        assert_eq!(
            of(&samples, 0)[0].quality,
            Quality::Bad(Reason::IllegalAddress)
        );
        assert_eq!(of(&samples, 1)[0].quality, Quality::Good);
    }
}

#[tokio::test]
async fn a_fault_of_a_node_is_a_bad_sample_and_heals() {
    const BAD_SENSOR_FAILURE: u32 = 0x808C_0000;
    let (sim, pki) = (sim().await, tempfile::tempdir().expect("pki"));
    let driver = driver(settings(&sim, pki.path()), &["Fixed"]);
    let mut session = driver.open().await.expect("session");
    assert_eq!(collect(&mut session, 1).await[0].quality, Quality::Good);
    sim.set_status("Fixed", Some(BAD_SENSOR_FAILURE));
    let sick = collect(&mut session, 1).await;
    assert_eq!(
        sick[0].quality,
        Quality::Bad(Reason::Status(BAD_SENSOR_FAILURE))
    );
    assert_eq!(sick[0].value, None);
    sim.set_status("Fixed", None);
    let healed = collect(&mut session, 1).await;
    assert_eq!(healed[0].value, Some(Value::F32(4.5)));
    assert_eq!(sim.served().total, 3);
}

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
async fn polling_reads_each_group_in_batches() {
    let (sim, pki) = (sim().await, tempfile::tempdir().expect("pki"));
    let mut settings = settings(&sim, pki.path());
    settings.collect = Collect::Poll;
    let mut all = items(&["Count", "Fixed", "Nowhere"]);
    all[1].interval = Duration::from_secs(5);
    let driver = OpcuaDriver::new(settings, all, Arc::new(SystemClock::new()));
    let groups: Vec<Vec<TagId>> = driver
        .poll_groups()
        .iter()
        .map(|g| g.tags.clone())
        .collect();
    assert_eq!(groups, [vec![TagId(0), TagId(2)], vec![TagId(1)]]);

    let mut session = driver.open().await.expect("session");
    for _ in 0..3 {
        let reading = session.read(0).await.expect("reading");
        assert!(matches!(
            of(&reading.samples, 0)[0].value,
            Some(Value::U64(0..3))
        ));
        let nowhere = of(&reading.samples, 2)[0];
        assert_eq!(nowhere.quality, Quality::Bad(Reason::IllegalAddress));
    }
    let slow = session.read(1).await.expect("reading");
    assert_eq!(slow.samples[0].value, Some(Value::F32(4.5)));
    assert_eq!(sim.served().total, 4);
    assert!(session.remarks().join("\n").contains("s=Nowhere"));
    session.close().await;
}

#[tokio::test]
async fn items_that_one_subscription_has_no_room_for_get_another() {
    let mut sim_settings = sim_settings();
    sim_settings.items_max = 2;
    let sim = SimOpcua::start(sim_settings).await.expect("server");
    let pki = tempfile::tempdir().expect("pki");
    let names = ["Fixed", "Fixed", "Fixed", "Name", "Name"];
    let driver = driver(settings(&sim, pki.path()), &names);
    let mut session = driver.open().await.expect("session");
    let samples = collect(&mut session, names.len()).await;
    let tags: std::collections::BTreeSet<TagId> = samples.iter().map(|s| s.tag).collect();
    assert_eq!(tags.len(), names.len());
    assert!(
        samples.iter().all(|s| s.quality == Quality::Good),
        "{samples:?}"
    );
}

#[tokio::test]
async fn an_untrusted_server_is_refused_until_it_is_pinned() {
    let (server_pki, pki) = (
        tempfile::tempdir().expect("pki"),
        tempfile::tempdir().expect("pki"),
    );
    let mut sim_settings = sim_settings();
    sim_settings.pki_dir = Some(server_pki.path().to_owned());
    let sim = SimOpcua::start(sim_settings).await.expect("server");
    let mut settings = settings(&sim, pki.path());
    settings.security = Security::BestOffered;
    let driver = driver(settings.clone(), &["Fixed"]);

    let endpoints = inspect(&sim.url(), PATIENCE).await.expect("endpoints");
    assert_eq!(endpoints.len(), 7);
    let secured = endpoints
        .iter()
        .find(|e| e.policy == "Basic256Sha256")
        .expect("secured");
    let thumbprint = secured.thumbprint.clone().expect("thumbprint");

    let said = refused(driver.open().await);
    assert!(said.contains(&thumbprint), "{said}");
    assert!(
        said.contains("millrace trust opc.tcp://127.0.0.1"),
        "{said}"
    );

    let der = secured.certificate.clone().expect("certificate");
    assert_eq!(pin(pki.path(), &der).expect("pinned"), thumbprint);
    let mut session = driver.open().await.expect("session");
    assert_eq!(
        collect(&mut session, 1).await[0].value,
        Some(Value::F32(4.5))
    );
    let remarks = session.remarks();
    assert_eq!(remarks, ["security Aes256Sha256RsaPss sign-and-encrypt"]);
    session.close().await;

    for policy in [
        Policy::Basic256Sha256,
        Policy::Aes128Sha256RsaOaep,
        Policy::Aes256Sha256RsaPss,
    ] {
        for mode in [Mode::Sign, Mode::SignAndEncrypt] {
            settings.security = Security::Policy { policy, mode };
            let node = NodeAddress::named(NAMESPACE_URI, "Fixed");
            let (value, quality, _) = read_once(settings.clone(), &node).await.expect("read");
            assert_eq!((value, quality), (Some(Value::F32(4.5)), Quality::Good));
        }
    }

    let other = tempfile::tempdir().expect("pki");
    let file = other.path().join("server.der");
    std::fs::write(&file, der).expect("certificate file");
    settings.pki_dir = other.path().to_owned();
    settings.server_cert_file = Some(file);
    let node = NodeAddress::named(NAMESPACE_URI, "Fixed");
    assert!(
        read_once(settings, &node).await.is_ok(),
        "pinned by configuration"
    );
}

#[tokio::test]
async fn user_names_are_let_in_by_their_password() {
    let (server_pki, pki) = (
        tempfile::tempdir().expect("pki"),
        tempfile::tempdir().expect("pki"),
    );
    let mut sim_settings = sim_settings();
    sim_settings.pki_dir = Some(server_pki.path().to_owned());
    sim_settings.user = Some(("gateway".to_owned(), "correct horse".to_owned()));
    let sim = SimOpcua::start(sim_settings).await.expect("server");
    for endpoint in inspect(&sim.url(), PATIENCE).await.expect("endpoints") {
        if let Some(der) = endpoint.certificate {
            pin(pki.path(), &der).expect("pinned");
        }
    }
    for security in [Security::None, Security::BestOffered] {
        let mut settings = settings(&sim, pki.path());
        settings.security = security;
        settings.auth = password(&pki, "correct horse\n");
        let mut session = driver(settings.clone(), &["Fixed"])
            .open()
            .await
            .expect("session");
        collect(&mut session, 1).await;
        let unprotected = session
            .remarks()
            .iter()
            .any(|r| r.contains("nothing protects"));
        assert_eq!(unprotected, security == Security::None);
        session.close().await;

        settings.auth = password(&pki, "wrong horse");
        let said = refused(driver(settings.clone(), &["Fixed"]).open().await);
        assert!(said.contains("password_file"), "{said}");
        assert!(!said.contains("wrong horse"), "{said}");

        settings.auth = Auth::UserName {
            user: "gateway".to_owned(),
            password_file: pki.path().join("missing"),
        };
        let said = refused(driver(settings, &["Fixed"]).open().await);
        assert!(said.contains("missing"), "{said}");
    }
}

#[tokio::test]
async fn a_security_that_is_not_offered_is_refused_with_what_is() {
    let (sim, pki) = (sim().await, tempfile::tempdir().expect("pki"));
    let mut settings = settings(&sim, pki.path());
    settings.security = Security::BestOffered;
    let said = refused(driver(settings, &["Fixed"]).open().await);
    assert!(said.contains("it offers None"), "{said}");
}

#[tokio::test]
async fn types_arrive_as_they_are() {
    let types = [
        ("b", SimType::Bool, Value::Bool(true)),
        ("i8", SimType::I8, Value::I64(7)),
        ("u8", SimType::U8, Value::U64(7)),
        ("i16", SimType::I16, Value::I64(7)),
        ("u16", SimType::U16, Value::U64(7)),
        ("i32", SimType::I32, Value::I64(7)),
        ("u32", SimType::U32, Value::U64(7)),
        ("i64", SimType::I64, Value::I64(7)),
        ("u64", SimType::U64, Value::U64(7)),
        ("f32", SimType::F32, Value::F32(7.0)),
        ("f64", SimType::F64, Value::F64(7.0)),
        ("text", SimType::Text, Value::Text("7".into())),
    ];
    let mut sim_settings = sim_settings();
    sim_settings.nodes = types
        .iter()
        .map(|(name, kind, _)| SimNode {
            name: (*name).to_owned(),
            kind: *kind,
            signal: "constant 7".parse().expect("signal"),
        })
        .collect();
    let sim = SimOpcua::start(sim_settings).await.expect("server");
    let pki = tempfile::tempdir().expect("pki");
    for (name, _, value) in types {
        let node = NodeAddress::named(NAMESPACE_URI, name);
        let read = read_once(settings(&sim, pki.path()), &node)
            .await
            .expect(name);
        assert_eq!(read.0, Some(value), "{name}");
    }
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
