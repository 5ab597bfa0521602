//! `verify`, `settle`: what counts as delivered, where an acknowledgement of the broker does not say so.

use std::time::Duration;

use millrace_uplink::profile::{DeliveryClass, Profile, Sequence};

use super::{Complaint, KeyDoc, Kind, Section};

/// The key.
pub(super) const VERIFY: KeyDoc = KeyDoc::new(
    "verify",
    Kind::Choice(&["echo", "puback"]),
    "What counts as delivered where the core acknowledges what it may discard (profiles `nats`, `mainflux`, `magistrala`). \
     `echo`: Millrace subscribes to each topic that it publishes to, and settles nothing of it before a message came \
     back; again with each connection and every ten minutes. A topic of which nothing comes back is named in `status`, \
     and what goes there is withheld. `puback`: every acknowledgement counts.",
)
.default("echo");

/// Who settles.
pub(super) const SETTLE: KeyDoc = KeyDoc::new(
    "settle",
    Kind::Choice(&["broker", "core"]),
    "Whose acknowledgement makes data delivered. `core`: nothing counts before the core itself says so with the command \
     `ack`, see [commands](commands.md); an acknowledgement of the broker only means that it was sent. Needs a profile \
     that sends stream and numbers and takes commands.",
)
.default("broker");

/// How long the core may take.
pub(super) const ACK_WAIT: KeyDoc = KeyDoc::new(
    "ack_wait",
    Kind::Duration {
        min: Duration::from_secs(1),
        max: Duration::from_secs(3600),
    },
    "With `settle = \"core\"`: what the core has not acknowledged so long after the broker did is sent again; twice as late \
     each time, up to ten minutes, while the core acknowledges nothing at all.",
)
.default("60s");

/// How long the core may take, where it settles. Outer `None`: a problem, already reported.
pub(super) fn read_ack_wait(
    section: &Section<'_>,
    profile: Option<&Profile>,
) -> Option<Option<Duration>> {
    if section.choice("settle")? != "core" {
        if section.has("ack_wait") {
            let complaint = Complaint::new("the broker's acknowledgements settle here");
            section.complain(
                "ack_wait",
                complaint.hint("write settle = \"core\", or remove it"),
            );
            return None;
        }
        return Some(None);
    }
    let profile = profile?;
    let definition = profile.definition();
    let why = if definition.delivery == DeliveryClass::Unacked {
        "knows no acknowledgements"
    } else if definition.sequence == Sequence::None {
        "sends no stream and no numbers, which the core would have to name"
    } else if !profile.takes_commands() {
        "takes no commands, and `ack` is one"
    } else {
        return section.duration("ack_wait").map(Some);
    };
    let complaint = Complaint::new(format!("the profile {} {why}", definition.name));
    section.complain(
        "settle",
        complaint.hint("remove it, or take another profile"),
    );
    None
}
