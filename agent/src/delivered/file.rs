//! The file: see the module above for its format.

use std::io::ErrorKind;
use std::path::Path;

use millrace_drivers::opcua::{Cursor, Fnv};
use millrace_tags::{BootId, Clock, EventDetail, Moment, Timestamp};
use serde::{Deserialize, Serialize};

use crate::durable;

const MAGIC: [u8; 4] = [0xF1, b'M', b'R', b'd'];
const VERSION: u8 = 1;

/// Far more than any gateway's: a hundred thousand tags and their alarms take some 10 MB.
const BYTES_MAX: u64 = 256 << 20;

/// What is kept.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Contents {
    /// Of the data and the alarm log.
    pub(super) chunks: [u64; 2],
    pub(super) alarms: Vec<KeptAlarm>,
    pub(super) tags: Vec<Tag>,
}

/// What is known of a tag.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tag {
    /// See [`name_print`].
    pub(super) name: u64,
    pub(super) node: u64,
    pub(super) cursor: Cursor,
}

/// An alarm that has begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct KeptAlarm {
    pub(super) device: String,
    pub(super) id: String,
    /// Of `boot`.
    pub(super) since: Moment,
    pub(super) boot: BootId,
    /// The same, where the clock was known.
    pub(super) utc: Option<Timestamp>,
    pub(super) detail: EventDetail,
}

impl KeptAlarm {
    /// When it began, on the clock of this boot; now, where nobody can tell.
    pub(super) fn moment(&self, clock: &dyn Clock) -> Moment {
        let timebase = clock.timebase();
        if self.boot == timebase.boot {
            return self.since;
        }
        let known = self.utc.and_then(|utc| timebase.moment(utc));
        known.unwrap_or_else(|| clock.now())
    }
}

/// A name that is only compared.
pub(super) fn name_print(name: &str) -> u64 {
    let mut print = Fnv::default();
    print.add(name.as_bytes());
    print.0
}

/// What is kept, if anything is, and whether the file may be replaced.
pub(super) fn read(path: &Path) -> (Option<Contents>, bool) {
    let length = std::fs::metadata(path).map(|meta| meta.len());
    let bytes = match length {
        Ok(length) if length > BYTES_MAX => Err(std::io::Error::from(ErrorKind::FileTooLarge)),
        _ => std::fs::read(path),
    };
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                tracing::error!(path = %path.display(), error = %error, "what OPC UA devices have delivered cannot be read; it begins anew");
            }
            return (None, true);
        }
    };
    if bytes.starts_with(&MAGIC) && bytes.get(4) != Some(&VERSION) {
        tracing::error!(path = %path.display(), "a newer version of millrace wrote what OPC UA devices have delivered, and has it again when it is back; with this one it begins anew and is not kept");
        return (None, false);
    }
    let contents = Contents::parse(&bytes);
    if contents.is_none() {
        tracing::error!(path = %path.display(), "what OPC UA devices have delivered is damaged; it begins anew, and what they sent while the agent was away is not asked for");
    }
    (contents, true)
}

impl Contents {
    /// All but the chunks.
    pub(super) fn body(&self) -> Vec<u8> {
        // Our own plain structs always serialise.
        let alarms = serde_json::to_vec(&self.alarms).unwrap_or_default();
        let mut body = Vec::with_capacity(alarms.len() + 40 * self.tags.len() + 8);
        body.extend((alarms.len() as u32).to_le_bytes());
        body.extend(alarms);
        body.extend((self.tags.len() as u32).to_le_bytes());
        for tag in &self.tags {
            body.extend(tag.name.to_le_bytes());
            body.extend(tag.node.to_le_bytes());
            tag.cursor.write(&mut body);
        }
        body
    }

    /// `body` is what [`Contents::body`] said.
    pub(super) fn write(&self, path: &Path, body: &[u8]) -> std::io::Result<()> {
        let mut bytes = Vec::with_capacity(body.len() + 32);
        bytes.extend(MAGIC);
        bytes.push(VERSION);
        self.chunks
            .iter()
            .for_each(|n| bytes.extend(n.to_le_bytes()));
        bytes.extend(body);
        let mut print = Fnv::default();
        print.add(&bytes);
        bytes.extend(print.0.to_le_bytes());
        durable::write(path, &bytes, 0o640)
    }

    /// `None` where it is damaged.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (whole, &print) = bytes.split_last_chunk()?;
        let mut found = Fnv::default();
        found.add(whole);
        if found.0 != u64::from_le_bytes(print) {
            return None;
        }
        let mut rest = whole.strip_prefix(&MAGIC)?.get(1..)?;
        let chunks = [u64(&mut rest)?, u64(&mut rest)?];
        let (alarms, mut rest) = {
            let length = u32(&mut rest)? as usize;
            rest.split_at_checked(length)?
        };
        let alarms = serde_json::from_slice(alarms).ok()?;
        let mut tags = Vec::new();
        for _ in 0..u32(&mut rest)? {
            tags.push(Tag {
                name: u64(&mut rest)?,
                node: u64(&mut rest)?,
                cursor: Cursor::read(&mut rest)?,
            });
        }
        rest.is_empty().then_some(Self {
            chunks,
            alarms,
            tags,
        })
    }
}

fn u64(bytes: &mut &[u8]) -> Option<u64> {
    let (&number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(number))
}

fn u32(bytes: &mut &[u8]) -> Option<u32> {
    let (&number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(number))
}
