//! A server that is restarted again and again: memory stays flat, there is never a second session, and no value is lost that
//! the server could give back from its history.
//!
//! `MILLRACE_CHURN_SECONDS` sets for how long, `MILLRACE_CHURN_EVERY` the seconds from one restart to the next;
//! `MILLRACE_SEED` what the server serves.
#![cfg(feature = "sim")]
// A test that cannot set itself up has failed.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use millrace_drivers::Driver;
use millrace_drivers::opcua::{Item, NodeAddress, OpcuaDriver, Security, Settings};
use millrace_drivers::sim::opcua::{
    NAMESPACE_URI, SimOpcua, SimOpcuaSettings, Timed, Upset, When, nodes_from_csv,
};
use millrace_tags::{Sample, SystemClock, TagId, Timestamp};

/// Where nothing else is asked for.
const SECONDS: u64 = 8;
const EVERY: u64 = 2;
const SEED: u64 = 1;

/// How long the port is closed.
const AWAY: Duration = Duration::from_millis(500);

const NODES: usize = 20;
const INTERVAL: Duration = Duration::from_millis(100);

/// Values of a node that the server can give back: minutes.
const HISTORY: usize = 5_000;

/// Values of which it is known whether they come a second time: a minute.
const DONE_KEPT: usize = NODES * 600;

/// Set for the process that is the server; its seed.
const SERVER: &str = "MILLRACE_CHURN_SERVER";

/// 100 ns steps from 1601 to 1970.
const TICKS_TO_UNIX: i64 = 116_444_736_000_000_000;

/// Memory may grow by this before a run counts as steady: caches of the allocator, larger buffers.
const GROWTH_MAX_MB: f64 = 3.0;

fn number<T: FromStr>(variable: &str, default: T) -> T {
    let given = std::env::var(variable).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn every() -> Duration {
    Duration::from_secs(number("MILLRACE_CHURN_EVERY", EVERY))
}

fn name(place: usize) -> String {
    format!("Tick{place}")
}

/// The server, as a process of its own: it says what it records, and how many sessions it has seen at once.
#[tokio::test]
async fn server() {
    let Some(seed) = std::env::var(SERVER)
        .ok()
        .and_then(|seed| seed.parse().ok())
    else {
        return;
    };
    let lines = (0..NODES).map(|place| format!("{},i64,tick 100ms\n", name(place)));
    let csv = format!("name,type,signal\n{}", lines.collect::<String>());
    let nodes = nodes_from_csv(csv.as_bytes()).unwrap();
    let mut settings = SimOpcuaSettings::new("127.0.0.1:0".parse().unwrap(), nodes);
    (settings.interval, settings.history, settings.seed) = (INTERVAL, HISTORY, seed);
    let (upset, when) = (Upset::Restart(AWAY), When::Every(every()));
    settings.faults.timed.push(Timed { upset, when });
    let sim = SimOpcua::start(settings).await.unwrap();
    println!("url {}", sim.url());
    let (ended, mut end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let lines = std::io::stdin().lines().count();
        let _ = ended.send(lines);
    });
    let mut told = [0i64; NODES];
    let mut last = false;
    while !last {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
            _ = &mut end => {
                sim.freeze(true);
                last = true;
            }
        }
        for (place, told) in told.iter_mut().enumerate() {
            let recorded = sim.recorded(&name(place));
            for value in recorded.iter().filter(|value| value.ticks > *told) {
                println!("value {place} {} {}", value.ticks, value.number);
            }
            *told = recorded.last().map_or(*told, |value| value.ticks);
        }
        let restarts = sim.happened().get("restart").copied().unwrap_or(0);
        println!("state {} {restarts}", sim.sessions_peak());
    }
    println!("all");
    // The client fetches the rest.
    std::future::pending::<()>().await;
}

/// What the server says.
enum Said {
    Value(u32, Timestamp, i64),
    State { sessions: u32, restarts: u64 },
    All,
}

