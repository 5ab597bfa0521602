//! Totals over restarts: how far each counter that rolls over has come, in one small file.
//!
//! A total is the driver's ([`Total`]); here it is kept. The file is written every [`SAVE_INTERVAL`] where something
//! has changed, and when polling has ended. What is lost by a power cut is made up for by the counter itself: it is
//! taken up at an older number, and the way from there is counted at the first read. Only a counter that turns
//! round once within the interval loses a turn.
//!
//! Format: a line `millrace-totals 1`, then one JSON object by full name of the tag. A file of another version is
//! left alone, and totals begin anew without being kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_drivers::modbus::{Count, PointSpec, Total};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::device::chain;
use crate::durable;

/// The first line of the file.
const HEAD: &str = "millrace-totals 1";

/// What the head of any version begins with.
const MAGIC: &str = "millrace-totals ";

/// How long a power cut may set a counter's known number back. Short against the turn of any counter that is worth
/// polling, long enough to spare flash.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);

/// The totals of a configuration, and what was kept of them.
#[derive(Default)]
pub(crate) struct Totals {
    /// `None` where the file must be left alone.
    path: Option<PathBuf>,
    kept: BTreeMap<String, Kept>,
    running: Vec<Running>,
    /// As it is on the disk.
    written: Mutex<String>,
}

struct Running {
    name: String,
    place: String,
    total: Arc<Total>,
}

/// How far a counter has come, and which one it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Where and how it is read: another counter begins anew.
    place: String,
    /// How many numbers it has.
    numbers: u128,
    raw: u64,
    total: u64,
}

impl Totals {
    /// Those that were kept in the directory.
    pub(crate) fn open(data_dir: &Path) -> Self {
        let path = data_dir.join("totals");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                tracing::error!(path = %path.display(), error = %error, "totals cannot be read; they begin anew");
                String::new()
            }
        };
        if text.starts_with(MAGIC) && text.lines().next() != Some(HEAD) {
            tracing::error!(path = %path.display(), "a newer version of millrace wrote the totals, and has them again when it is back; with this one they begin anew and are not kept");
            return Self::default();
        }
        let body = text.strip_prefix(HEAD).unwrap_or("{}");
        let kept = serde_json::from_str(body).unwrap_or_else(|error| {
            tracing::error!(path = %path.display(), error = %error, "the totals are damaged; they begin anew");
            BTreeMap::new()
        });
        Self {
            path: Some(path),
            kept,
            running: Vec::new(),
            written: Mutex::new(text),
        }
    }

    /// Takes a total in: it goes on from where it was, where this is the same counter.
    pub(crate) fn keep(&mut self, name: String, spec: &PointSpec, total: Arc<Total>) {
        let (address, data_type, order) = (spec.address(), spec.data_type(), spec.order());
        let place = format!("{address} {data_type} {order}");
        if let Some(kept) = self.kept.get(&name)
            && kept.place == place
            && kept.numbers == total.numbers()
        {
            let (raw, total_now) = (kept.raw, kept.total);
            total.restore(Count {
                raw,
                total: total_now,
            });
        }
        self.running.push(Running { name, place, total });
    }

    /// Saves now and then until `shutdown`, and once more then.
    pub(crate) async fn save_regularly(self, shutdown: CancellationToken) {
        if self.running.is_empty() {
            return;
        }
        let totals = Arc::new(self);
        let mut failed = false;
        loop {
            let last = tokio::select! {
                () = shutdown.cancelled() => true,
                () = tokio::time::sleep(SAVE_INTERVAL) => false,
            };
            let saving = totals.clone();
            let saved = tokio::task::spawn_blocking(move || saving.save()).await;
            let error = match saved {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(chain(&error)),
                Err(error) => Some(error.to_string()),
            };
            if let Some(error) = error.as_ref().filter(|_| !failed || last) {
                tracing::error!(error = %error, "the totals are not kept; a restart takes them up at an older number");
            }
            failed = error.is_some();
            if last {
                return;
            }
        }
    }

    /// Writes the file where something has changed.
    fn save(&self) -> std::io::Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        // Those of tags that are not there now stay: a device may be switched off for a while.
        let mut kept = self.kept.clone();
        for Running { name, place, total } in &self.running {
            if let Some(Count { raw, total: sum }) = total.count_now() {
                let count = Kept {
                    place: place.clone(),
                    numbers: total.numbers(),
                    raw,
                    total: sum,
                };
                kept.insert(name.clone(), count);
            }
        }
        let text = format!("{HEAD}\n{}\n", serde_json::to_string_pretty(&kept)?);
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if *written != text {
            durable::write(path, text.as_bytes(), 0o640)?;
            *written = text;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(totals: &mut Totals, address: &str) -> Arc<Total> {
        let (address, data_type) = (address.parse().unwrap(), "u64".parse().unwrap());
        let spec = PointSpec::new(address, data_type, Default::default()).unwrap();
        let total = Arc::new(Total::new(&spec, None, None).unwrap());
        totals.keep("meter/energy".to_owned(), &spec, total.clone());
        total
    }

    const COUNT: Count = Count {
        raw: 65_000,
        total: 1_000_000,
    };

    #[test]
    fn a_total_goes_on_after_a_restart_if_it_is_the_same_counter() {
        let dir = tempfile::tempdir().unwrap();
        let mut totals = Totals::open(dir.path());
        total(&mut totals, "holding:0").restore(COUNT);
        totals.save().unwrap();

        let mut totals = Totals::open(dir.path());
        assert_eq!(total(&mut totals, "holding:0").count_now(), Some(COUNT));
        // Nobody has read it since: what was kept stays.
        totals.save().unwrap();
        let mut totals = Totals::open(dir.path());
        assert_eq!(total(&mut totals, "holding:2").count_now(), None);
        totals.save().unwrap();
        let mut totals = Totals::open(dir.path());
        assert_eq!(total(&mut totals, "holding:0").count_now(), Some(COUNT));
    }

    #[test]
    fn damage_begins_anew_and_another_version_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("totals");
        for (text, left) in [
            ("garbage", false),
            ("millrace-totals 1\n{\"meter/en", false),
            ("millrace-totals 2\n[]", true),
        ] {
            std::fs::write(&path, text).unwrap();
            let mut totals = Totals::open(dir.path());
            let total = total(&mut totals, "holding:0");
            assert_eq!(total.count_now(), None);
            total.restore(COUNT);
            totals.save().unwrap();
            let after = std::fs::read_to_string(&path).unwrap();
            assert_eq!(after == text, left, "{after}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_word_is_saved_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut totals = Totals::open(dir.path());
        total(&mut totals, "holding:0").restore(COUNT);
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        totals.save_regularly(shutdown).await;
        let text = std::fs::read_to_string(dir.path().join("totals")).unwrap();
        assert!(text.starts_with("millrace-totals 1\n"), "{text}");
        assert!(text.contains("\"total\": 1000000"), "{text}");
    }
}
