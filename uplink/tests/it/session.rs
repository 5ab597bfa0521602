//! The session against the small broker, well-behaved and misbehaving.

use std::time::Duration;

use crate::log_feed::{LogFeed, Progress};
use crate::pki::Pki;
use millrace_uplink::sim::{Broker, Faults};
use millrace_uplink::{
    ConnectError, Message, PasswordSource, ReconnectPolicy, Secret, SecretSource, SessionSettings,
    SessionState, TlsFiles, run, test_connection,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Long enough for a loaded machine; every test that passes is far quicker.
const PATIENCE: Duration = Duration::from_secs(120);

async fn broker() -> Broker {
    Broker::bind("127.0.0.1:0".parse().unwrap()).await.unwrap()
}

fn settings(broker: &Broker) -> SessionSettings {
    let url = format!("mqtt://{}", broker.local_addr());
    let mut settings = SessionSettings::new(url.parse().unwrap(), "gw-1");
    settings.reconnect = ReconnectPolicy {
        first: Duration::from_millis(1),
        longest: Duration::from_millis(5),
        ..ReconnectPolicy::default()
    };
    settings
}

/// Runs a session until the feed has reached `goal`, then stops it.
async fn run_until(settings: SessionSettings, feed: LogFeed, goal: impl Fn(&Progress) -> bool) {
    let progress = feed.progress();
    let shutdown = CancellationToken::new();
    let session = tokio::spawn(run(settings, feed, shutdown.clone()));
    timeout(PATIENCE, progress.wait_for(goal)).await.unwrap();
    shutdown.cancel();
    timeout(PATIENCE, session).await.unwrap().unwrap();
}

/// Random cuts, swallowed messages, acks out of order and twice: nothing is lost, nothing is taken for
/// delivered that is not.
async fn chaos(seed: u64, messages: u64) -> u64 {
    let broker = broker().await;
    broker.set_faults(Some(Faults {
        reorder_acks: true,
        duplicate_acks: true,
        swallow_one_in: Some(400),
        cut_after: Some(1..=90),
        seed,
        ..Faults::default()
    }));
    let feed = LogFeed::new(messages, seed);
    feed.verify_custody(&broker);
    let progress = feed.progress();
    let shutdown = CancellationToken::new();
    let mut settings = settings(&broker);
    // Less than the cut mostly allows: a full window that arrives in one read must get its acks sometimes.
    settings.max_inflight = 20;
    let counters = settings.counters.clone();
    let session = tokio::spawn(run(settings, feed, shutdown.clone()));
    let mut before = 0;
    let whole = async {
        while progress.acked() < messages {
            tokio::time::sleep(Duration::from_millis(200)).await;
            // The last messages may all be swallowed: then only a cut brings them back.
            if progress.acked() == before {
                broker.cut().await;
                broker.heal().await;
            }
            before = progress.acked();
        }
    };
    timeout(PATIENCE, whole).await.expect("all acked");
    shutdown.cancel();
    timeout(PATIENCE, session).await.unwrap().unwrap();
    progress.assert_all_in_custody(messages);
    assert_eq!(progress.false_acks(), 0, "seed {seed}");
    assert!(counters.unknown_acks_total() > 0, "duplicates were seen");
    broker.connects_total()
}

#[tokio::test]
async fn nothing_lost_and_nothing_falsely_acked() {
    let mut cuts = 0;
    for seed in [1, 2, 3] {
        cuts += chaos(seed, 10_000).await;
    }
    println!("{cuts} connections");
    assert!(cuts >= 500, "{cuts} connections");
}

#[tokio::test]
async fn reconnects_after_an_outage_and_delivers_the_rest() {
    let broker = broker().await;
    let feed = LogFeed::new(2000, 7);
    feed.verify_custody(&broker);
    let progress = feed.progress();
    let shutdown = CancellationToken::new();
    broker.cut().await;
    let session = tokio::spawn(run(settings(&broker), feed, shutdown.clone()));
    let down = |p: &Progress| {
        matches!(
            p.last_state(),
            Some(SessionState::Down { refused: false, .. })
        )
    };
    timeout(PATIENCE, progress.wait_for(down)).await.unwrap();
    broker.heal().await;
    timeout(PATIENCE, progress.wait_for(|p| p.acked() == 2000))
        .await
        .unwrap();
    shutdown.cancel();
    session.await.unwrap();
    assert_eq!(progress.false_acks(), 0);
}

#[tokio::test]
async fn one_oversize_message_is_refused_and_the_others_pass() {
    let broker = broker().await;
    let mut settings = settings(&broker);
    settings.max_message = 1000;
    let counters = settings.counters.clone();
    let feed = LogFeed::new(100, 3).with_message(50, vec![b'x'; 2000]);
    run_until(settings, feed, |p| p.acked() + p.refused() == 100).await;
    assert_eq!(counters.refused_total(), 1);
    assert_eq!(counters.connects_total(), 1, "the connection survives it");
}

#[tokio::test]
async fn a_broker_that_hangs_up_on_messages_is_explained() {
    let broker = broker().await;
    broker.set_faults(Some(Faults {
        message_bytes_max: Some(10),
        ..Faults::default()
    }));
    let feed = LogFeed::new(100, 3);
    let progress = feed.progress();
    let shutdown = CancellationToken::new();
    let session = tokio::spawn(run(settings(&broker), feed, shutdown.clone()));
    let explained = |p: &Progress| match p.last_state() {
        Some(SessionState::Down { error, .. }) => error.contains("max_message"),
        _ => false,
    };
    timeout(PATIENCE, progress.wait_for(explained))
        .await
        .unwrap();
    shutdown.cancel();
    session.await.unwrap();
    assert_eq!(
        progress.acked() + progress.refused(),
        0,
        "nothing is thrown away"
    );
}

#[tokio::test]
async fn a_wrong_password_is_a_refusal_and_is_not_hammered() {
    let broker = broker().await;
    broker.require_login("gw-1", "right");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "wrong\n").unwrap();
    let mut settings = settings(&broker);
    settings.username = Some("gw-1".into());
    settings.password = Some(SecretSource::File(file.clone()).into());
    settings.reconnect.refused = Duration::from_millis(300);

    let Err(error) = test_connection(&settings).await else {
        panic!("the password is wrong");
    };
    assert!(error.is_refusal());
    assert!(
        error.to_string().contains("wrong user name or password"),
        "{error}"
    );

    let feed = LogFeed::new(1, 1);
    let progress = feed.progress();
    let shutdown = CancellationToken::new();
    let session = tokio::spawn(run(settings, feed, shutdown.clone()));
    let refused = |p: &Progress| match p.last_state() {
        Some(SessionState::Down {
            refused, next_try, ..
        }) => refused && next_try >= Duration::from_millis(240),
        _ => false,
    };
    timeout(PATIENCE, progress.wait_for(refused)).await.unwrap();
    // The file is read again at each connect.
    std::fs::write(&file, "right\n").unwrap();
    timeout(PATIENCE, progress.wait_for(|p| p.acked() == 1))
        .await
        .unwrap();
    shutdown.cancel();
    session.await.unwrap();
}

