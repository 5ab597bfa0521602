//! `verify`: what counts as delivered, where an acknowledgement does not say so.

use super::{KeyDoc, Kind};

/// The key.
pub(super) const VERIFY: KeyDoc = KeyDoc::new(
    "verify",
    Kind::Choice {
        now: &["echo", "puback"],
        later: &[],
    },
    "What counts as delivered where the core acknowledges what it may discard (profiles `nats`, `mainflux`, `magistrala`). \
     `echo`: Millrace subscribes to each topic that it publishes to, and settles nothing of it before a message came \
     back; again with each connection and every ten minutes. A topic of which nothing comes back is named in `status`, \
     and what goes there is withheld. `puback`: every acknowledgement counts.",
)
.default("echo");
