//! What happens to payloads after the codec: compressed, sealed.

use millrace_uplink::SecretSource;
use millrace_uplink::profile::{Compression, DeliveryClass, Profile};

use crate::config::complaint::Complaint;
use crate::config::keys::{KeyDoc, Kind};
use crate::config::section::Section;

pub(super) const COMPRESSION: KeyDoc = KeyDoc::new(
            "compression",
            Kind::Choice(&["none", "zstd", "gzip"]),
            "Payloads are compressed, where the profile's receivers can undo it. One that does not get smaller \
             stays as it is; zstd and gzip are known by their first bytes.",
        )
        .default("none");
pub(super) const SEAL: KeyDoc = KeyDoc::new(
            "seal",
            Kind::Choice(&["none", "aes-256-gcm"]),
            "Payloads are encrypted from end to end, whatever the codec: neither broker nor core reads them. See \
             [profiles](profiles.md). Commands to the agent are not sealed.",
        )
        .default("none");
pub(super) const SEAL_KEY: KeyDoc = KeyDoc::new(
    "seal_key_file",
    Kind::Secret,
    "The key of `seal`: 32 bytes as 64 hexadecimal digits or as base64 (`openssl rand -hex 32`).",
);

/// What happens to payloads after the codec.
pub(super) struct Packing {
    pub(super) compression: Option<Compression>,
    pub(super) seal_key: Option<SecretSource>,
}

pub(super) fn read_packing(section: &Section<'_>) -> Option<Packing> {
    let compression = section.choice("compression")?;
    let sealed = section.choice("seal")? != "none";
    if sealed != section.has("seal_key_file") {
        match sealed {
            true => section.complain("seal_key_file", Complaint::new("seal needs its key")),
            false => section.complain(
                "seal",
                Complaint::new("a key alone seals nothing").hint("seal = \"aes-256-gcm\""),
            ),
        }
        return None;
    }
    let seal_key = match sealed {
        true => Some(section.secret("seal_key_file")?),
        false => None,
    };
    let words = Compression::WORDS;
    let compression = words.iter().find(|(word, _)| *word == compression);
    Some(Packing {
        compression: compression.map(|(_, meaning)| *meaning),
        seal_key,
    })
}

/// The profile, where its payloads may be sealed.
pub(super) fn read_sealed(
    section: &Section<'_>,
    profile: Profile,
    sealed: bool,
) -> Option<Profile> {
    if sealed && profile.definition().delivery == DeliveryClass::Unacked {
        let complaint = Complaint::new("hosts and brokers read the payloads of Sparkplug");
        section.complain("seal", complaint.hint("remove it, and seal_key_file"));
        return None;
    }
    Some(profile)
}

/// The profile, where its receivers can undo the compression.
pub(super) fn read_compression(
    section: &Section<'_>,
    profile: Profile,
    compression: Option<Compression>,
) -> Option<Profile> {
    let definition = profile.definition();
    if compression.is_none_or(|compression| definition.compression.contains(&compression)) {
        return Some(profile);
    }
    let complaint = Complaint::new(format!(
        "the receivers of the profile {} cannot undo that",
        definition.name
    ));
    section.complain("compression", complaint.hint("remove it"));
    None
}

/// A metered link is compressed where nobody says otherwise.
pub(super) fn metered_compression(section: &Section<'_>, profile: &Profile) -> Option<Compression> {
    let metered = ["metered_bytes_per_day", "metered_batch_interval"];
    let wanted = metered.iter().any(|key| section.has(key)) && !section.has("compression");
    let zstd = Compression::Zstd;
    (wanted && profile.definition().compression.contains(&zstd)).then_some(zstd)
}
