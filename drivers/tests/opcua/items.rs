//! Many items, bad ones among them; paths, parts of arrays, deadbands; servers that do not subscribe, and whose clock is off.

use std::sync::Arc;
use std::time::Duration;

use millrace_drivers::opcua::{Collect, Item, OpcuaDriver, Security, ServerDeadband, Settings};
use millrace_drivers::{Driver, Session};
use millrace_tags::{Quality, Reason, Sample, SystemClock, TagId, Value};

use crate::link::Link;
use crate::plant::{Kind, Options, Plant, is_full, node};
use crate::session::{PATIENCE, collect, excluded, of};

fn item(tag: u32, address: &str) -> Item {
    let node = address.parse().expect("address");
    Item::new(TagId(tag), node, Duration::from_millis(100))
}

async fn open(settings: Settings, items: Vec<Item>) -> Box<dyn Session> {
    let driver = OpcuaDriver::new(settings, items, Arc::new(SystemClock::new()));
    driver.open().await.expect("session")
}

fn started(kind: Kind, spare: usize) -> Option<Plant> {
    let options = Options {
        spare,
        ..Options::default()
    };
    let mut plant = Plant::new(kind, options)?;
    plant.start();
    Some(plant)
}

#[tokio::test]
async fn one_item_in_two_hundred_is_invalid_and_named() {
    let (good, bad) = if is_full() { (9_950, 50) } else { (1_990, 10) };
    let Some(plant) = started(Kind::Asyncua, good) else {
        return;
    };
    let settings = Settings {
        timeout: PATIENCE,
        keep_alive: Duration::from_secs(5),
        ..plant.settings(&plant.url(), Security::None)
    };
    // The invalid ones lie between the others.
    let every = (good + bad) / bad;
    let name = |place: usize| match place % every {
        0 => format!("Nowhere{}", place / every),
        _ => format!("Spare{}", place - place / every - 1),
    };
    let items = (0..good + bad).map(|place| {
        Item::new(
            TagId(place as u32),
            node(&name(place)),
            Duration::from_secs(1),
        )
    });
    let mut session = open(settings, items.collect()).await;
    let samples = collect(&mut session, good + bad).await;
    let mut seen = vec![false; good + bad];
    for sample in &samples {
        let place = sample.tag.0 as usize;
        seen[place] = true;
        match place % every {
            0 => assert_eq!(sample.quality, Quality::Bad(Reason::IllegalAddress)),
            _ => {
                let count = place - place / every - 1;
                assert_eq!(sample.value, Some(Value::U64(count as u64)));
            }
        }
    }
    assert!(seen.iter().all(|seen| *seen));
    let excluded = excluded(&*session);
    assert_eq!(excluded.lines().count(), bad);
    for nth in 0..bad {
        let named = format!("s=Nowhere{nth}: ");
        assert!(excluded.contains(&named), "{named}");
    }
    session.close().await;
}

/// asyncua sends whole arrays, whatever part is asked for; node-opcua sends the part.
#[tokio::test]
async fn paths_and_parts_of_arrays_are_found() {
    for kind in [Kind::Asyncua, Kind::NodeOpcua] {
        let Some(plant) = started(kind, 0) else {
            continue;
        };
        let array = "nsu=urn:millrace:plant;s=Array";
        let items = vec![
            item(0, &format!("index=3;{array}")),
            item(1, &format!("index=1:2;{array}")),
            item(2, "nsu=urn:millrace:plant;path=Plant/Fixed"),
            item(3, "index=0;nsu=urn:millrace:plant;path=Plant/Array"),
            item(4, "nsu=urn:millrace:plant;path=Plant/Nothing"),
        ];
        let settings = plant.settings(&plant.url(), Security::None);
        let mut session = open(settings, items).await;
        let samples = collect(&mut session, 5).await;
        let value = |tag: u32| of(&samples, tag)[0].value.clone();
        assert_eq!(value(0), Some(Value::I64(40)), "{kind:?}");
        assert_eq!(value(1), Some(Value::Json("[20,30]".into())), "{kind:?}");
        assert_eq!(value(2), Some(Value::F32(4.5)), "{kind:?}");
        assert_eq!(value(3), Some(Value::I64(10)), "{kind:?}");
        assert_eq!(
            of(&samples, 4)[0].quality,
            Quality::Bad(Reason::IllegalAddress)
        );
        assert!(excluded(&*session).contains("path=Plant/Nothing: "));
        session.close().await;
    }
}

fn counts(samples: &[Sample]) -> Vec<u64> {
    let count = |sample: &Sample| match sample.value {
        Some(Value::U64(count)) => Some(count),
        _ => None,
    };
    samples.iter().filter_map(count).collect()
}

