//! The life of the uplinks: where each begins in the store, and a session that starts again whatever ends it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use millrace_buffer::{Buffer, Outbox, Start};
use millrace_uplink::SessionSettings;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::command::{Admission, Commands, Journal};
use crate::config;
use crate::delivery::{Delivery, Uplink};
use crate::device::chain;
use crate::gateway::Gateway;
use crate::remote::Remote;

/// The pause after a session that ended by a mistake; it doubles up to the longest.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LONGEST: Duration = Duration::from_secs(60);

/// After a life of this length the next pause is a short one again.
const PROVEN: Duration = Duration::from_secs(60);

/// The outboxes of the uplinks, in order. Where the configuration is the one that was asked for, the store
/// forgets all other uplinks; a makeshift one must not cost anybody their place.
pub(super) fn outboxes(
    buffer: &Buffer,
    uplinks: &[config::Uplink],
    configured: bool,
) -> Vec<Outbox> {
    if configured {
        let names: Vec<&str> = uplinks.iter().map(|uplink| uplink.name.as_str()).collect();
        buffer.retain_uplinks(&names);
    }
    // Without another uplink what is stored waits for the first that comes.
    let default = match buffer.has_uplinks() {
        true => Start::Now,
        false => Start::Oldest,
    };
    let start = |uplink: &config::Uplink| uplink.start.map_or(default, Into::into);
    uplinks
        .iter()
        .map(|uplink| buffer.outbox(&uplink.name, start(uplink)))
        .collect()
}

/// One uplink: its session and the task that runs its commands.
pub(super) struct UplinkTask {
    pub(super) settings: config::Uplink,
    pub(super) shown: Arc<Uplink>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) journal: Arc<Journal>,
    /// For the first session; later ones ask the store for their own.
    pub(super) outbox: Option<Outbox>,
}

impl UplinkTask {
    /// Runs until `shutdown`. A session that ends by a mistake in this program says so in `status` and
    /// starts again after a pause: what it had under way is in the log.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let outbox = self.outbox.take();
        let mut first = Some(outbox.unwrap_or_else(|| self.new_outbox()));
        keep_alive(&self.shown, &shutdown, || {
            let outbox = first.take().unwrap_or_else(|| self.new_outbox());
            self.live(outbox, shutdown.clone())
        })
        .await;
    }

    fn new_outbox(&self) -> Outbox {
        // The store knows the uplink by now.
        self.gateway
            .buffer
            .outbox(&self.settings.name, Start::Oldest)
    }

    /// A session and its commands, until `shutdown`.
    fn live(&self, outbox: Outbox, shutdown: CancellationToken) -> impl Future<Output = ()> + Send {
        let gateway = &self.gateway;
        let (commands, task) = Commands::channel(
            &self.settings.name,
            Admission::new(&gateway.config.local),
            self.journal.clone(),
            gateway.clock.clone(),
            Remote {
                gateway: gateway.clone(),
                uplink: self.settings.name.clone(),
            },
        );
        let (settings, shown) = (self.settings.clone(), self.shown.clone());
        let delivery = Delivery::new(
            outbox,
            self.settings.clone(),
            self.shown.clone(),
            gateway.clock.clone(),
            commands,
        )
        .with_node(
            gateway.plant(&self.settings),
            &gateway.config.gateway.data_dir,
        )
        .kept_in(&gateway.config.gateway.data_dir);
        async move {
            // Will and farewell are sealed, too: without the key there is no session.
            if !unlock(&settings, &shown, &shutdown).await {
                return;
            }
            let session = SessionSettings {
                counters: shown.counters.clone(),
                ..settings.session()
            };
            let session = millrace_uplink::run(session, delivery, shutdown.clone());
            let rekey = rekey(&settings, shutdown.clone());
            tokio::join!(session, task.run(shutdown), rekey);
        }
    }
}

/// Gives the profile the key that it seals with; waits for a key that can be used. Whether there is one before
/// `shutdown`.
async fn unlock(settings: &config::Uplink, shown: &Uplink, shutdown: &CancellationToken) -> bool {
    let Some(source) = &settings.seal_key else {
        return true;
    };
    loop {
        let error = match source.load() {
            Ok(key) => match settings.profile.unlock(&key) {
                Ok(()) => return true,
                Err(error) => error.to_string(),
            },
            Err(error) => chain(&error),
        };
        tracing::error!(uplink = %settings.name, error, "there is no key to seal with");
        shown.down(format!("there is no key to seal with: {error}"));
        tokio::select! {
            () = tokio::time::sleep(PAUSE_LONGEST) => {}
            () = shutdown.cancelled() => return false,
        }
    }
}

/// How often the file of the key is read again.
const KEY_INTERVAL: Duration = Duration::from_secs(5);

