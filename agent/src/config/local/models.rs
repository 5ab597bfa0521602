//! What `[local]` says of models: whose they may be, and what their examination may cost.

use std::path::PathBuf;
use std::time::Duration;

use millrace_inference::{PublicKey, Trust};

use crate::config::complaint::Complaint;
use crate::config::files::FileUse;
use crate::config::section::Section;
use crate::config::units::{parse_duration, parse_size};

/// Time of the processor that an examination may take where nothing is written. Real models need some 0.3 s on a
/// fast machine and 5 s on a slow one.
pub(crate) const MODEL_TIME_DEFAULT: &str = "20s";

/// Memory that an examination may take where nothing is written: half of what the service may have.
pub(crate) const MODEL_MEMORY_DEFAULT: &str = "256MiB";

/// Where a public key is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum KeySource {
    /// Written out.
    Given(PublicKey),
    /// In a PEM file.
    File(PathBuf),
}

/// Whose models are taken, and what they may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelPolicy {
    keys: Vec<KeySource>,
    revoked: Vec<KeySource>,
    /// Commands may install models that none of the keys signed.
    pub(crate) unsigned: bool,
    /// Commands may install and promote versions below the one that runs.
    pub(crate) older: bool,
    /// Time of the processor for the examination of a model.
    pub(crate) time: Duration,
    /// Memory for it.
    pub(crate) memory: u64,
}

impl Default for ModelPolicy {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            revoked: Vec::new(),
            unsigned: false,
            older: false,
            time: parse_duration(MODEL_TIME_DEFAULT).unwrap_or_default(),
            memory: parse_size(MODEL_MEMORY_DEFAULT).unwrap_or_default(),
        }
    }
}

impl ModelPolicy {
    /// Reads the keys of `[local]`.
    pub(super) fn read(section: &Section<'_>) -> Option<Self> {
        let (keys, revoked) = (
            read_keys(section, "model_keys"),
            read_keys(section, "revoked_model_keys"),
        );
        let (unsigned, older) = (
            section.bool("unsigned_models"),
            section.bool("older_models"),
        );
        let (time, memory) = (section.duration("model_time"), section.size("model_memory"));
        Some(Self {
            keys: keys?,
            revoked: revoked?,
            unsigned: unsigned?,
            older: older?,
            time: time?,
            memory: memory?,
        })
    }

    /// Whose models are taken. Files of keys are read each time: a new one counts at once.
    ///
    /// # Errors
    /// Names the file that cannot be read.
    pub(crate) fn trust(&self, required: bool) -> Result<Trust, String> {
        Ok(Trust {
            keys: load(&self.keys)?,
            revoked: load(&self.revoked)?,
            required,
        })
    }
}

fn load(sources: &[KeySource]) -> Result<Vec<PublicKey>, String> {
    let key = |source: &KeySource| match source {
        KeySource::Given(key) => Ok(*key),
        KeySource::File(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            PublicKey::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
        }
    };
    sources.iter().map(key).collect()
}

fn read_keys(section: &Section<'_>, key: &'static str) -> Option<Vec<KeySource>> {
    if !section.has(key) {
        return Some(Vec::new());
    }
    let mut keys = Some(Vec::new());
    for (text, place) in section.texts(key)? {
        let source = match PublicKey::parse(&text) {
            Ok(public) => Some(KeySource::Given(public)),
            Err(_) if text.ends_with(".pem") => section
                .listed_file(key, &text, &place, FileUse::Certificate)
                .map(KeySource::File),
            Err(_) => {
                let complaint = Complaint::new(
                    "a public key of Ed25519 in base64, or the path of a .pem file, is expected",
                );
                let hint =
                    "`openssl pkey -in key.pem -pubout` prints one; its middle line is enough";
                section.complain_at(key, &place, &text, complaint.hint(hint));
                None
            }
        };
        match (source, &mut keys) {
            (Some(source), Some(keys)) => keys.push(source),
            _ => keys = None,
        }
    }
    keys
}
