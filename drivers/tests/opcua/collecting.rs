//! What a session brings from our simulated server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_drivers::Driver;
use millrace_drivers::opcua::{Collect, NodeAddress, OpcuaDriver, read_once};
use millrace_drivers::sim::opcua::{NAMESPACE_URI, SimNode, SimOpcua, SimType};
use millrace_tags::{Quality, Reason, SystemClock, TagId, Value};

use crate::session::{collect, excluded, of};
use crate::simulated::{driver, items, settings, sim, sim_settings};

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
    let excluded = excluded(&*session);
    assert!(excluded.contains("s=Nowhere"), "{excluded}");
    assert!(!excluded.contains("s=Fixed"), "{excluded}");
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
    assert!(excluded(&*session).contains("s=Nowhere"));
    session.close().await;
}

#[tokio::test]
async fn items_that_one_subscription_has_no_room_for_get_another() {
    let mut sim_settings = sim_settings();
    sim_settings.faults.items_max = Some(2);
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
