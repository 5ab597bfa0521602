//! A real mosquitto, where it is installed: publish through it, over TCP and over mutual TLS.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use millrace_uplink::{Message, ReconnectPolicy, SessionSettings, TlsFiles, run, test_connection};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::log_feed::{LogFeed, TOPIC};
use crate::pki::Pki;
use crate::ports;
use crate::subscriber::Subscriber;

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The broker's process; killed when it is dropped.
pub(crate) struct Mosquitto {
    process: Child,
    pub(crate) plain: u16,
    pub(crate) tls: u16,
    /// TLS that asks for no client certificate.
    pub(crate) tls_open: u16,
    pub(crate) ws: u16,
    pub(crate) wss: u16,
    pub(crate) pki: Pki,
}

impl Mosquitto {
    /// `None`, with a message, where mosquitto is not installed.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with("").await
    }

    /// Each listener has these further lines of configuration.
    pub(crate) async fn start_with(lines: &str) -> Option<Self> {
        let Some(program) = program() else {
            eprintln!("skipped: mosquitto is not installed (apt-get install mosquitto)");
            return None;
        };
        let pki = Pki::new();
        let (plain, tls, tls_open) = (free_port(), free_port(), free_port());
        let (ws, wss) = (free_port(), free_port());
        let file = |name: &str| pki.file(name).display().to_string();
        let config = format!(
            "user root\npersistence true\npersistence_location {}/\nper_listener_settings true\n\
             listener {plain} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 0\nmax_queued_messages 0\n\
             {lines}\n\
             listener {ws} 127.0.0.1\nprotocol websockets\nallow_anonymous true\n{lines}\n\
             listener {wss} 127.0.0.1\nprotocol websockets\nallow_anonymous true\nrequire_certificate true\n\
             cafile {ca}\ncertfile {cert}\nkeyfile {key}\n{lines}\n\
             listener {tls} 127.0.0.1\nallow_anonymous true\nrequire_certificate true\n\
             cafile {ca}\ncertfile {cert}\nkeyfile {key}\n{lines}\n\
             listener {tls_open} 127.0.0.1\nallow_anonymous true\ncertfile {cert}\nkeyfile {key}\n{lines}\n",
            pki.directory().display(),
            ca = file("ca.pem"),
            cert = file("localhost.pem"),
            key = file("localhost.key"),
        );
        let path = pki.file("mosquitto.conf");
        std::fs::write(&path, config).unwrap();
        let process = launch(&program, &pki);
        let mut broker = Self {
            process,
            plain,
            tls,
            tls_open,
            ws,
            wss,
            pki,
        };
        broker.answers().await;
        Some(broker)
    }

    async fn answers(&mut self) {
        let settings = self.settings();
        let up = async {
            while test_connection(&settings).await.is_err() {
                let ended = self.process.try_wait().unwrap();
                assert!(ended.is_none(), "mosquitto ended: {}", said(&self.pki));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(PATIENCE, up).await.is_err() {
            panic!("mosquitto does not answer: {}", said(&self.pki));
        }
    }

    /// Starts it again with the same configuration.
    pub(crate) async fn launch(&mut self) {
        let program = program().unwrap();
        self.process = launch(&program, &self.pki);
        self.answers().await;
    }

    /// Stops it with SIGTERM, upon which it writes its store, and starts it again.
    pub(crate) async fn restart(&mut self) {
        let id = self.process.id().to_string();
        let told = Command::new("kill").args(["-s", "TERM", &id]).status();
        assert!(told.unwrap().success());
        self.process.wait().unwrap();
        self.launch().await;
    }

    pub(crate) fn settings(&self) -> SessionSettings {
        let url = format!("mqtt://127.0.0.1:{}", self.plain);
        let mut settings = SessionSettings::new(url.parse().unwrap(), "gw-1");
        settings.reconnect = ReconnectPolicy {
            first: Duration::from_millis(10),
            longest: Duration::from_millis(100),
            ..ReconnectPolicy::default()
        };
        settings
    }

    pub(crate) fn tls_settings(&self) -> SessionSettings {
        let url = format!("mqtts://localhost:{}", self.tls);
        SessionSettings {
            endpoint: url.parse().unwrap(),
            tls: self.pki.client_files(),
            ..self.settings()
        }
    }

    pub(crate) fn ws_settings(&self) -> SessionSettings {
        let url = format!("ws://127.0.0.1:{}/mqtt", self.ws);
        SessionSettings {
            endpoint: url.parse().unwrap(),
            ..self.settings()
        }
    }

    pub(crate) fn wss_settings(&self) -> SessionSettings {
        let url = format!("wss://localhost:{}/mqtt", self.wss);
        SessionSettings {
            endpoint: url.parse().unwrap(),
            ..self.tls_settings()
        }
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

fn launch(program: &Path, pki: &Pki) -> Child {
    let log = File::create(pki.file("mosquitto.log")).unwrap();
    Command::new(program)
        .arg("-c")
        .arg(pki.file("mosquitto.conf"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// What it wrote since it was started.
fn said(pki: &Pki) -> String {
    std::fs::read_to_string(pki.file("mosquitto.log")).unwrap_or_default()
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian puts it where only root's PATH looks.
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join("mosquitto"))
        .find(|candidate| candidate.is_file())
}

pub(crate) fn free_port() -> u16 {
    ports::free_port().unwrap()
}

pub(crate) async fn deliver(broker: &Mosquitto, settings: SessionSettings, messages: u64) {
    let got = Subscriber::new(broker.plain, TOPIC).await;
    let feed = LogFeed::new(messages, 11);
    let progress = feed.progress();
    let shutdown = CancellationToken::new();
    let session = tokio::spawn(run(settings, feed, shutdown.clone()));
    let all = async {
        progress.wait_for(|p| p.acked() == messages).await;
        got.wait_for(messages as usize).await;
    };
    timeout(PATIENCE, all).await.expect("all delivered");
    shutdown.cancel();
    session.await.unwrap();
    let mut numbers: Vec<u64> = got
        .messages()
        .iter()
        .map(|message| {
            std::str::from_utf8(&message.payload)
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..messages).collect::<Vec<_>>());
}

#[tokio::test]
async fn delivers_over_tcp() {
    if let Some(broker) = Mosquitto::start().await {
        deliver(&broker, broker.settings(), 5000).await;
    }
}

#[tokio::test]
async fn delivers_over_mutual_tls_and_only_so() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    deliver(&broker, broker.tls_settings(), 2000).await;
    let without = SessionSettings {
        tls: TlsFiles {
            ca_file: Some(broker.pki.ca_file()),
            ..TlsFiles::default()
        },
        ..broker.tls_settings()
    };
    let error = test_connection(&without).await.unwrap_err();
    assert!(
        error.to_string().contains("check cert_file and key_file"),
        "{error}"
    );
}

#[tokio::test]
async fn the_will_is_published_when_the_session_is_dropped() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let got = Subscriber::new(broker.plain, "status").await;
    let mut settings = broker.settings();
    settings.will = Some(Message::retained("status", "offline"));
    let feed = LogFeed::new(1, 1).with_greeting(Message::retained("status", "online"));
    let session = tokio::spawn(run(settings, feed, CancellationToken::new()));
    timeout(PATIENCE, got.wait_for(1)).await.unwrap();
    session.abort();
    timeout(PATIENCE, got.wait_for(2)).await.expect("the will");
    let payloads: Vec<_> = got.messages().into_iter().map(|m| m.payload).collect();
    assert_eq!(payloads, ["online", "offline"]);
}

#[tokio::test]
async fn survives_a_killed_broker() {
    let Some(mut broker) = Mosquitto::start().await else {
        return;
    };
    let feed = LogFeed::new(200_000, 5);
    let progress = feed.progress();
    let shutdown = CancellationToken::new();
    let session = tokio::spawn(run(broker.settings(), feed, shutdown.clone()));
    timeout(PATIENCE, progress.wait_for(|p| p.acked() > 1000))
        .await
        .unwrap();
    broker.kill();
    let before = progress.acked();
    assert!(before < 200_000, "the broker was killed in the middle");
    let Some(program) = program() else { return };
    broker.process = launch(&program, &broker.pki);
    timeout(PATIENCE, progress.wait_for(|p| p.acked() > before + 1000))
        .await
        .expect("goes on after the restart");
    shutdown.cancel();
    session.await.unwrap();
}
