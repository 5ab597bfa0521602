//! The task by itself: a provider that says what a test wants, and uplinks that connect when it wants.

use std::sync::Mutex;

use async_trait::async_trait;
use millrace_uplink::Secret;
use millrace_uplink::bootstrap::{Attempt, BootstrapError, Enrolment};

use super::*;

mod fleet;

const LAYER: &str = "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://core.example\"\n";

fn enrolment(content: &str, password: &str) -> Enrolment {
    Enrolment {
        id: "thing-1".to_owned(),
        key: Some(Secret::new(password)),
        content: Some(content.to_owned()),
        receipt: Some("receipt-1".to_owned()),
        ..Enrolment::default()
    }
}

/// A first contact in `dir`, with these further lines in `[bootstrap]`.
fn bootstrap(
    dir: &Path,
    lines: &str,
    make_provider: MakeProvider,
) -> (Bootstrap, mpsc::Receiver<()>) {
    let local = dir.join("millrace.toml");
    let text = format!(
        "[gateway]\nid = \"gw-1\"\ndata_dir = \"data\"\n\n[bootstrap]\nprovider = \"mainflux\"\n\
         url = \"https://core.example/things/bootstrap\"\nexternal_id = \"gw-1\"\n\
         external_key_file = \"key\"\n{lines}"
    );
    std::fs::write(&local, text).unwrap();
    let loaded = config::load(Some(&local), None);
    let config = loaded
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config;
    let (changed, applied) = mpsc::channel(1);
    let bootstrap = Bootstrap {
        settings: config.bootstrap.unwrap(),
        gateway: "gw-1".to_owned(),
        data_dir: config.gateway.data_dir,
        config: Some(local),
        desk: Arc::default(),
        changed,
        look: Box::new(|| seen(false)),
        make_provider,
    };
    (bootstrap, applied)
}

fn seen(connected: bool) -> Seen {
    Seen {
        applied: true,
        uplinks: vec![SeenUplink {
            name: "cloud".to_owned(),
            uses_enrolment: true,
            connected,
            verified: true,
            refusals: None,
        }],
    }
}

fn said(bootstrap: &Bootstrap) -> (String, String) {
    let status = bootstrap.desk.status().unwrap();
    (status.state, status.message.unwrap_or_default())
}

/// Says always the same.
struct Says(fn() -> Result<Enrolment, BootstrapError>);

#[async_trait]
impl Provider for Says {
    async fn ask(&self, _: &Attempt) -> Result<Enrolment, BootstrapError> {
        (self.0)()
    }
}

fn denied() -> BootstrapError {
    BootstrapError::Denied {
        url: "https://core.example".to_owned(),
        status: 403,
        why: "the external key is wrong",
        said: millrace_uplink::bootstrap::Said::default(),
        retry_after: None,
    }
}

