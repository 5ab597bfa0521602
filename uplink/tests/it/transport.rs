//! The ways to a mosquitto: both versions of MQTT, WebSockets, keys that are pinned, several endpoints, proxies.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use millrace_uplink::{
    Protocol, ProtocolChoice, Proxy, Secret, SecretSource, SessionSettings, TlsFiles,
    test_connection,
};

use crate::log_feed::{LogFeed, TOPIC};
use crate::mosquitto::{Mosquitto, deliver, free_port};
use crate::pki::Pki;
use crate::proxy::{PASSWORD, Pproxy, USER};

fn to(url: String, settings: SessionSettings) -> SessionSettings {
    SessionSettings {
        endpoint: url.parse().unwrap(),
        ..settings
    }
}

#[tokio::test]
async fn both_versions_of_mqtt_deliver() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let terms = test_connection(&broker.settings()).await.unwrap().terms;
    assert_eq!(terms.protocol, Protocol::V5, "auto takes the newest");
    assert_eq!(terms.topic_alias_maximum, 10);
    let old = SessionSettings {
        protocol: ProtocolChoice::Only(Protocol::V311),
        ..broker.settings()
    };
    let terms = test_connection(&old).await.unwrap().terms;
    assert_eq!(terms.protocol, Protocol::V311);
    deliver(&broker, old, 2000).await;
}

#[tokio::test]
async fn what_the_broker_chooses_holds() {
    let lines = "max_inflight_messages 5\nmax_packet_size 2000\nmax_keepalive 20";
    let Some(broker) = Mosquitto::start_with(lines).await else {
        return;
    };
    let anonymous = SessionSettings {
        client_id: String::new(),
        ..broker.settings()
    };
    let terms = test_connection(&anonymous).await.unwrap().terms;
    assert_eq!(terms.receive_maximum, 5);
    assert_eq!(terms.max_packet, Some(2000));
    assert_eq!(terms.keep_alive_s, Some(20));
    assert!(!terms.client_id.unwrap().is_empty());
    deliver(&broker, anonymous, 500).await;
}

#[tokio::test]
async fn a_mosquitto_that_hangs_up_after_each_refusal_still_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let acl = directory.path().join("acl");
    std::fs::write(&acl, "topic read #\ntopic write status\n").unwrap();
    let lines = format!("acl_file {}", acl.display());
    let Some(broker) = Mosquitto::start_with(&lines).await else {
        return;
    };
    let feed = LogFeed::new(20, 3);
    let progress = feed.progress();
    let settings = broker.settings();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let session = tokio::spawn(millrace_uplink::run(settings, feed, shutdown.clone()));
    // mosquitto 2.0.11 does so where queued messages have no limit.
    let all = progress.wait_for(|p| p.refused() == 20);
    tokio::time::timeout(Duration::from_secs(60), all)
        .await
        .expect("mosquitto says so for each message");
    shutdown.cancel();
    session.await.unwrap();
    assert_eq!(progress.acked(), 0, "{TOPIC}");
}

#[tokio::test]
async fn delivers_over_websockets() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let plain = broker.ws_settings();
    deliver(&broker, plain.clone(), 2000).await;
    let mutual = broker.wss_settings();
    deliver(&broker, mutual.clone(), 2000).await;
    assert!(test_connection(&mutual).await.unwrap().tls.is_some());

    let wrong = to(format!("ws://127.0.0.1:{}", broker.plain), plain.clone());
    let error = test_connection(&wrong).await.unwrap_err().to_string();
    assert!(error.contains("no WebSocket at ws://127.0.0.1"), "{error}");
    let other = Pki::new();
    let stranger = SessionSettings {
        tls: TlsFiles {
            ca_file: Some(broker.pki.ca_file()),
            ..other.client_files()
        },
        ..mutual
    };
    let error = test_connection(&stranger).await.unwrap_err().to_string();
    assert!(error.contains("check cert_file and key_file"), "{error}");
}

/// The command of the documentation.
fn pin_of(broker: &Mosquitto) -> Option<String> {
    let command = format!(
        "openssl x509 -in {} -noout -pubkey | openssl pkey -pubin -outform der | sha256sum",
        broker.pki.file("localhost.pem").display()
    );
    let output = Command::new("sh").arg("-c").arg(command).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split(' ').next().map(str::to_owned)
}

