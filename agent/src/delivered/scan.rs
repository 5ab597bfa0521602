//! What the store has that the file does not tell of: after a kill, the chunks of the last two minutes.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use millrace_buffer::{Archive, ArchiveError, Order, Selection};
use millrace_drivers::opcua::Cursor;
use millrace_tags::{LogKind, Records};

use super::Told;

/// Moves the devices on to where the store ends. `chunks`: those that they have seen of the data and the alarm log.
///
/// # Errors
/// There is no store that could be read.
pub(super) fn catch_up(
    store: &Path,
    chunks: [u64; 2],
    devices: &BTreeMap<String, Arc<Told>>,
) -> Result<(), ArchiveError> {
    let archive = Archive::open(store)?;
    let source = |name: &str| devices.contains_key(name);
    let after = |log: LogKind, chunk: u64| {
        let selection = Selection {
            log,
            order: Order::OldestFirst,
            source: &source,
            from: None,
        };
        archive.read(selection).after(chunk)
    };
    let mut cursors: HashMap<(Arc<str>, Arc<str>), Cursor> = HashMap::new();
    for piece in after(LogKind::Data, chunks[0]) {
        let Records::Samples(samples) = &piece.parcel.records else {
            continue;
        };
        for sample in samples {
            if let Some(tag) = piece.parcel.tags.get(sample.tag) {
                let name = (piece.parcel.source.clone(), tag.name.clone());
                cursors.entry(name).or_default().take_stored(sample);
            }
        }
    }
    for ((device, tag), cursor) in cursors {
        if let Some(told) = devices.get(&*device) {
            told.lock().follow(&tag, cursor);
        }
    }
    for piece in after(LogKind::Alarm, chunks[1]) {
        let Records::Events(events) = &piece.parcel.records else {
            continue;
        };
        if let Some(told) = devices.get(&*piece.parcel.source) {
            let mut table = told.lock();
            events
                .iter()
                .for_each(|event| table.take_event(event, piece.parcel.timebase));
        }
    }
    Ok(())
}