struct Server {
    child: Child,
    url: String,
    said: Receiver<Said>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(seed: u64) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["server", "--exact", "--nocapture", "--test-threads=1"])
            .env(SERVER, seed.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let (sender, said) = channel();
        let (url_sender, url) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The test harness speaks, too, and not always on a line of its own.
                let at = ["url ", "value ", "state ", "all"].map(|word| line.find(word));
                let Some(at) = at.into_iter().flatten().min() else {
                    continue;
                };
                let words: Vec<&str> = line[at..].split(' ').collect();
                let heard = match words[..] {
                    ["url", url] => {
                        let _ = url_sender.send(url.to_owned());
                        continue;
                    }
                    ["value", place, ticks, number] => {
                        let ticks: i64 = ticks.parse().unwrap();
                        let time = Timestamp((ticks - TICKS_TO_UNIX) * 100);
                        Said::Value(place.parse().unwrap(), time, number.parse().unwrap())
                    }
                    ["state", sessions, restarts] => Said::State {
                        sessions: sessions.parse().unwrap(),
                        restarts: restarts.parse().unwrap(),
                    },
                    ["all"] => Said::All,
                    _ => continue,
                };
                if sender.send(heard).is_err() {
                    return;
                }
            }
        });
        let url = url.recv_timeout(Duration::from_secs(60)).unwrap();
        Self { child, url, said }
    }
}

/// What came, held against what was recorded.
#[derive(Default)]
struct Account {
    /// Recorded and not received yet, by tag and time.
    expected: BTreeMap<(u32, Timestamp), i64>,
    /// Received and not yet told by the server.
    ahead: BTreeMap<(u32, Timestamp), i64>,
    /// Received, told, and young enough to come a second time.
    done: BTreeSet<(Timestamp, u32)>,
    /// What is older was served before the first session.
    begin: Option<Timestamp>,
    received: u64,
    again: u64,
    wrong: u64,
    sessions: u32,
    restarts: u64,
    all: bool,
}

impl Account {
    fn recorded(&mut self, tag: u32, time: Timestamp, number: i64) {
        match self.ahead.remove(&(tag, time)) {
            Some(came) => {
                self.wrong += u64::from(came != number);
                self.finish(tag, time);
            }
            None if self.begin.is_some_and(|begin| time >= begin) => {
                self.expected.insert((tag, time), number);
            }
            None => {}
        }
    }

    fn received(&mut self, sample: &Sample) {
        let Some((time, value)) = sample.source_time.zip(sample.value.as_ref()) else {
            return;
        };
        let (tag, number) = match value {
            millrace_tags::Value::I64(number) => (sample.tag.0, *number),
            _ => panic!("{sample:?}"),
        };
        self.received += 1;
        if let Some(expected) = self.expected.remove(&(tag, time)) {
            self.wrong += u64::from(expected != number);
            self.finish(tag, time);
        } else if self.done.contains(&(time, tag)) || self.ahead.contains_key(&(tag, time)) {
            self.again += 1;
        } else {
            self.ahead.insert((tag, time), number);
        }
    }

    fn finish(&mut self, tag: u32, time: Timestamp) {
        self.done.insert((time, tag));
        while self.done.len() > DONE_KEPT {
            self.done.pop_first();
        }
    }

    fn listen(&mut self, said: &Receiver<Said>) {
        for said in said.try_iter() {
            match said {
                Said::Value(tag, time, number) => self.recorded(tag, time, number),
                Said::State { sessions, restarts } => {
                    (self.sessions, self.restarts) = (sessions, restarts);
                }
                Said::All => self.all = true,
            }
        }
    }
}

/// The resident set of this process, MB.
fn rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = line
        .and_then(|rest| rest.split_whitespace().next())
        .unwrap();
    kb.parse::<f64>().unwrap() / 1e3
}

