//! From settings to a session.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use millrace_tags::{Clock, Reading, TagId};
use opcua::types::{MessageSecurityMode, TimestampsToReturn};

use super::acks::Acks;
use super::certificate::CertificateTime;
use super::channel::{Channel, connect_tcp};
use super::endpoint::{Choice, choose, endpoint_name, refused, with_cause};
use super::login::{Login, log_in};
use super::notes::Notes;
use super::own::{self, OwnCertificate};
use super::poll::Polled;
use super::publish::{Publisher, unasked};
use super::resume::{Outcome, Retained, resume};
use super::server::Server;
use super::session::OpcuaSession;
use super::settings::{Auth, Collect, Item, Settings};
use super::subscription::{Monitored, Subscribed};
use super::types::Types;
use crate::{Driver, PollGroup, Session, SessionError};

/// How often a subscribed server says that it has nothing to say. Three of these without a word and
/// the session counts as broken.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How long it may take to find out whether somebody listens.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// What the last session left behind when its connection was lost.
    left: Arc<Mutex<Option<Retained>>>,
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
            left: Arc::default(),
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

    async fn listens(&self) -> Option<bool> {
        let looked = tokio::time::timeout(LOOK_TIMEOUT, connect_tcp(&self.settings.url));
        Some(looked.await.is_ok_and(|connected| connected.is_ok()))
    }

    async fn open(&self) -> Result<Box<dyn Session>, SessionError> {
        let line = Line::open(&self.settings, &*self.clock).await?;
        let session = match self.settings.collect {
            Collect::Poll => {
                line.log_in(&self.settings, self.silence_max()).await?;
                self.poll(line).await?
            }
            Collect::Subscribe => self.subscribe(line).await?,
        };
        Ok(Box::new(session))
    }
}

impl OpcuaDriver {
    async fn poll(&self, line: Line) -> Result<OpcuaSession, SessionError> {
        let server = self.ask(&line).await?;
        let items = self.items.iter();
        let polled = Polled {
            items: self.items.clone(),
            nodes: items
                .map(|item| item.node.resolve(&server.namespaces))
                .collect(),
            members: self.members.clone(),
            reads_max: server.reads_max,
            times: TimestampsToReturn::Source,
            types: Types::default(),
        };
        let clock = self.clock.clone();
        Ok(OpcuaSession::polled(
            line.channel,
            polled,
            line.notes,
            clock,
            self.items.clone(),
        ))
    }

    async fn subscribe(&self, line: Line) -> Result<OpcuaSession, SessionError> {
        let left = self.left().take();
        let (publisher, acks) = match left {
            Some(retained) => self.resume(&line, retained).await?,
            None => self.begin(&line, Vec::new()).await?,
        };
        let device = &self.settings.device;
        let subscribed = Subscribed::begin(publisher, acks, device, self.left.clone());
        let clock = self.clock.clone();
        Ok(OpcuaSession::subscribed(
            line.channel,
            subscribed,
            line.notes,
            clock,
            self.items.clone(),
        ))
    }

    fn left(&self) -> MutexGuard<'_, Option<Retained>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on with the session before this one, or begins anew where the server does not have it any more.
    async fn resume(
        &self,
        line: &Line,
        retained: Retained,
    ) -> Result<(Publisher, Acks), SessionError> {
        let own = line.own.as_ref();
        match resume(&line.channel, &self.settings, own, retained, &line.notes).await {
            Outcome::Resumed(retained) => {
                let acks = retained.acks.clone();
                Ok((Publisher::resumed(retained), acks))
            }
            Outcome::Gone(missed) => self.begin(line, missed).await,
            Outcome::Broken(error, retained) => {
                *self.left() = Some(retained);
                Err(error)
            }
        }
    }

    async fn begin(
        &self,
        line: &Line,
        mut first: Vec<Reading>,
    ) -> Result<(Publisher, Acks), SessionError> {
        let login = line.log_in(&self.settings, self.silence_max()).await?;
        let server = self.ask(line).await?;
        let mut monitored = Monitored::new(
            line.channel.clone(),
            &self.settings,
            self.items.clone(),
            &server,
            line.notes.clone(),
            self.clock.clone(),
        );
        let refused = monitored.monitor((0..self.items.len()).collect()).await?;
        first.extend(unasked(refused));
        let acks = Acks::new(self.receipts.clone());
        let publisher = Publisher::new(login, monitored, acks.clone(), first);
        Ok((publisher, acks))
    }

    async fn ask(&self, line: &Line) -> Result<Server, SessionError> {
        let with_uris = self.items.iter().any(|item| item.node.needs_namespaces());
        Server::ask(&line.channel, with_uris).await
    }
}

/// A secure channel to the endpoint that the settings ask for, not logged in yet.
pub(super) struct Line {
    pub(super) channel: Arc<Channel>,
    /// Ours, where the channel is secured.
    own: Option<OwnCertificate>,
    notes: Notes,
}

impl Line {
    pub(super) async fn open(
        settings: &Arc<Settings>,
        clock: &dyn Clock,
    ) -> Result<Self, SessionError> {
        let now = clock.timebase().utc(clock.now());
        let now = now.and_then(CertificateTime::from_utc);
        let Choice { endpoint, remarks } = choose(settings, now).await?;
        let own = match endpoint.security_mode {
            MessageSecurityMode::None => None,
            _ => Some(own_certificate(settings).await?),
        };
        let notes = Notes::new(&endpoint_name(&endpoint));
        let own_remark = own.as_ref().and_then(|own| own.remark(now));
        for remark in remarks.iter().chain(&own_remark) {
            notes.warn(remark);
        }
        if own.is_none() && settings.auth != Auth::Anonymous {
            notes.warn("security is None: nothing protects what is sent, and who the server is stays unproved");
        }
        let channel = Channel::open(
            &settings.device,
            &settings.url,
            endpoint,
            &settings.pki_dir,
            settings.timeout,
        )
        .await?;
        Ok(Self {
            channel: Arc::new(channel),
            own,
            notes,
        })
    }

    pub(super) async fn log_in(
        &self,
        settings: &Settings,
        silence_max: Duration,
    ) -> Result<Login, SessionError> {
        log_in(&self.channel, settings, self.own.as_ref(), silence_max).await
    }
}

/// Making a key takes seconds on a small machine, so it stays off the async threads.
async fn own_certificate(settings: &Arc<Settings>) -> Result<OwnCertificate, SessionError> {
    let pki_dir = settings.pki_dir.clone();
    let failed = |message: String| {
        let hint = "make the pki directory writable for the user that runs millrace";
        refused(settings, message, hint)
    };
    tokio::task::spawn_blocking(move || own::own_certificate(&pki_dir))
        .await
        .map_err(|error| failed(error.to_string()))?
        .map_err(|error| failed(with_cause(&error)))
}

/// Opens a session and closes it: what is remarked of it.
///
/// # Errors
/// Why a device with these settings gets no session, in the same words.
pub async fn shake_hands(
    settings: Settings,
    clock: &dyn Clock,
) -> Result<Vec<String>, SessionError> {
    let settings = Arc::new(settings);
    let line = Line::open(&settings, clock).await?;
    line.log_in(&settings, KEEP_ALIVE).await?;
    super::session::say_goodbye(&line.channel).await;
    Ok(line.notes.lines())
}