/// Gives the profile a new key as soon as there is one. What is none changes nothing, and is named once.
async fn rekey(settings: &config::Uplink, shutdown: CancellationToken) {
    let Some(source) = &settings.seal_key else {
        return;
    };
    let mut known = source.load().ok();
    let mut named = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(KEY_INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
        let error = match source.load() {
            Ok(key) if known.as_ref() == Some(&key) => None,
            Ok(key) => match settings.profile.unlock(&key) {
                Ok(()) => {
                    tracing::info!(target: "audit", uplink = %settings.name, "payloads are sealed with a new key");
                    known = Some(key);
                    None
                }
                Err(error) => Some(error.to_string()),
            },
            Err(error) => Some(chain(&error)),
        };
        if let Some(error) = error
            .as_ref()
            .filter(|error| named.as_ref() != Some(*error))
        {
            tracing::error!(uplink = %settings.name, error, "the new sealing key cannot be used; the one before stays");
        }
        named = error;
    }
}

/// Runs one life after the other until one ends by itself or `shutdown`.
async fn keep_alive<L: Future<Output = ()> + Send>(
    shown: &Uplink,
    shutdown: &CancellationToken,
    mut live: impl FnMut() -> L,
) {
    let mut pause = PAUSE_FIRST;
    loop {
        let began = Instant::now();
        if AssertUnwindSafe(live()).catch_unwind().await.is_ok() {
            return;
        }
        if began.elapsed() >= PROVEN {
            pause = PAUSE_FIRST;
        }
        tracing::error!(
            pause_s = pause.as_secs(),
            "an uplink ended by a mistake in this program"
        );
        shown.down(format!(
            "it ended by a mistake in this program, see the log; it starts again {} s later",
            pause.as_secs()
        ));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
        pause = (pause * 2).min(PAUSE_LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn uplinks(text: &str) -> Vec<config::Uplink> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("millrace.toml");
        let head = "[gateway]\nid = \"gw\"\ndata_dir = \"data\"\n";
        std::fs::write(&file, format!("{head}{text}")).unwrap();
        config::load(Some(&file), None).unwrap().config.uplinks
    }

    fn uplink(name: &str) -> String {
        format!(
            "[[uplink]]\nname = \"{name}\"\nurl = \"mqtt://127.0.0.1\"\nclient_id = \"{name}\"\n"
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_panics_starts_again_and_says_so() {
        let shown = Uplink::new(&uplinks(&uplink("cloud"))[0]);
        let lives = AtomicU32::new(0);
        let began = Instant::now();
        keep_alive(&shown, &CancellationToken::new(), || async {
            if lives.fetch_add(1, Ordering::Relaxed) < 3 {
                panic!("a mistake");
            }
        })
        .await;
        assert_eq!(lives.load(Ordering::Relaxed), 4);
        assert_eq!(began.elapsed().as_secs(), 1 + 2 + 4);
        let status = shown.report();
        assert_eq!(status.state, "down");
        assert!(status.error.unwrap().contains("starts again 4 s later"));
    }

    #[test]
    fn a_makeshift_configuration_forgets_no_uplink_and_a_new_one_begins_now() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(millrace_tags::TestClock::new(1, None));
        let settings = millrace_buffer::Settings::new(dir.path().join("buffer"));
        let buffer = Buffer::open(settings, clock).unwrap();
        let source = buffer.register("pump", millrace_tags::SourceKind::Device, &[]);
        let detail = millrace_tags::EventDetail::Comms {
            message: "lost".into(),
        };
        let event = millrace_tags::Event {
            state: millrace_tags::EventState::Begin,
            at: millrace_tags::Moment(0),
            start: millrace_tags::Moment(0),
            end: None,
            detail,
        };
        buffer.append_event(source.source, event);
        buffer.commit().unwrap();
        let queued = || -> Vec<(String, u64)> {
            let uplinks = buffer.ledger().uplinks;
            let queued = |row: &millrace_buffer::UplinkLedger| row.events["pump"].queued;
            uplinks
                .iter()
                .map(|(n, row)| (n.clone(), queued(row)))
                .collect()
        };
        outboxes(&buffer, &uplinks(&uplink("cloud")), true);
        assert_eq!(queued(), [("cloud".to_owned(), 1)]);
        outboxes(&buffer, &[], false);
        assert_eq!(queued(), [("cloud".to_owned(), 1)]);
        let both = uplinks(&(uplink("cloud") + &uplink("plant")));
        outboxes(&buffer, &both, true);
        assert_eq!(queued(), [("cloud".to_owned(), 1), ("plant".to_owned(), 0)]);
        outboxes(&buffer, &uplinks(&uplink("renamed")), true);
        assert_eq!(queued(), [("renamed".to_owned(), 1)]);
    }
}