/// By how much the line that fits the points best rises from the first to the last.
fn rise(points: &[(f64, f64)]) -> f64 {
    let count = points.len().max(1) as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let both: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let square: f64 = points.iter().map(|p| (p.0 - x) * (p.0 - x)).sum();
    let span = points.last().map_or(0.0, |p| p.0) - points.first().map_or(0.0, |p| p.0);
    if square > 0.0 {
        both / square * span
    } else {
        0.0
    }
}

#[tokio::test]
async fn a_server_is_restarted_again_and_again() {
    if std::env::var_os(SERVER).is_some() {
        return;
    }
    let seconds: u64 = number("MILLRACE_CHURN_SECONDS", SECONDS);
    let seed = number("MILLRACE_SEED", SEED);
    let mut server = Server::start(seed);
    let pki = tempfile::tempdir().unwrap();
    let items = (0..NODES).map(|place| {
        let node = NodeAddress::named(NAMESPACE_URI, &name(place));
        Item::new(TagId(place as u32), node, INTERVAL)
    });
    let settings = Settings {
        security: Security::None,
        publish_interval: Duration::from_millis(500),
        timeout: Duration::from_secs(10),
        ..Settings::new("churned", &server.url, pki.path())
    };
    let driver = OpcuaDriver::new(settings, items.collect(), Arc::new(SystemClock::new()));
    let mut account = Account::default();
    let began = Instant::now();
    let until = began + Duration::from_secs(seconds);
    let mut memory: Vec<(f64, f64)> = Vec::new();
    let mut told = began;
    // What was recorded is fetched after the last value, too; a run that does not get there has lost something.
    let patience = Duration::from_secs(30);
    while !(account.all && account.expected.is_empty()) && Instant::now() < until + patience {
        let Ok(mut session) = driver.open().await else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        account.begin = account.begin.or_else(|| {
            let now = std::time::SystemTime::now();
            let now = now.duration_since(std::time::UNIX_EPOCH).unwrap();
            Some(Timestamp(now.as_nanos() as i64))
        });
        while let Ok(reading) = tokio::time::timeout(Duration::from_secs(2), session.notified())
            .await
            .unwrap_or_else(|_| Ok(Default::default()))
        {
            reading.samples.iter().for_each(|s| account.received(s));
            if let Some(receipt) = reading.receipt {
                session.settle(receipt);
            }
            account.listen(&server.said);
            if told.elapsed() >= Duration::from_secs(1) {
                told = Instant::now();
                memory.push((began.elapsed().as_secs_f64(), rss_mb()));
                if memory.len().is_multiple_of(60) {
                    tell(&account, &memory, seed);
                }
            }
            if Instant::now() >= until {
                // The server holds still, and says what it has recorded until then.
                drop(server.child.stdin.take());
            }
            if account.all && account.expected.is_empty() {
                break;
            }
        }
        session.close().await;
    }
    tell(&account, &memory, seed);
    assert!(account.restarts > 0, "the server was never restarted");
    assert!(account.received > 0, "no value came");
    assert_eq!((account.sessions, account.wrong), (1, 0));
    let lost: Vec<_> = account.expected.iter().take(10).collect();
    assert!(lost.is_empty(), "{} lost: {lost:?}", account.expected.len());
    // A restart shows each value as it stands once more.
    let stands = account.restarts * NODES as u64;
    assert!(account.again <= stands, "{} came again", account.again);
    let grown = grown(&memory);
    assert!(grown < GROWTH_MAX_MB, "memory grew by {grown} MB");
}

/// The rise after the first quarter of the run.
fn grown(memory: &[(f64, f64)]) -> f64 {
    rise(&memory[memory.len() / 4..])
}

fn tell(account: &Account, memory: &[(f64, f64)], seed: u64) {
    let (at, rss) = memory.last().copied().unwrap_or_default();
    println!(
        "seed {seed}, {at:.0} s: {} restarts, {} values, {} expected, {} again, {} wrong, {} sessions at most; \
         RSS {rss:.1} MB, rise {:.2} MB",
        account.restarts,
        account.received,
        account.expected.len(),
        account.again,
        account.wrong,
        account.sessions,
        grown(memory),
    );
}
