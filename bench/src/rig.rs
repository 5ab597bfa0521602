//! A store to be measured.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use millrace_buffer::{Budget, Buffer, Item, Settings, Start, TagSpec};
use millrace_tags::{Sample, SourceId, SourceKind, SystemClock, TagId, ValueType};

use crate::signals::TAGS;

/// The uplink that drains it.
const UPLINK: &str = "cloud";

/// Samples that are taken at a time.
pub(crate) const PARCEL_SAMPLES: usize = 1000;

/// The buffer removes every few seconds.
const REMOVAL_MAX: Duration = Duration::from_secs(60);

/// A buffer with one source of [`TAGS`] tags and one uplink. Commits are made when asked for.
pub struct Rig {
    /// The buffer.
    pub buffer: Buffer,
    /// The source.
    pub source: SourceId,
    /// Its tags.
    pub tags: Vec<TagId>,
}

impl Rig {
    /// Opens a buffer of epochs of that size. Settled epochs go at once.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(dir: &Path, epoch_bytes: u64) -> Result<Self> {
        Self::with(Self::settings(dir, epoch_bytes))
    }

    /// What [`Rig::open`] sets.
    pub(crate) fn settings(dir: &Path, epoch_bytes: u64) -> Settings {
        Settings {
            commit_interval: Duration::from_secs(3600),
            max_bytes: 1 << 40,
            epoch_bytes,
            keep: Duration::ZERO,
            ..Settings::new(dir)
        }
    }

    /// Opens a buffer that is set up like this.
    pub(crate) fn with(settings: Settings) -> Result<Self> {
        let buffer = Buffer::open(settings, Arc::new(SystemClock::new()))?;
        let spec = |i: usize| TagSpec {
            name: format!("tag-{i}").into(),
            value_type: ValueType::Any,
            unit: None,
        };
        let specs: Vec<TagSpec> = (0..TAGS).map(spec).collect();
        let registration = buffer.register("plant", SourceKind::Device, &specs);
        drop(buffer.outbox(UPLINK, Start::Oldest));
        Ok(Self {
            buffer,
            source: registration.source,
            tags: registration.tags,
        })
    }

    /// Appends scans and commits them.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn ingest(&self, scans: Vec<Vec<Sample>>) -> Result<()> {
        for samples in scans {
            self.buffer.append(self.source, samples);
        }
        self.buffer.commit().context("the commit failed")
    }

    /// Takes and acks that many samples, which are all that are queued, and waits until they are removed.
    ///
    /// # Errors
    /// Nothing comes any more, although something is queued.
    pub fn drain(&self, samples: u64) -> Result<()> {
        self.take(samples)?;
        self.until_removed()
    }

    /// Takes and acks that many samples, which are all that are queued.
    ///
    /// # Errors
    /// Nothing comes any more, although something is queued.
    pub fn take(&self, samples: u64) -> Result<()> {
        let mut outbox = self.buffer.outbox(UPLINK, Start::Oldest);
        let (wake, woken): (_, Receiver<()>) = channel();
        outbox.set_wake(Box::new(move || {
            // Whoever drains may have gone.
            let _ = wake.send(());
        }));
        let budget = Budget {
            records: PARCEL_SAMPLES,
            backlog: true,
        };
        let mut drained = 0;
        loop {
            while let Some(offer) = outbox.next(budget) {
                if let Item::Parcel(parcel) = &offer.item {
                    drained += parcel.records.len() as u64;
                }
                outbox.acked(offer.id);
            }
            if drained >= samples {
                break;
            }
            woken
                .recv_timeout(Duration::from_secs(60))
                .context("the drain stands still")?;
        }
        anyhow::ensure!(drained == samples, "{drained} of {samples} samples came");
        Ok(())
    }

    /// Waits until what is settled has been removed.
    fn until_removed(&self) -> Result<()> {
        let deadline = Instant::now() + REMOVAL_MAX;
        while self.buffer.status().data.epochs > 1 {
            anyhow::ensure!(Instant::now() < deadline, "settled epochs are not removed");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// What a directory takes on the disk.
///
/// # Errors
/// It cannot be read.
pub(crate) fn directory_bytes(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += match meta.is_dir() {
            true => directory_bytes(&entry.path())?,
            false => meta.blocks() * 512,
        };
    }
    Ok(sum)
}
