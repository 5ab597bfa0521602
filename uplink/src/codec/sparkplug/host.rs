//! The primary host: births and data wait until it says that it is online.
//!
//! It says so on `spBv1.0/STATE/<id>`, retained, as `{"online":true,"timestamp":<ms>}`; the timestamp of one of its
//! sessions is that of its will, too. What is older than the newest that was heard on this connection is of an
//! earlier session and means nothing. Hosts of Sparkplug 2.2 write `ONLINE` or `OFFLINE` to `STATE/<id>`; that counts
//! as long as nothing of the newer form has come.

use serde::Deserialize;

/// What is known of the primary host on one connection.
#[derive(Debug, Clone)]
pub struct PrimaryHost {
    id: String,
    online: bool,
    /// It has said how it is.
    heard: bool,
    /// Of the newest message in the form of 3.0.
    newest_ms: Option<u64>,
}

/// What a message of the host changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostNews {
    /// Nothing that the session has to heed.
    None,
    /// It has gone offline: the session is to be ended.
    Offline,
    /// It was online and is again, in a new session of its own: what it got in between may be lost.
    Renewed,
}

#[derive(Deserialize)]
struct State {
    online: bool,
    timestamp: u64,
}

impl PrimaryHost {
    /// The host of this id; nothing is known of it yet.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            online: false,
            heard: false,
            newest_ms: None,
        }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The topic filters to subscribe before the births.
    pub fn subscriptions(&self) -> [String; 2] {
        [
            format!("spBv1.0/STATE/{}", self.id),
            format!("STATE/{}", self.id),
        ]
    }

    /// A new connection: the server there has to say all of it again. Timestamps of two servers do not compare.
    pub fn forget(&mut self) {
        self.online = false;
        self.heard = false;
        self.newest_ms = None;
    }

    /// Whether it is online, as far as is known.
    pub fn is_online(&self) -> bool {
        self.online
    }

    /// Whether it has said on this connection how it is.
    pub fn was_heard(&self) -> bool {
        self.heard
    }

    /// Takes a message.
    pub fn take(&mut self, topic: &str, payload: &[u8]) -> HostNews {
        let [current, legacy] = self.subscriptions();
        let before = self.newest_ms;
        let online = if topic == current {
            let Ok(state) = serde_json::from_slice::<State>(payload) else {
                tracing::warn!(topic, "the state of the primary host is not understood");
                return HostNews::None;
            };
            if self
                .newest_ms
                .is_some_and(|newest| state.timestamp < newest)
            {
                return HostNews::None;
            }
            self.newest_ms = Some(state.timestamp);
            state.online
        } else if topic == legacy && self.newest_ms.is_none() {
            match payload {
                b"ONLINE" => true,
                b"OFFLINE" => false,
                _ => return HostNews::None,
            }
        } else {
            return HostNews::None;
        };
        self.heard = true;
        let was_online = std::mem::replace(&mut self.online, online);
        match (was_online, online) {
            (true, false) => HostNews::Offline,
            (true, true) if before.is_some() && before != self.newest_ms => HostNews::Renewed,
            _ => HostNews::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::HostNews::{None, Offline, Renewed};
    use super::*;

    const CURRENT: &str = "spBv1.0/STATE/scada";
    const LEGACY: &str = "STATE/scada";

    fn state(online: bool, timestamp: u64) -> Vec<u8> {
        format!("{{\"online\":{online},\"timestamp\":{timestamp}}}").into_bytes()
    }

    #[test]
    fn what_is_older_than_the_newest_means_nothing() {
        let mut host = PrimaryHost::new("scada");
        assert!(!host.is_online());
        for (online, timestamp, news, is_online) in [
            (true, 100, None, true),
            (true, 100, None, true),
            // A will of an earlier session.
            (false, 99, None, true),
            // The will of this one.
            (false, 100, Offline, false),
            (false, 101, None, false),
            (true, 100, None, false),
            (true, 102, None, true),
            (true, 103, Renewed, true),
        ] {
            let state = state(online, timestamp);
            assert_eq!(host.take(CURRENT, &state), news, "{online} {timestamp}");
            assert_eq!(host.is_online(), is_online, "{online} {timestamp}");
        }
    }

    #[test]
    fn the_older_form_counts_until_the_newer_comes() {
        let mut host = PrimaryHost::new("scada");
        host.take(LEGACY, b"ONLINE");
        assert!(host.is_online());
        assert_eq!(host.take(LEGACY, b"OFFLINE"), Offline);
        assert_eq!(host.take(LEGACY, b"ONLINE"), None);
        assert_eq!(host.take(CURRENT, &state(true, 5)), None, "the same host");
        assert_eq!(host.take(LEGACY, b"OFFLINE"), None);
        assert!(host.is_online());
        host.forget();
        assert!(!host.is_online());
        host.take(CURRENT, &state(true, 1));
        assert!(host.is_online(), "another server has other times");
    }

    #[test]
    fn others_and_garbage_change_nothing() {
        let mut host = PrimaryHost::new("scada");
        host.take("spBv1.0/STATE/other", &state(true, 1));
        host.take(CURRENT, b"ONLINE");
        host.take(CURRENT, b"{\"online\":true}");
        host.take(LEGACY, b"online");
        assert!(!host.is_online());
    }
}
