//! The audit on disk: who changed what, as lines of JSON in `<data_dir>/audit.log`.
//!
//! Whatever is logged under the target `audit` goes there, too: writes, commands, changed configurations, what people did over
//! the local API. A file that is full becomes `audit.log.1`, and the oldest of them goes. The first line of each names the form.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use millrace_tags::Clock;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The target of what is audited.
const TARGET: &str = "audit";

/// Some five thousand lines.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Old files beside the newest.
const FILES_OLD: usize = 4;

/// Who changed what is the business of the service and of its group.
const MODE: u32 = 0o640;

/// The form of the file and its version.
const HEAD: &str = "{\"millrace_audit\":1}\n";

/// Lines that are shown at most.
const LINES_SHOWN: usize = 1_000;

static AUDIT: OnceLock<Mutex<Audit>> = OnceLock::new();

struct Audit {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    file: Option<(File, u64)>,
    /// Said once, until it works again.
    failing: bool,
}

/// Audits into this data directory from now on; the first one stays.
pub(crate) fn begin(data_dir: &Path, clock: Arc<dyn Clock>) {
    let audit = Audit {
        path: data_dir.join("audit.log"),
        clock,
        file: None,
        failing: false,
    };
    // A second agent in one process is a test's.
    let _ = AUDIT.set(Mutex::new(audit));
}

/// The newest lines, oldest first, the old file's before.
pub(crate) fn lines(data_dir: &Path) -> Vec<Value> {
    let mut lines = VecDeque::new();
    for name in ["audit.log.1", "audit.log"] {
        let text = std::fs::read(data_dir.join(name)).unwrap_or_default();
        for line in String::from_utf8_lossy(&text).lines() {
            let line = serde_json::from_str::<Value>(line).ok();
            let Some(line) = line.filter(|line| line.get("what").is_some()) else {
                continue;
            };
            if lines.len() == LINES_SHOWN {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    }
    lines.into()
}

impl Audit {
    fn write(&mut self, mut line: Map<String, Value>) {
        let now = self.clock.timebase().utc(self.clock.now());
        let time = now.map_or(Value::Null, |now| (now.0 / 1_000_000).into());
        line.insert("t".to_owned(), time);
        let mut text = Value::Object(line).to_string();
        text.push('\n');
        match self.append(text.as_bytes()) {
            Ok(()) => self.failing = false,
            Err(error) => {
                self.file = None;
                if !std::mem::replace(&mut self.failing, true) {
                    // Under another target, or it would come here again.
                    tracing::error!(path = %self.path.display(), error = %error, "the audit cannot be written");
                }
            }
        }
    }

    fn append(&mut self, line: &[u8]) -> std::io::Result<()> {
        if self
            .file
            .as_ref()
            .is_some_and(|(_, bytes)| *bytes >= FILE_BYTES_MAX)
        {
            self.file = None;
            self.rotate()?;
        }
        let (file, bytes) = match &mut self.file {
            Some(open) => open,
            None => self.file.insert(open(&self.path)?),
        };
        file.write_all(line)?;
        *bytes += line.len() as u64;
        Ok(())
    }

    fn rotate(&self) -> std::io::Result<()> {
        let old = |number: usize| match number {
            0 => self.path.clone(),
            number => self.path.with_extension(format!("log.{number}")),
        };
        for number in (0..FILES_OLD).rev() {
            match std::fs::rename(old(number), old(number + 1)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> std::io::Result<(File, u64)> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let mut options = OpenOptions::new();
    let mut file = options.create(true).append(true).mode(MODE).open(path)?;
    let mut bytes = file.metadata()?.len();
    if bytes == 0 {
        file.write_all(HEAD.as_bytes())?;
        bytes = HEAD.len() as u64;
    }
    Ok((file, bytes))
}

/// Takes what is audited out of the log.
pub(crate) struct AuditLayer;

impl<S: Subscriber> Layer<S> for AuditLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != TARGET {
            return;
        }
        let Some(audit) = AUDIT.get() else {
            return;
        };
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let level = event.metadata().level().as_str().to_lowercase();
        fields.0.insert("level".to_owned(), level.into());
        audit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(fields.0);
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        let name = match field.name() {
            "message" => "what",
            name => name,
        };
        self.0.insert(name.to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use millrace_tags::{TestClock, Timestamp};

    use super::*;

    #[test]
    fn files_are_rotated_and_the_newest_lines_are_shown() {
        let dir = tempfile::tempdir().unwrap();
        let mut audit = Audit {
            path: dir.path().join("audit.log"),
            clock: Arc::new(TestClock::new(1, Some(Timestamp::from_unix_ms(7)))),
            file: None,
            failing: false,
        };
        let line = |number: u64| {
            let mut line = Map::new();
            line.insert("what".into(), "write".into());
            line.insert("number".into(), number.into());
            line.insert("pad".into(), "x".repeat(4096).into());
            line
        };
        for number in 0..2_000 {
            audit.write(line(number));
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let expected = ["", ".1", ".2", ".3", ".4"].map(|end| format!("audit.log{end}"));
        assert_eq!(names, expected);
        for name in &names {
            let text = std::fs::read_to_string(dir.path().join(name)).unwrap();
            assert!(text.starts_with(HEAD) && text.len() < 2 << 20);
        }
        let lines = lines(dir.path());
        let numbers: Vec<u64> = lines
            .iter()
            .map(|line| line["number"].as_u64().unwrap())
            .collect();
        assert_eq!(numbers.last(), Some(&1_999));
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        assert_eq!(lines[0]["t"], 7);
    }
}
