//! Reading tags from their devices now, beside the polling.

use std::sync::Arc;

use millrace_tags::{Sample, TagId};

use super::{Gateway, NotFound};
use crate::config::Pattern;
use crate::device::{Device, chain};
use crate::live::{TagLabel, tag_row};
use crate::report::{DeviceTest, TagRow};

impl Gateway {
    /// Reads a device through a session of its own and says what came.
    pub(crate) async fn test(&self, device: &Device) -> DeviceTest {
        match device.read_all().await {
            Err(error) => DeviceTest {
                name: device.name.clone(),
                error: Some(chain(&error)),
                ..DeviceTest::default()
            },
            Ok(fresh) => {
                let tags = self.fresh_rows(device, &fresh.samples, |_| true);
                DeviceTest {
                    name: device.name.clone(),
                    ok: tags.iter().all(|row| row.quality == "good"),
                    connect_ms: Some(fresh.connected.as_secs_f64() * 1e3),
                    read_ms: Some(fresh.read.as_secs_f64() * 1e3),
                    error: None,
                    tags,
                    remarks: fresh.remarks,
                }
            }
        }
    }

    /// Reads the tags that match from their devices, all devices at once. One that does not answer gives
    /// bad rows.
    ///
    /// # Errors
    /// Where no tag matches.
    pub(crate) async fn read(&self, names: &[String]) -> Result<Vec<TagRow>, NotFound> {
        let patterns: Vec<Pattern> = names.iter().map(Pattern::new).collect();
        let asked = |name: &str| patterns.iter().any(|pattern| pattern.matches(name));
        let found = self.live.find(asked);
        let devices: Vec<&Arc<Device>> = self
            .devices
            .iter()
            .filter(|device| found.iter().any(|(tag, _)| device.tags.contains(tag)))
            .collect();
        if devices.is_empty() {
            return Err(NotFound::tag(&names.join(" ")));
        }
        let reads = devices.iter().map(|device| self.read_fresh(device));
        let read = futures_util::future::join_all(reads).await;
        Ok(devices
            .iter()
            .zip(&read)
            .flat_map(|(device, samples)| self.fresh_rows(device, samples, asked))
            .collect())
    }

    /// Samples that the device gives now; bad ones where it does not answer.
    async fn read_fresh(&self, device: &Device) -> Vec<Sample> {
        match device.read_all().await {
            Ok(fresh) => fresh.samples,
            Err(error) => {
                let now = self.clock.now();
                let bad = |tag: &TagId| Sample::bad(*tag, error.reason(), now);
                device.tags.iter().map(bad).collect()
            }
        }
    }

    /// The last sample of each of the device's tags whose full name matches.
    fn fresh_rows(
        &self,
        device: &Device,
        samples: &[Sample],
        asked: impl Fn(&str) -> bool,
    ) -> Vec<TagRow> {
        let named = self.live.find(asked);
        let of_device = named
            .into_iter()
            .filter(|(tag, _)| device.tags.contains(tag));
        of_device
            .map(|(tag, full_name)| {
                let last = samples.iter().rev().find(|sample| sample.tag == tag);
                let label = TagLabel {
                    full_name,
                    unit: self.live.unit(tag),
                };
                tag_row(&label, last, self.clock.as_ref())
            })
            .collect()
    }
}
