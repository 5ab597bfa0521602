//! How an uplink's bytes travel: the version of MQTT.

use millrace_uplink::profile::{Profile, Sequence};
use millrace_uplink::{Protocol, ProtocolChoice};

use crate::config::complaint::Complaint;
use crate::config::keys::{KeyDoc, Kind};
use crate::config::section::Section;

pub(super) const PROTOCOL: KeyDoc = KeyDoc::new(
    "protocol",
    Kind::Choice {
        now: &["auto", "5", "3.1.1"],
        later: &[],
    },
    "The version of MQTT. `auto` speaks 5, and 3.1.1 with a broker that refuses 5 or hangs up on it.",
)
.means("what the profile says, else `auto`");

/// The version to speak; a profile that needs the properties of MQTT 5 gets no other.
pub(super) fn read_protocol(
    section: &Section<'_>,
    profile: Option<&Profile>,
) -> Option<ProtocolChoice> {
    let definition = profile?.definition();
    let needs_v5 = definition.sequence == Sequence::Property;
    if !section.has("protocol") {
        return Some(match needs_v5 {
            true => ProtocolChoice::Only(Protocol::V5),
            false => definition.protocol,
        });
    }
    let word = section.choice("protocol")?;
    let mut words = ProtocolChoice::WORDS.iter();
    let choice = words.find(|(known, _)| *known == word)?.1;
    match choice {
        ProtocolChoice::Only(Protocol::V311) if needs_v5 => {
            let complaint = Complaint::new(format!(
                "the profile {} sends numbers in properties, which only MQTT 5 has",
                definition.name
            ));
            section.complain("protocol", complaint.hint("write \"5\", or remove it"));
            None
        }
        ProtocolChoice::Auto if needs_v5 => Some(ProtocolChoice::Only(Protocol::V5)),
        choice => Some(choice),
    }
}
