//! Following a device as the agent's poller does: open, take and settle until it breaks, pause, open again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use millrace_drivers::Driver;
use millrace_drivers::opcua::{Item, OpcuaDriver, Settings};
use millrace_tags::{Reason, Sample, SystemClock, TagId, Value};
use tokio::task::JoinHandle;

use crate::plant::node;
use crate::session::PATIENCE;

/// From a failed attempt to the next.
const PAUSE: Duration = Duration::from_millis(100);

/// What was followed, in order.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Opened,
    Took(Sample),
    /// The session broke, or could not be opened.
    Broke(String),
}

/// A device that is followed until this is dropped.
pub(crate) struct Followed {
    steps: Arc<Mutex<Vec<Step>>>,
    remarks: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Follows the counter (tag 0) and what else is named.
pub(crate) fn follow(settings: Settings, others: &[&str]) -> Followed {
    let names = std::iter::once(&"Counter").chain(others);
    let interval = Duration::from_millis(100);
    let items = names.zip(0..);
    let items = items.map(|(name, tag)| Item::new(TagId(tag), node(name), interval));
    follow_items(settings, items.collect())
}

pub(crate) fn follow_items(settings: Settings, items: Vec<Item>) -> Followed {
    let driver = OpcuaDriver::new(settings, items, Arc::new(SystemClock::new()));
    let steps: Arc<Mutex<Vec<Step>>> = Arc::default();
    let remarks: Arc<Mutex<Vec<String>>> = Arc::default();
    let task = tokio::spawn(poll(driver, steps.clone(), remarks.clone()));
    Followed {
        steps,
        remarks,
        task,
    }
}

async fn poll(driver: OpcuaDriver, steps: Arc<Mutex<Vec<Step>>>, remarks: Arc<Mutex<Vec<String>>>) {
    let note = |step| steps.lock().expect("steps").push(step);
    loop {
        let error = match driver.open().await {
            Err(error) => error,
            Ok(mut session) => {
                note(Step::Opened);
                let error = loop {
                    match session.notified().await {
                        Ok(reading) => {
                            let samples = reading.known.into_iter().chain(reading.samples);
                            samples.map(Step::Took).for_each(note);
                            if let Some(receipt) = reading.receipt {
                                session.settle(receipt);
                            }
                        }
                        Err(error) => break error,
                    }
                    *remarks.lock().expect("remarks") = session.remarks();
                };
                session.close().await;
                error
            }
        };
        note(Step::Broke(error.to_string()));
        tokio::time::sleep(PAUSE).await;
    }
}

impl Followed {
    pub(crate) fn steps(&self) -> Vec<Step> {
        self.steps.lock().expect("steps").clone()
    }

    pub(crate) fn remarks(&self) -> String {
        self.remarks.lock().expect("remarks").join("\n")
    }

    /// Waits until the steps are as they should be.
    pub(crate) async fn until(&self, what: &str, mut done: impl FnMut(&[Step]) -> bool) {
        let waiting = async {
            while !done(&self.steps()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            let steps = self.steps();
            let last: Vec<&Step> = steps.iter().rev().take(10).collect();
            panic!("{what} did not happen; the last steps, newest first: {last:#?}");
        }
    }

    /// Waits for this value of the counter.
    pub(crate) async fn until_counted(&self, count: u64) {
        let sought = Some(Value::U64(count));
        let is_it =
            |step: &Step| matches!(step, Step::Took(s) if s.tag == TagId(0) && s.value == sought);
        self.until(&format!("count {count}"), |steps| steps.iter().any(is_it))
            .await;
    }

    /// Waits until there were so many breaks.
    pub(crate) async fn until_broken(&self, times: usize) {
        let is_break = |step: &&Step| matches!(step, Step::Broke(_));
        self.until("a break", |steps| {
            steps.iter().filter(is_break).count() >= times
        })
        .await;
    }

    /// Waits until so many sessions were opened.
    pub(crate) async fn until_opened(&self, times: usize) {
        let is_open = |step: &&Step| matches!(step, Step::Opened);
        self.until("a session", |steps| {
            steps.iter().filter(is_open).count() >= times
        })
        .await;
    }
}

/// What a receiver knows of the counter.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Count and source time of each value. The last one again after a break is the same value, known to be still good.
    pub(crate) values: Vec<(u64, i64)>,
    /// Between which values samples say that something is lost.
    pub(crate) marked: Vec<usize>,
}

pub(crate) fn account(steps: &[Step]) -> Account {
    let mut account = Account::default();
    let mut broken = false;
    for step in steps {
        match step {
            Step::Opened => {}
            Step::Broke(_) => broken = true,
            Step::Took(sample) if sample.tag != TagId(0) => {}
            Step::Took(sample) if sample.quality.reason() == Some(Reason::Lost) => {
                account.marked.push(account.values.len());
            }
            Step::Took(sample) => {
                let (Some(Value::U64(count)), Some(time)) = (&sample.value, sample.source_time)
                else {
                    panic!("{sample:?}");
                };
                let value = (*count, time.0);
                if !(broken && account.values.last() == Some(&value)) {
                    account.values.push(value);
                }
                broken = false;
            }
        }
    }
    account
}
