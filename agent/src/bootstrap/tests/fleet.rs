//! 200 gateways in one process, switched on at one moment: the bootstrap's own state machine and real sessions,
//! against one bootstrap service and one mosquitto.

use std::collections::BTreeMap;
use std::net::TcpListener as StdListener;
use std::process::{Child, Command, Stdio};

use millrace_uplink::{
    Consignment, Feed, Inbound, Message, Refusal, SessionState, Window, run as run_session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::*;

const GATEWAYS: usize = 200;
const SPREAD: Duration = Duration::from_secs(5);
/// A loaded machine is slow; every gateway that comes up does so far earlier.
const PATIENCE: Duration = Duration::from_secs(120);

struct Mosquitto(Child);

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `None`, with a message, where mosquitto is not installed.
async fn mosquitto(dir: &Path) -> Option<(Mosquitto, u16)> {
    let program = [
        "/usr/sbin/mosquitto",
        "/usr/local/sbin/mosquitto",
        "/usr/bin/mosquitto",
    ]
    .into_iter()
    .find(|path| Path::new(path).exists());
    let Some(program) = program else {
        eprintln!("skipped: mosquitto is not installed (apt-get install mosquitto)");
        return None;
    };
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let config = dir.join("mosquitto.conf");
    let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\n");
    std::fs::write(&config, text).unwrap();
    let process = Command::new(program)
        .arg("-c")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let broker = Mosquitto(process);
    let up = async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, up).await.unwrap();
    Some((broker, port))
}

/// Answers each gateway with an uplink of its own, and writes down when it asked first.
async fn service(broker: u16, first: Arc<Mutex<BTreeMap<String, Instant>>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let first = first.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let head = String::from_utf8(head).unwrap();
                let path = head.split(' ').nth(1).unwrap();
                let id = path.rsplit('/').next().unwrap().to_owned();
                first
                    .lock()
                    .unwrap()
                    .entry(id.clone())
                    .or_insert_with(Instant::now);
                let content = format!(
                    "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{broker}\"\nclient_id = \"{id}\"\n"
                );
                let body =
                    serde_json::json!({"thing_id": id, "thing_key": "pw", "content": content})
                        .to_string();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                let _ = stream.write_all((head + &body).as_bytes()).await;
            });
        }
    });
    port
}

/// A session that sends nothing and says whether it is connected.
struct Quiet {
    seen: Arc<Mutex<Seen>>,
    ready: Arc<Notify>,
}

impl Feed for Quiet {
    fn greeting(&mut self) -> Vec<Message> {
        Vec::new()
    }

    fn next(&mut self, _: Window) -> Option<Consignment> {
        None
    }

    fn acked(&mut self, _: u64) {}

    fn refused(&mut self, _: u64, _: Refusal) {}

    fn postponed(&mut self, _: u64) {}

    fn received(&mut self, _: Inbound) {}

    fn state(&mut self, state: &SessionState) {
        *self.seen.lock().unwrap() = seen(matches!(state, SessionState::Connected));
    }

    fn ready(&self) -> Arc<Notify> {
        self.ready.clone()
    }
}

/// One gateway, from power-on until it is enrolled and connected.
async fn gateway(number: usize, service: u16, began: Instant) {
    let dir = tempfile::tempdir().unwrap();
    let id = format!("fleet-{number}");
    std::fs::write(dir.path().join("key"), "external").unwrap();
    let local = dir.path().join("millrace.toml");
    let text = format!(
        "[gateway]\nid = \"{id}\"\ndata_dir = \"data\"\n\n[bootstrap]\nprovider = \"mainflux\"\n\
         url = \"http://127.0.0.1:{service}/things/bootstrap\"\nexternal_id = \"{id}\"\n\
         external_key_file = \"key\"\nspread = \"{}s\"\n",
        SPREAD.as_secs()
    );
    std::fs::write(&local, text).unwrap();
    let shown = Arc::new(Mutex::new(Seen::default()));
    let desk = Arc::<Desk>::default();
    loop {
        // What the supervisor does: the configuration on disk is applied, and everything begins anew.
        let config = config::load(Some(&local), None)
            .unwrap_or_else(|problems| panic!("{problems}"))
            .config;
        let shutdown = CancellationToken::new();
        let session = config.uplinks.first().map(|uplink| {
            let feed = Quiet {
                seen: shown.clone(),
                ready: Arc::default(),
            };
            tokio::spawn(run_session(uplink.session(), feed, shutdown.clone()))
        });
        let (changed, mut applied) = mpsc::channel(1);
        let look = shown.clone();
        let task = Bootstrap {
            settings: config.bootstrap.unwrap(),
            gateway: id.clone(),
            data_dir: config.gateway.data_dir,
            config: Some(local.clone()),
            desk: desk.clone(),
            changed,
            look: Box::new(move || look.lock().unwrap().clone()),
            make_provider: config::Bootstrap::provider,
        };
        let task = tokio::spawn(task.run());
        let enrolled = async {
            while desk.status().is_none_or(|status| status.state != "ready") {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let done = tokio::select! {
            _ = applied.recv() => false,
            () = enrolled => true,
            () = tokio::time::sleep_until(began + PATIENCE) => {
                panic!("{id} did not come up: {:?}", desk.status())
            }
        };
        task.abort();
        shutdown.cancel();
        if let Some(session) = session {
            session.await.unwrap();
        }
        if done {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_gateways_come_up_and_ask_spread_out() {
    let dir = tempfile::tempdir().unwrap();
    let Some((_broker, port)) = mosquitto(dir.path()).await else {
        return;
    };
    let first = Arc::<Mutex<BTreeMap<String, Instant>>>::default();
    let service = service(port, first.clone()).await;
    let began = Instant::now();
    let gateways: Vec<_> = (0..GATEWAYS)
        .map(|number| tokio::spawn(gateway(number, service, began)))
        .collect();
    for gateway in gateways {
        gateway.await.unwrap();
    }
    let took = began.elapsed();
    let mut asked: Vec<Duration> = first
        .lock()
        .unwrap()
        .values()
        .map(|at| at.duration_since(began))
        .collect();
    asked.sort_unstable();
    assert_eq!(asked.len(), GATEWAYS);
    let span = asked[GATEWAYS - 1].saturating_sub(asked[0]);
    let busiest = asked
        .iter()
        .map(|at| {
            let within = |other: &&Duration| **other >= *at && **other < *at + SPREAD / 10;
            asked.iter().filter(within).count()
        })
        .max();
    eprintln!(
        "fleet: {GATEWAYS} gateways up after {took:.1?}; first requests from {:.2?} to {:.2?} of a spread of {SPREAD:?} \
         ({:.0} %), at most {} in a tenth of it",
        asked[0],
        asked[GATEWAYS - 1],
        100.0 * span.as_secs_f64() / SPREAD.as_secs_f64(),
        busiest.unwrap_or_default()
    );
    assert!(span >= SPREAD.mul_f64(0.8), "{span:?}");
}
