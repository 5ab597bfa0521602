//! Against asyncua, a foreign server.

use millrace_drivers::opcua::{Collect, Security, inspect, read_once};
use millrace_drivers::{Driver, SessionError};
use millrace_tags::{Quality, Reason, Value};

use crate::link::Link;
use crate::peer::{ENCRYPTED, Make, Peer, driver, node};
use crate::session::{PATIENCE, collect, counts, excluded, next, of};

#[tokio::test]
async fn an_untrusted_server_is_refused_with_its_thumbprint() {
    let Some(peer) = Peer::start(Make::Asyncua) else {
        return;
    };
    let other = tempfile::tempdir().expect("pki");
    let mut settings = peer.settings(ENCRYPTED);
    settings.pki_dir = other.path().to_owned();
    let endpoints = inspect(&peer.url(), PATIENCE).await.expect("endpoints");
    let thumbprint = endpoints[0].thumbprint.clone().expect("thumbprint");
    let error = driver(settings, &["Fixed"])
        .open()
        .await
        .err()
        .expect("untrusted");
    assert!(error.is_refusal(), "{error:?}");
    assert!(error.to_string().contains(&thumbprint), "{error}");
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

fn json(text: &str) -> Value {
    Value::Json(text.into())
}

/// Those that both servers have, and these.
async fn every_type_arrives(make: Make, further: &[(&str, Value)]) {
    let Some(peer) = Peer::start(make) else {
        return;
    };
    let common = [
        ("Boolean", Value::Bool(true)),
        ("SByte", Value::I64(-5)),
        ("Byte", Value::U64(250)),
        ("Int16", Value::I64(-300)),
        ("UInt16", Value::U64(60_000)),
        ("Int32", Value::I64(i32::MIN.into())),
        ("UInt32", Value::U64(u32::MAX.into())),
        ("Int64", Value::I64(i64::MIN)),
        ("UInt64", Value::U64(u64::MAX)),
        ("Float", Value::F32(0.1)),
        ("Double", Value::F64(0.1)),
        ("String", text("Füllstand")),
        ("DateTime", text("2026-11-21T07:30:15.000Z")),
        ("Guid", text("72962b91-fa75-4ae6-8d28-b404dc7daf63")),
        ("ByteString", Value::Bytes(vec![1, 2].into())),
        ("LocalizedText", text("läuft")),
        ("Array", json("[1,-2,3]")),
        ("Range", json(r#"{"High":1.0,"Low":0.0}"#)),
    ];
    for (name, expected) in common.iter().chain(further) {
        let read = read_once(peer.settings(Security::None), &node(name)).await;
        let (value, quality, _) = read.expect(name);
        let expected = (Some(expected.clone()), Quality::Good);
        assert_eq!((value, quality), expected, "{name}");
    }
    let read = read_once(peer.settings(Security::None), &node("NaN")).await;
    let (value, quality, _) = read.expect("NaN");
    assert_eq!((value, quality), (None, Quality::Bad(Reason::NotANumber)));
}

#[tokio::test]
async fn values_of_every_type_arrive_as_they_are() {
    every_type_arrives(Make::Asyncua, &[]).await;
}

const RECIPE: &str = r#"{"Mode":"Cleaning","Name":"PUR-7","Steps":[{"Minutes":5,"Temperature":81.5},{"Minutes":12,"Temperature":20.0}]}"#;

#[tokio::test]
async fn values_of_every_type_of_node_opcua_arrive_as_they_are() {
    let further = [
        ("XmlElement", text("<pump/>")),
        ("NodeId", text("i=2258")),
        ("QualifiedName", text("Pump")),
        ("StatusCode", Value::U64(0x808C_0000)),
        ("PumpMode", text("Cleaning")),
        ("Recipe", json(RECIPE)),
    ];
    every_type_arrives(Make::NodeOpcua, &further).await;
}

#[tokio::test]
async fn status_codes_become_quality() {
    const UNCERTAIN_LAST_USABLE: u32 = 0x4090_0000;
    const BAD_SENSOR_FAILURE: u32 = 0x808C_0000;
    let Some(mut peer) = Peer::start(Make::Asyncua) else {
        return;
    };
    let driver = driver(peer.settings(Security::None), &["Fixed"]);
    let mut session = driver.open().await.expect("session");
    assert_eq!(collect(&mut session, 1).await[0].quality, Quality::Good);
    peer.ask(&format!(
        r#"{{"status":["Fixed",{UNCERTAIN_LAST_USABLE}]}}"#
    ));
    let sample = collect(&mut session, 1).await.remove(0);
    assert_eq!(sample.value, Some(Value::F32(4.5)));
    let reason = Reason::Status(UNCERTAIN_LAST_USABLE);
    assert_eq!(sample.quality, Quality::Uncertain(reason));
    peer.ask(&format!(r#"{{"status":["Fixed",{BAD_SENSOR_FAILURE}]}}"#));
    let sample = collect(&mut session, 1).await.remove(0);
    let reason = Reason::Status(BAD_SENSOR_FAILURE);
    assert_eq!((sample.value, sample.quality), (None, Quality::Bad(reason)));
    assert!(sample.source_time.is_some());
}

#[tokio::test]
async fn a_notification_is_acknowledged_only_when_it_is_settled() {
    let Some(mut peer) = Peer::start(Make::Asyncua) else {
        return;
    };
    let driver = driver(peer.settings(Security::None), &["Counter"]);
    let mut session = driver.open().await.expect("session");
    peer.ask(r#"{"run":true}"#);
    let mut receipts = Vec::new();
    while receipts.len() < 5 {
        receipts.extend(next(&mut session).await.expect("a reading").receipt);
    }
    assert!(peer.ask(r#"{"ask":"unacknowledged"}"#) >= 5);
    for receipt in receipts {
        session.settle(receipt);
    }
    // Acknowledgements go out with later Publish requests, which the following notifications bring.
    let mut waiting = u64::MAX;
    while waiting > 3 {
        let reading = next(&mut session).await.expect("a reading");
        session.settle(reading.receipt.expect("a receipt"));
        waiting = peer.ask(r#"{"ask":"unacknowledged"}"#);
    }
    session.close().await;
}

#[tokio::test]
async fn a_cut_link_loses_no_value_and_makes_no_second_session() {
    let Some(mut peer) = Peer::start(Make::Asyncua) else {
        return;
    };
    let link = Link::to(&peer.url()).await;
    for security in [Security::None, ENCRYPTED] {
        let mut settings = peer.settings(security);
        settings.url = link.url();
        let driver = driver(settings, &["Counter", "Fixed"]);
        let mut session = driver.open().await.expect("session");
        peer.ask(r#"{"run":true}"#);
        let mut samples = Vec::new();
        for _ in 0..3 {
            samples.extend(collect(&mut session, 20).await);
            link.cut();
            while let Ok(reading) = next(&mut session).await {
                samples.extend(reading.samples);
            }
            session.close().await;
            let missed = peer.ask(r#"{"ask":"counter"}"#) + 10;
            while peer.ask(r#"{"ask":"counter"}"#) < missed {
                tokio::task::yield_now().await;
            }
            session = driver.open().await.expect("session");
            assert_eq!(peer.ask(r#"{"ask":"sessions"}"#), 1);
        }
        while of(&samples, 1).len() < 2 {
            samples.extend(collect(&mut session, 1).await);
        }
        peer.ask(r#"{"run":false}"#);
        let last = peer.ask(r#"{"ask":"counter"}"#);
        while counts(&samples, 0).last() != Some(&last) {
            samples.extend(collect(&mut session, 1).await);
        }
        let counted = counts(&samples, 0);
        let expected: Vec<u64> = (counted[0]..=last).collect();
        assert_eq!(counted, expected);
        session.close().await;
    }
}

#[tokio::test]
async fn two_hundred_items_and_a_bad_one() {
    let Some(peer) = Peer::start(Make::Asyncua) else {
        return;
    };
    let names: Vec<String> = (0..200).map(|count| format!("Many{count}")).collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.push("Nowhere");
    for collect_by in [Collect::Subscribe, Collect::Poll] {
        let mut settings = peer.settings(ENCRYPTED);
        settings.collect = collect_by;
        let driver = driver(settings, &names);
        let mut session = driver.open().await.expect("session");
        let samples = match collect_by {
            Collect::Subscribe => collect(&mut session, names.len()).await,
            Collect::Poll => session.read(0).await.expect("reading").samples,
        };
        assert_eq!(samples.len(), names.len());
        for sample in &samples {
            match sample.tag.0 {
                200 => assert_eq!(sample.quality, Quality::Bad(Reason::IllegalAddress)),
                count => assert_eq!(sample.value, Some(Value::U64(count.into()))),
            }
        }
        let excluded = excluded(&*session);
        assert!(excluded.contains("s=Nowhere: "), "{excluded}");
        session.close().await;
    }
}

#[tokio::test]
async fn a_killed_server_breaks_the_session_and_another_one_is_opened() {
    let Some(mut peer) = Peer::start(Make::Asyncua) else {
        return;
    };
    let mut settings = peer.settings(ENCRYPTED);
    let opened = driver(settings.clone(), &["Counter"]);
    let mut session = opened.open().await.expect("session");
    collect(&mut session, 1).await;
    peer.kill();
    let error = loop {
        if let Err(error) = next(&mut session).await {
            break error;
        }
    };
    assert!(matches!(error, SessionError::Lost { .. }), "{error:?}");
    peer.restart_anew();
    let error = opened.open().await.err().expect("another certificate");
    assert!(error.is_refusal(), "{error:?}");
    let fresh = peer.settings(ENCRYPTED);
    settings.pki_dir = fresh.pki_dir;
    peer.ask(r#"{"run":true}"#);
    let opened = driver(settings, &["Counter"]);
    let mut session = opened.open().await.expect("session");
    let values = collect(&mut session, 5).await;
    assert!(values.iter().all(|sample| sample.quality.is_good()));
}