#[tokio::test]
async fn a_pinned_key_takes_the_place_of_an_authority() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let pin = pin_of(&broker).expect("openssl is there");
    let with = |pin: &str, ca: bool| {
        let mut settings = broker.tls_settings();
        settings.tls.pins = vec![pin.parse().unwrap()];
        if !ca {
            settings.tls.ca_file = None;
        }
        settings
    };
    deliver(&broker, with(&pin, false), 200).await;
    test_connection(&with(&pin, true)).await.unwrap();
    let error = test_connection(&with(&"0".repeat(64), false))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("another key"), "{error}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains(&pin), "the key that it has: {cause}");
    // With an authority, both must hold.
    let mut other = with(&pin, true);
    let stranger = Pki::new();
    other.tls.ca_file = Some(stranger.ca_file());
    let error = test_connection(&other).await.unwrap_err().to_string();
    assert!(error.contains("ca_file"), "{error}");
}

#[tokio::test]
async fn a_certificate_that_is_swapped_is_shown_at_the_next_connect() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let settings = broker.tls_settings();
    let report = test_connection(&settings).await.unwrap();
    assert!(report.certificates_end.iter().all(Option::is_some));
    let (own, other) = (broker.pki.file("gw-1.pem"), Pki::new());
    let key = broker.pki.file("gw-1.key");
    let kept = (std::fs::read(&own).unwrap(), std::fs::read(&key).unwrap());
    std::fs::copy(other.file("gw-1.pem"), &own).unwrap();
    std::fs::copy(other.file("gw-1.key"), &key).unwrap();
    let error = test_connection(&settings).await.unwrap_err().to_string();
    assert!(error.contains("check cert_file and key_file"), "{error}");
    std::fs::write(&own, kept.0).unwrap();
    std::fs::write(&key, kept.1).unwrap();
    test_connection(&settings).await.unwrap();
}

#[tokio::test]
async fn the_next_endpoint_takes_over_and_each_cause_is_named() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let dead = format!("mqtt://127.0.0.1:{}", free_port());
    let mut settings = to(dead.clone(), broker.settings());
    settings.fallbacks = vec![broker.settings().endpoint];
    let report = test_connection(&settings).await.unwrap();
    assert_eq!(report.endpoint, broker.settings().endpoint);
    deliver(&broker, settings.clone(), 500).await;
    settings.fallbacks = vec!["mqtt://no-such-host.invalid".parse().unwrap()];
    let error = test_connection(&settings).await.unwrap_err().to_string();
    for words in ["nothing listens there", "no-such-host.invalid"] {
        assert!(error.contains(words), "{error}");
    }
}

/// `None`, with a message, where the Python of the tests is not there.
pub(crate) fn pproxy() -> Option<Pproxy> {
    let Some(python) = std::env::var_os("MILLRACE_TEST_PYTHON") else {
        eprintln!("skipped: MILLRACE_TEST_PYTHON does not name a Python with pproxy");
        return None;
    };
    Some(Pproxy::start(Path::new(&python), free_port()).unwrap())
}

pub(crate) fn login(proxy: &Pproxy, scheme: &str, password: &str) -> Option<Proxy> {
    Some(Proxy {
        address: format!("{scheme}://127.0.0.1:{}", proxy.port)
            .parse()
            .unwrap(),
        username: Some(USER.into()),
        password: Some(SecretSource::Given(Secret::new(password))),
    })
}

#[tokio::test]
async fn proxies_are_gone_through_and_named_when_they_refuse() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let Some(proxy) = pproxy() else {
        return;
    };
    for scheme in ["http", "socks5"] {
        let through = |settings: SessionSettings, password: &str| SessionSettings {
            proxy: login(&proxy, scheme, password),
            ..settings
        };
        deliver(&broker, through(broker.settings(), PASSWORD), 500).await;
        // The proxy looks the name up, and TLS holds against the broker behind it.
        let tls = through(broker.tls_settings(), PASSWORD);
        let report = test_connection(&tls).await.unwrap();
        assert!(report.tls.is_some());
        assert_eq!(report.address.port(), proxy.port);
        let web = through(broker.wss_settings(), PASSWORD);
        test_connection(&web).await.unwrap();

        let wrong = through(broker.settings(), "wrong");
        let error = test_connection(&wrong).await.unwrap_err().to_string();
        let named = format!("the proxy {scheme}://127.0.0.1:{}", proxy.port);
        assert!(error.contains(&named), "{error}");
    }
    let mut gone = broker.settings();
    gone.proxy = login(&proxy, "http", PASSWORD);
    drop(proxy);
    let error = test_connection(&gone).await.unwrap_err().to_string();
    assert!(error.contains("cannot be reached"), "{error}");
}