/// Runs it until it has something applied.
async fn until_applied(bootstrap: Bootstrap) {
    let limit = Duration::from_secs(24 * 3600);
    tokio::time::timeout(limit, bootstrap.run()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_failure_has_its_state_and_its_sentence() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key"), "external").unwrap();
    let cases: [(MakeProvider, &str, &str); 4] = [
        (
            |_, _, _| Ok(Box::new(Says(|| Err(denied())))),
            "denied",
            "403",
        ),
        (
            |_, _, _| {
                Ok(Box::new(Says(|| {
                    Err(BootstrapError::Pending {
                        url: "https://core.example".to_owned(),
                        why: "an operator has to approve it".to_owned(),
                        retry_after: Some(Duration::from_secs(60)),
                    })
                })))
            },
            "pending",
            "approve",
        ),
        (
            |_, _, _| Ok(Box::new(Says(|| Ok(enrolment("", "pw"))))),
            "pending",
            "content",
        ),
        (
            |_, _, _| Ok(Box::new(Says(|| Ok(enrolment("[[device]\nname=", "pw"))))),
            "denied",
            "content",
        ),
    ];
    for (make, state, sentence) in cases {
        let (bootstrap, _applied) = bootstrap(dir.path(), "", make);
        let desk = bootstrap.desk.clone();
        let limit = Duration::from_secs(25);
        let ended = tokio::time::timeout(limit, bootstrap.run()).await;
        assert!(ended.is_err(), "{state}: nothing was to be applied");
        let status = desk.status().unwrap();
        assert_eq!(status.state, state, "{status:?}");
        assert!(status.message.unwrap().contains(sentence));
        assert!(!config::cloud_file(&dir.path().join("data")).exists());
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_key_is_named_and_nothing_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (bootstrap, _applied) = bootstrap(dir.path(), "", |_, _, _| panic!("nothing may be sent"));
    let desk = bootstrap.desk.clone();
    let ended = tokio::time::timeout(Duration::from_secs(60), bootstrap.run()).await;
    assert!(ended.is_err());
    let status = desk.status().unwrap();
    assert_eq!(status.state, "denied");
    assert!(status.message.unwrap().contains("key"));
}

#[tokio::test(start_paused = true)]
async fn the_first_request_comes_within_the_spread() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key"), "external").unwrap();
    let make: MakeProvider = |_, _, _| Ok(Box::new(Says(|| Ok(enrolment(LAYER, "pw")))));
    let (bootstrap, _applied) = bootstrap(dir.path(), "spread = \"1000s\"\n", make);
    let began = Instant::now();
    until_applied(bootstrap).await;
    let took = began.elapsed().as_secs_f64();
    let drawn = 1000.0 * first_draw("gw-1");
    assert!((took - drawn).abs() < 1.0, "{took} s instead of {drawn} s");
}

#[tokio::test(start_paused = true)]
async fn who_vouches_for_the_core_vouches_for_a_broker_without_an_authority_of_its_own() {
    const TABLE: &str = "-----BEGIN CERTIFICATE-----\nVEFCTEU=\n-----END CERTIFICATE-----\n";
    const OWN: &str = "-----BEGIN CERTIFICATE-----\nT1dO\n-----END CERTIFICATE-----\n";
    let cases: [(MakeProvider, &str); 2] = [
        (
            |_, _, _| Ok(Box::new(Says(|| Ok(enrolment(LAYER, "pw"))))),
            TABLE,
        ),
        (
            |_, _, _| {
                Ok(Box::new(Says(|| {
                    Ok(Enrolment {
                        ca_cert: Some(OWN.to_owned()),
                        ..enrolment(LAYER, "pw")
                    })
                })))
            },
            OWN,
        ),
    ];
    for (make, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("key"), "external").unwrap();
        std::fs::write(dir.path().join("table.pem"), TABLE).unwrap();
        let (bootstrap, _applied) = bootstrap(dir.path(), "ca_file = \"table.pem\"\n", make);
        until_applied(bootstrap).await;
        let kept = dir.path().join("data/secrets/current/ca.pem");
        assert_eq!(std::fs::read_to_string(kept).unwrap(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn an_enrolment_waits_for_the_end_of_a_trial_of_a_configuration() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key"), "external").unwrap();
    let make: MakeProvider = |_, _, _| Ok(Box::new(Says(|| Ok(enrolment(LAYER, "pw")))));
    let (bootstrap, _applied) = bootstrap(dir.path(), "spread = \"0s\"\n", make);
    let (desk, data_dir) = (bootstrap.desk.clone(), bootstrap.data_dir.clone());
    let turn = desk.try_turn().unwrap();
    assert!(desk.try_turn().is_none(), "one at a time");
    let mut running = std::pin::pin!(until_applied(bootstrap));
    let waiting = tokio::time::timeout(Duration::from_secs(600), &mut running).await;
    assert!(waiting.is_err());
    assert!(!config::cloud_file(&data_dir).exists());
    drop(turn);
    running.await;
    assert!(config::cloud_file(&data_dir).exists());
    // The first one has none before it that could come back over a configuration.
    assert!(!may_be_taken_back(&data_dir));
    let store = Store::new(&data_dir);
    let mut state = store.state().unwrap();
    store.put(&mut state, "", &[]).unwrap();
    state.previous = Some(1);
    store.save(&state).unwrap();
    assert!(may_be_taken_back(&data_dir));
    state.phase = Phase::Settled;
    store.save(&state).unwrap();
    assert!(!may_be_taken_back(&data_dir));
}

#[tokio::test]
async fn a_wish_waits_for_the_trial_and_outlives_a_task_that_is_cut_off() {
    let desk = Desk::default();
    desk.say(Some(BootstrapStatus::default()));
    assert!(desk.ask_for(Wish::Run));
    let turn = desk.try_turn().unwrap();
    let short = Duration::from_millis(50);
    assert!(tokio::time::timeout(short, desk.wished()).await.is_err());
    drop(turn);
    assert_eq!(desk.wished().await, Wish::Run);
    drop(desk.serves_wish());
    assert_eq!(desk.wished().await, Wish::Run);
    desk.serves_wish().served();
    assert!(tokio::time::timeout(short, desk.wished()).await.is_err());
}

/// The tests that count run one after the other: a provider is made by a plain function.
static CONFIRMED: Mutex<u32> = Mutex::new(0);

struct Confirms;

#[async_trait]
impl Provider for Confirms {
    async fn ask(&self, _: &Attempt) -> Result<Enrolment, BootstrapError> {
        Ok(enrolment(LAYER, "pw"))
    }

    async fn confirm(&self, receipt: &str) -> Result<(), BootstrapError> {
        assert_eq!(receipt, "receipt-1");
        let mut confirmed = CONFIRMED.lock().unwrap();
        *confirmed += 1;
        // The answer to the first is lost.
        match *confirmed {
            1 => Err(BootstrapError::Network {
                url: "https://core.example".to_owned(),
                source: "cut".into(),
            }),
            _ => Ok(()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_burnt_after_the_confirm_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, "external").unwrap();
    let make: MakeProvider = |_, _, _| Ok(Box::new(Confirms));
    let once = |connected| {
        let (mut bootstrap, applied) = bootstrap(dir.path(), "one_time = true\n", make);
        bootstrap.look = Box::new(move || seen(connected));
        (bootstrap, applied)
    };
    let (first, _applied) = once(false);
    until_applied(first).await;
    let layer = config::cloud_file(&dir.path().join("data"));
    let layer = std::fs::read_to_string(layer).unwrap();
    assert!(layer.contains("secrets/current/mqtt.password"), "{layer}");

    // Applied, and not connected: the key stays.
    let (trial, _applied) = once(false);
    let desk = trial.desk.clone();
    let _ = tokio::time::timeout(Duration::from_secs(3000), trial.run()).await;
    assert_eq!(desk.status().unwrap().state, "trial");
    assert!(key.exists());
    assert_eq!(*CONFIRMED.lock().unwrap(), 0);

    let (proven, _applied) = once(true);
    let desk = proven.desk.clone();
    let _ = tokio::time::timeout(Duration::from_secs(3000), proven.run()).await;
    assert_eq!(desk.status().unwrap().state, "ready");
    assert_eq!(*CONFIRMED.lock().unwrap(), 2);
    assert!(!key.exists());

    // Somebody brings the same key again: it is known to be spent.
    std::fs::write(&key, "external").unwrap();
    let (again, _applied) = once(true);
    let store = Store::new(&again.data_dir);
    let state = store.state().unwrap();
    assert_eq!(again.key(&store, &state), None);
    std::fs::write(&key, "a new one").unwrap();
    assert!(again.key(&store, &state).is_some());
}

/// What the core says, by the number of the request.
static ASKED: Mutex<u32> = Mutex::new(0);

#[tokio::test(start_paused = true)]
async fn an_enrolment_that_does_not_connect_gives_way_to_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key"), "external").unwrap();
    let make: MakeProvider = |_, _, _| {
        Ok(Box::new(Says(|| {
            let mut asked = ASKED.lock().unwrap();
            *asked += 1;
            let password = match *asked {
                1 | 2 => "good",
                _ => "bad",
            };
            Ok(enrolment(LAYER, password))
        })))
    };
    let password = || {
        let path = dir.path().join("data/secrets/current/mqtt.password");
        std::fs::read_to_string(path).unwrap()
    };
    let once = |connected| {
        let (mut bootstrap, applied) = bootstrap(dir.path(), "", make);
        bootstrap.look = Box::new(move || seen(connected));
        (bootstrap, applied)
    };
    until_applied(once(false).0).await;
    let (settles, _applied) = once(true);
    let desk = settles.desk.clone();
    let _ = tokio::time::timeout(Duration::from_secs(100), settles.run()).await;
    assert_eq!(desk.status().unwrap().state, "ready");
    // A static key has moved to where only the service reads it.
    assert!(!dir.path().join("key").exists());
    assert!(dir.path().join("data/secrets/bootstrap.key").exists());

    // Asked by a person: the same, so nothing is applied; then another one.
    let (asked, _applied) = once(true);
    let desk = asked.desk.clone();
    desk.say(Some(BootstrapStatus::default()));
    assert!(desk.ask_for(Wish::Run));
    let _ = tokio::time::timeout(Duration::from_secs(100), asked.run()).await;
    assert!(
        desk.status()
            .unwrap()
            .message
            .unwrap()
            .contains("the same enrolment")
    );
    assert_eq!(password(), "good");
    let (asked, _applied) = once(true);
    asked.desk.say(Some(BootstrapStatus::default()));
    asked.desk.ask_for(Wish::Run);
    until_applied(asked).await;
    assert_eq!(password(), "bad");

    let began = Instant::now();
    until_applied(once(false).0).await;
    assert!(began.elapsed() >= TRIAL_LIMIT);
    assert_eq!(password(), "good");
}

#[tokio::test(start_paused = true)]
async fn reset_forgets_everything_and_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key"), "external").unwrap();
    let make: MakeProvider = |_, _, _| Ok(Box::new(Says(|| Ok(enrolment(LAYER, "pw")))));
    until_applied(bootstrap(dir.path(), "", make).0).await;
    let (task, _applied) = bootstrap(dir.path(), "", make);
    task.desk.say(Some(BootstrapStatus::default()));
    task.desk.ask_for(Wish::Reset);
    until_applied(task).await;
    let data = dir.path().join("data");
    assert!(!config::cloud_file(&data).exists());
    assert_eq!(Store::new(&data).state().unwrap(), State::default());
}

#[test]
fn said_needs_a_status() {
    let dir = tempfile::tempdir().unwrap();
    let (task, _applied) = bootstrap(dir.path(), "", |_, _, _| panic!("nothing is asked"));
    assert!(!task.desk.ask_for(Wish::Run), "no bootstrap is configured");
    task.say("denied", Some("because".to_owned()));
    assert_eq!(said(&task), ("denied".to_owned(), "because".to_owned()));
}

/// How often the core was asked in the test below.
static AGAIN: Mutex<u32> = Mutex::new(0);

/// The first enrolment is refused by the broker, and the core has no other one: it is asked at a walking pace.
#[tokio::test(start_paused = true)]
async fn a_refused_first_enrolment_is_asked_about_slowly() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key"), "external").unwrap();
    let make: MakeProvider = |_, _, _| {
        Ok(Box::new(Says(|| {
            *AGAIN.lock().unwrap() += 1;
            Ok(enrolment(LAYER, "pw"))
        })))
    };
    until_applied(bootstrap(dir.path(), "", make).0).await;
    let (mut trial, _applied) = bootstrap(dir.path(), "", make);
    let began = Instant::now();
    trial.look = Box::new(move || {
        let mut seen = seen(false);
        let first = Refusals::one_more(None, began);
        let second = Refusals::one_more(Some(first), began);
        seen.uplinks[0].refusals = Some(Refusals::one_more(Some(second), Instant::now()));
        seen
    });
    let desk = trial.desk.clone();
    let day = Duration::from_secs(24 * 3600);
    let _ = tokio::time::timeout(day, trial.run()).await;
    let asked = *AGAIN.lock().unwrap();
    assert!((20..=26).contains(&asked), "{asked} times in a day");
    let status = desk.status().unwrap();
    assert_eq!(status.state, "trial");
    assert!(status.message.unwrap().contains("refuses the enrolment"));
}
