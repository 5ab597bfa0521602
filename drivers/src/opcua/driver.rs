//! From settings to a session.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_trait::async_trait;
use millrace_tags::{Clock, Quality, SystemClock, TagId, Timestamp, Value};
use opcua::types::MessageSecurityMode;

use super::channel::Channel;
use super::endpoint::{choose, endpoint_name, refused, with_cause};
use super::login::log_in;
use super::notes::Notes;
use super::poll::Polled;
use super::server::Server;
use super::session::OpcuaSession;
use super::settings::{Auth, Collect, Item, Settings};
use super::subscription::subscribe;
use super::{NodeAddress, decode, trust};
use crate::{Driver, PollGroup, Session, SessionError};

/// How often a subscribed server says that it has nothing to say. Three of these without a word and
/// the session counts as broken.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Checked settings of an OPC UA device.
pub struct OpcuaDriver {
    settings: Arc<Settings>,
    items: Arc<[Item]>,
    groups: Vec<PollGroup>,
    /// Places in `items`, for each poll group.
    members: Vec<Vec<usize>>,
    clock: Arc<dyn Clock>,
    /// Receipts never repeat over sessions: one that comes late means nothing to the next session.
    receipts: Arc<AtomicU64>,
}

impl OpcuaDriver {
    /// A driver of these items. Touches nothing outside.
    pub fn new(settings: Settings, items: Vec<Item>, clock: Arc<dyn Clock>) -> Self {
        let mut by_interval: BTreeMap<Duration, Vec<usize>> = BTreeMap::new();
        if settings.collect == Collect::Poll {
            for (place, item) in items.iter().enumerate() {
                by_interval.entry(item.interval).or_default().push(place);
            }
        }
        let groups = by_interval
            .iter()
            .map(|(&interval, places)| PollGroup {
                interval,
                tags: places.iter().map(|&place| items[place].tag).collect(),
            })
            .collect();
        Self {
            settings: Arc::new(settings),
            items: items.into(),
            groups,
            members: by_interval.into_values().collect(),
            clock,
            receipts: Arc::new(AtomicU64::new(0)),
        }
    }

    /// The longest time that the server may hear nothing from us while all is well.
    fn silence_max(&self) -> Duration {
        let polled = self.groups.iter().map(|group| group.interval).max();
        let published = self.settings.publish_interval.max(KEEP_ALIVE);
        3 * polled.unwrap_or(published)
    }
}

#[async_trait]
impl Driver for OpcuaDriver {
    fn poll_groups(&self) -> &[PollGroup] {
        &self.groups
    }

    fn tags(&self) -> Vec<TagId> {
        self.items.iter().map(|item| item.tag).collect()
    }

    async fn open(&self) -> Result<Box<dyn Session>, SessionError> {
        let (channel, notes) = connect(&self.settings, self.silence_max()).await?;
        let with_uris = self.items.iter().any(|item| item.node.needs_namespaces());
        let server = Server::ask(&channel, with_uris).await?;
        let nodes = self
            .items
            .iter()
            .map(|item| item.node.resolve(&server.namespaces))
            .collect();
        let session = match self.settings.collect {
            Collect::Poll => {
                let polled = Polled {
                    items: self.items.clone(),
                    nodes,
                    members: self.members.clone(),
                    reads_max: server.reads_max,
                };
                OpcuaSession::polled(channel, polled, notes, self.clock.clone())
            }
            Collect::Subscribe => {
                let receipts = self.receipts.clone();
                let subscribed = subscribe(
                    &channel,
                    &self.settings,
                    self.items.clone(),
                    nodes,
                    server.items_max,
                    notes.clone(),
                    receipts,
                    self.clock.clone(),
                )
                .await?;
                OpcuaSession::subscribed(channel, subscribed, notes, self.clock.clone())
            }
        };
        Ok(Box::new(session))
    }
}

/// A channel with a session on it, to the endpoint that the settings ask for.
async fn connect(
    settings: &Arc<Settings>,
    silence_max: Duration,
) -> Result<(Arc<Channel>, Notes), SessionError> {
    let endpoint = choose(settings).await?;
    let own = match endpoint.security_mode {
        MessageSecurityMode::None => None,
        _ => Some(own_certificate(settings).await?),
    };
    let mut notes = Notes::new(&endpoint_name(&endpoint));
    if own.is_none() && matches!(settings.auth, Auth::UserName { .. }) {
        notes.warn(
            "security is None: nothing protects what is sent, and who the server is stays unproved",
        );
    }
    let channel = Channel::open(
        &settings.device,
        &settings.url,
        endpoint,
        &settings.pki_dir,
        settings.timeout,
    )
    .await?;
    let silence_max_ms = silence_max.as_secs_f64() * 1000.0;
    log_in(&channel, settings, own.as_ref(), silence_max_ms).await?;
    Ok((Arc::new(channel), notes))
}

/// Making a key takes seconds on a small machine, so it stays off the async threads.
async fn own_certificate(settings: &Arc<Settings>) -> Result<trust::OwnCertificate, SessionError> {
    let pki_dir = settings.pki_dir.clone();
    let failed = |message: String| {
        let hint = "make the pki directory writable for the user that runs millrace";
        refused(settings, message, hint)
    };
    tokio::task::spawn_blocking(move || trust::own_certificate(&pki_dir))
        .await
        .map_err(|error| failed(error.to_string()))?
        .map_err(|error| failed(with_cause(&error)))
}

/// What [`read_once`] brings: value, quality, source time.
pub type ReadOnce = (Option<Value>, Quality, Option<Timestamp>);

/// Reads one node: connects, reads, and takes leave.
///
/// # Errors
/// Where no session can be made. A node that cannot be read is a bad quality.
pub async fn read_once(settings: Settings, node: &NodeAddress) -> Result<ReadOnce, SessionError> {
    let settings = Arc::new(settings);
    let (channel, _) = connect(&settings, KEEP_ALIVE).await?;
    let server = Server::ask(&channel, node.needs_namespaces()).await?;
    let clock = SystemClock::new();
    let sample = match node.resolve(&server.namespaces) {
        None => {
            millrace_tags::Sample::bad(TagId(0), millrace_tags::Reason::IllegalAddress, clock.now())
        }
        Some(id) => {
            let data = super::server::read(&channel, vec![id]).await?;
            let data = data.into_iter().next().unwrap_or_default();
            decode::sample(TagId(0), data, clock.now(), &channel.context().read())
        }
    };
    super::session::say_goodbye(&channel).await;
    Ok((sample.value, sample.quality, sample.source_time))
}