#[tokio::test]
async fn a_missing_password_file_is_named() {
    let broker = broker().await;
    let mut settings = settings(&broker);
    settings.password = Some(SecretSource::File("/nowhere/password".into()).into());
    let Err(error @ ConnectError::Password(_)) = test_connection(&settings).await else {
        panic!("there is no such file");
    };
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("/nowhere/password"), "{cause}");
}

#[tokio::test]
async fn an_unavailable_service_is_no_refusal() {
    let broker = broker().await;
    broker.set_faults(Some(Faults {
        refuse_with: Some(3),
        ..Faults::default()
    }));
    let Err(error) = test_connection(&settings(&broker)).await else {
        panic!("the broker refuses");
    };
    assert!(!error.is_refusal(), "{error}");
}

#[tokio::test]
async fn causes_of_a_failed_connection_are_named() {
    let cut = broker().await;
    cut.cut().await;
    let Err(ConnectError::Tcp { .. }) = test_connection(&settings(&cut)).await else {
        panic!("nobody listens");
    };
    let mut unknown = settings(&cut);
    unknown.endpoint = "mqtt://no-such-host.invalid".parse().unwrap();
    let Err(ConnectError::Dns { .. }) = test_connection(&unknown).await else {
        panic!("there is no such host");
    };
    let plain = broker().await;
    let mut tls = settings(&plain);
    tls.endpoint = format!("mqtts://localhost:{}", plain.local_addr().port())
        .parse()
        .unwrap();
    let pki = Pki::new();
    tls.tls = TlsFiles {
        ca_file: Some(pki.ca_file()),
        ..TlsFiles::default()
    };
    let outcome = test_connection(&tls).await;
    assert!(
        matches!(outcome, Err(ConnectError::Tls { .. })),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn status_will_and_farewell() {
    let broker = broker().await;
    let mut settings = settings(&broker);
    let offline = Message::retained("status", r#"{"online":false}"#);
    settings.will = Some(offline.clone());
    settings.farewell = vec![offline.clone()];
    let online = Message::retained("status", r#"{"online":true}"#);
    let feed = LogFeed::new(10, 1).with_greeting(online.clone());
    let progress = feed.progress();
    let shutdown = CancellationToken::new();
    let session = tokio::spawn(run(settings, feed, shutdown.clone()));
    timeout(PATIENCE, progress.wait_for(|p| p.acked() == 10))
        .await
        .unwrap();
    assert_eq!(broker.retained("status"), Some(online.payload.clone()));

    broker.cut().await;
    let gone = async {
        while broker.retained("status") != Some(offline.payload.clone()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, gone)
        .await
        .expect("the will is published");
    broker.heal().await;
    let back = async {
        while broker.retained("status") != Some(online.payload.clone()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, back)
        .await
        .expect("the greeting is sent again");
    shutdown.cancel();
    timeout(PATIENCE, session).await.unwrap().unwrap();
    assert_eq!(broker.retained("status"), Some(offline.payload));
}

#[tokio::test]
async fn tls_is_verified_both_ways() {
    let pki = Pki::new();
    let broker = Broker::bind_tls("127.0.0.1:0".parse().unwrap(), pki.server_config())
        .await
        .unwrap();
    let mut settings = settings(&broker);
    let port = broker.local_addr().port();
    settings.endpoint = format!("mqtts://localhost:{port}").parse().unwrap();
    settings.tls = pki.client_files();
    let report = test_connection(&settings).await.unwrap();
    assert!(report.tls.unwrap().starts_with("TLSv1"));
    run_until(settings.clone(), LogFeed::new(500, 5), |p| p.acked() == 500).await;

    let stranger = Pki::new();
    let expect = async |files: TlsFiles, words: &str| {
        let mut settings = settings.clone();
        settings.tls = files;
        match test_connection(&settings).await {
            Err(error @ ConnectError::Tls { .. }) => {
                assert!(error.to_string().contains(words), "{error}");
            }
            other => panic!("expected a TLS failure, got {other:?}"),
        }
    };
    let wrong_ca = TlsFiles {
        ca_file: Some(stranger.ca_file()),
        ..pki.client_files()
    };
    expect(wrong_ca, "not signed by a CA that we trust").await;
    let no_certificate = TlsFiles {
        cert_file: None,
        key_file: None,
        ..pki.client_files()
    };
    expect(no_certificate, "refused our side").await;
    let strange_certificate = TlsFiles {
        ca_file: Some(pki.ca_file()),
        ..stranger.client_files()
    };
    expect(strange_certificate, "refused our side").await;

    settings.endpoint = format!("mqtts://127.0.0.1:{port}").parse().unwrap();
    expect_name_mismatch(&settings).await;
}

async fn expect_name_mismatch(settings: &SessionSettings) {
    let Err(error) = test_connection(settings).await else {
        panic!("the certificate is for another name");
    };
    assert!(error.to_string().contains("for another name"), "{error}");
}

/// A token that ends costs a connection now and then, and nothing else.
#[tokio::test]
async fn a_session_connects_anew_before_its_token_ends() {
    let broker = broker().await;
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let mut settings = settings(&broker);
    settings.username = Some("unused".to_owned());
    settings.password = Some(PasswordSource::Jwt {
        key: SecretSource::Given(Secret::new(key)),
        claims: serde_json::Map::new(),
        life: Duration::from_secs(1),
    });
    // The pause after a failure would not be over before the end of the test.
    settings.reconnect.first = Duration::from_secs(3600);
    settings.reconnect.longest = Duration::from_secs(3600);
    let counters = settings.counters.clone();
    let feed = LogFeed::new(20, 1);
    let progress = feed.progress();
    let shutdown = CancellationToken::new();
    let session = tokio::spawn(run(settings, feed, shutdown.clone()));
    let renewed = async {
        while counters.connects_total() < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        progress.wait_for(|progress| progress.acked() == 20).await;
    };
    timeout(PATIENCE, renewed).await.unwrap();
    shutdown.cancel();
    timeout(PATIENCE, session).await.unwrap().unwrap();
}