#[tokio::test]
async fn a_deadband_is_applied_by_the_server_or_named() {
    for kind in [Kind::Asyncua, Kind::NodeOpcua] {
        let Some(mut plant) = started(kind, 0) else {
            continue;
        };
        let with = |deadband| Item {
            deadband: Some(deadband),
            ..Item::new(TagId(0), node("Counter"), Duration::from_millis(100))
        };
        let settings = plant.settings(&plant.url(), Security::None);
        let mut session = open(settings.clone(), vec![with(ServerDeadband::Absolute(1e9))]).await;
        collect(&mut session, 1).await;
        plant.tell(r#"{"burst":5}"#);
        let more = tokio::time::timeout(Duration::from_secs(1), session.notified()).await;
        assert!(more.is_err(), "{kind:?} sent {more:?}");
        session.close().await;

        // Counter has no EURange.
        let mut session = open(settings, vec![with(ServerDeadband::Percent(50.0))]).await;
        collect(&mut session, 1).await;
        plant.run(true);
        let counted = counts(&collect(&mut session, 10).await);
        let expected: Vec<u64> = (counted[0]..).take(counted.len()).collect();
        assert_eq!(counted, expected, "{kind:?}");
        if kind == Kind::NodeOpcua {
            let remarks = session.remarks().join(" ");
            assert!(
                remarks.contains("has no deadband at the server"),
                "{remarks}"
            );
        }
        session.close().await;
    }
}

#[tokio::test]
async fn a_polled_session_that_was_cut_off_is_closed_before_there_is_another() {
    for kind in [Kind::Asyncua, Kind::NodeOpcua] {
        let Some(mut plant) = started(kind, 0) else {
            continue;
        };
        let link = Link::to(&plant.url()).await;
        let settings = Settings {
            collect: Collect::Poll,
            // Waited for twice: for the read, and for the goodbye.
            timeout: Duration::from_secs(5),
            ..plant.settings(&link.url(), Security::None)
        };
        let items = vec![item(0, "nsu=urn:millrace:plant;s=Fixed")];
        let driver = OpcuaDriver::new(settings, items, Arc::new(SystemClock::new()));
        let mut session = driver.open().await.expect("session");
        let samples = session.read(0).await.expect("reading").samples;
        assert_eq!(samples[0].value, Some(Value::F32(4.5)), "{kind:?}");
        // The server does not hear that the connection is gone, nor the goodbye.
        link.silence(true);
        session.read(0).await.expect_err("silence");
        session.close().await;
        assert_eq!(plant.ask("sessions"), 1, "{kind:?}");
        link.silence(false);
        let mut session = driver.open().await.expect("session");
        assert_eq!(plant.ask("sessions"), 1, "{kind:?}");
        assert_eq!(plant.sessions_max(), 1, "{kind:?}");
        session.close().await;
        assert_eq!(plant.ask("sessions"), 0, "{kind:?}");
    }
}

#[cfg(feature = "sim")]
mod simulated {
    use millrace_drivers::sim::opcua::{Faults, SimOpcua};

    use super::*;
    use crate::simulated::{items, settings, sim_settings};

    async fn sim(faults: Faults) -> SimOpcua {
        let mut sim_settings = sim_settings();
        sim_settings.faults = faults;
        SimOpcua::start(sim_settings).await.expect("server")
    }

    #[tokio::test]
    async fn nodes_are_read_where_nothing_can_be_subscribed() {
        let faults = Faults {
            without_subscriptions: true,
            ..Faults::default()
        };
        let (sim, pki) = (sim(faults).await, tempfile::tempdir().expect("pki"));
        let items = items(&["Count", "Fixed", "Nowhere"]);
        let mut session = open(settings(&sim, pki.path()), items).await;
        let samples = collect(&mut session, 9).await;
        assert_eq!(of(&samples, 1)[2].value, Some(Value::F32(4.5)));
        assert_eq!(
            of(&samples, 2)[0].quality,
            Quality::Bad(Reason::IllegalAddress)
        );
        let remarks = session.remarks().join(" ");
        assert!(remarks.contains("makes no subscription"), "{remarks}");
        session.close().await;
        assert_eq!(sim.sessions(), 0);
    }

    #[tokio::test]
    async fn a_clock_that_is_off_is_told() {
        let faults = Faults {
            clock_ahead_ms: -7_290_000,
            ..Faults::default()
        };
        let (sim, pki) = (sim(faults).await, tempfile::tempdir().expect("pki"));
        let mut session = open(settings(&sim, pki.path()), items(&["Fixed"])).await;
        collect(&mut session, 1).await;
        let remarks = session.remarks().join(" ");
        assert!(remarks.contains("clock is 2 h 1 min behind"), "{remarks}");
        session.close().await;
    }
}
