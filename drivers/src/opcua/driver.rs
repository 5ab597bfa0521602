//! From settings to a session.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use millrace_tags::{Clock, Sample, TagId};
use opcua::types::{MessageSecurityMode, StatusCode, TimestampsToReturn};
use tokio::sync::watch;

use super::NodeAddress;
use super::acks::Acks;
use super::certificate::CertificateTime;
use super::channel::{Channel, connect_tcp};
use super::delivered::{Delivered, Memory};
use super::endpoint::{Choice, choose, endpoint_name, refused, with_cause};
use super::events::{Alarms, Watch};
use super::fallback::Fallback;
use super::intake::{Batch, Intake};
use super::locate::locate;
use super::login::{Login, log_in, log_in_again};
use super::notes::Notes;
use super::own::{self, OwnCertificate};
use super::poll::Polled;
use super::publish::Publisher;
use super::remedy;
use super::resume::{Left, Outcome, resume};
use super::server::Server;
use super::session::{Behind, Kept, OpcuaSession, close_session};
use super::settings::{Auth, Collect, Item, Settings};
use super::subscribed::Subscribed;
use super::subscription::Monitored;
use super::types::Types;
use crate::{Driver, PollGroup, Session, SessionError};

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
    left: Arc<Mutex<Left>>,
    session: Arc<watch::Sender<Option<String>>>,
}

impl OpcuaDriver {
    /// A driver of these items. Touches nothing outside.
    pub fn new(settings: Settings, items: Vec<Item>, clock: Arc<dyn Clock>) -> Self {
        let by_interval = match settings.collect {
            Collect::Poll => by_interval(&items),
            Collect::Subscribe => BTreeMap::new(),
        };
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
            session: Arc::default(),
        }
        .remembering(Memory::default())
    }

    /// Goes on where the agent before this one ended: its session is closed, and what the server sent meanwhile is
    /// filled in from history, or marked as lost, as after a lost session.
    pub fn remembering(self, memory: Memory) -> Self {
        let scalings = self.items.iter().map(|item| item.scaling);
        let delivered = Delivered::after(memory.cursors, scalings);
        *lock(&self.left) = Left {
            session: None,
            orphan: memory.session.as_deref().and_then(Login::from_text),
            intake: Intake::after(delivered),
            alarms: Some(Alarms::after(memory.alarms)),
        };
        self.session.send_replace(memory.session);
        self
    }

    /// The session that is at the server now, as a text that only [`Memory::session`] of the same device understands. It
    /// is a secret, as long as the session lives.
    pub fn session(&self) -> watch::Receiver<Option<String>> {
        self.session.subscribe()
    }

    /// Of a session that leaves in `left` what the next one needs.
    fn kept(&self, left: &Left) -> Kept {
        // A session beside the device's first watches no alarms, and leaves nothing.
        Kept(left.alarms.is_some().then(|| self.session.clone()))
    }

    /// The longest time that the server may hear nothing from us while all is well.
    fn silence_max(&self) -> Duration {
        let polled = self.groups.iter().map(|group| group.interval).max();
        let published = self.settings.publish_interval.max(self.settings.keep_alive);
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

    async fn remedied(&self) {
        remedy::changed(&self.settings).await;
    }

    async fn open(&self) -> Result<Box<dyn Session>, SessionError> {
        self.open_with(&self.left).await
    }

    async fn open_beside(&self) -> Result<Box<dyn Session>, SessionError> {
        self.open_with(&Arc::default()).await
    }
}

impl OpcuaDriver {
    async fn poll(
        &self,
        line: Line,
        login: Login,
        left: &Arc<Mutex<Left>>,
        kept: Kept,
    ) -> Result<OpcuaSession, SessionError> {
        let polled = self.polled(&line, self.members.clone()).await?;
        let clock = self.clock.clone();
        Ok(OpcuaSession::polled(
            line.channel,
            polled,
            line.notes,
            clock,
            self.items.clone(),
            Behind::new(login, left.clone()),
            kept,
        ))
    }

    async fn polled(&self, line: &Line, members: Vec<Vec<usize>>) -> Result<Polled, SessionError> {
        let server = self.ask(line).await?;
        let addresses: Vec<&NodeAddress> = self.items.iter().map(|item| &item.node).collect();
        Ok(Polled {
            items: self.items.clone(),
            nodes: locate(&line.channel, &server.namespaces, &addresses).await?,
            members,
            reads_max: server.reads_max,
            times: TimestampsToReturn::Source,
            types: Types::default(),
        })
    }

    /// Takes up what the session before this one has left in `left`, and leaves there what the next one needs.
    async fn open_with(&self, left: &Arc<Mutex<Left>>) -> Result<Box<dyn Session>, SessionError> {
        let line = Line::open(&self.settings, &*self.clock).await?;
        let session = match self.settings.collect {
            Collect::Poll => self.begin_polling(line, left).await?,
            Collect::Subscribe => self.subscribe(line, left).await?,
        };
        Ok(Box::new(session))
    }

    async fn begin_polling(
        &self,
        line: Line,
        left: &Arc<Mutex<Left>>,
    ) -> Result<OpcuaSession, SessionError> {
        let mut taken = Taken::from(left);
        let login = self.log_in(&line, &mut taken).await?;
        let channel = line.channel.clone();
        let kept = self.kept(&taken);
        match self.poll(line, login.clone(), left, kept.clone()).await {
            Ok(session) => Ok(session),
            Err(error) => {
                abandon(&channel, login, &mut taken, &kept).await;
                Err(error)
            }
        }
    }

    async fn subscribe(
        &self,
        line: Line,
        left: &Arc<Mutex<Left>>,
    ) -> Result<OpcuaSession, SessionError> {
        let mut taken = Taken::from(left);
        let kept = self.kept(&taken);
        let begun = self.go_on(&line, &mut taken).await?;
        drop(taken);
        let (device, left) = (&self.settings.device, left.clone());
        let subscribed = match begun {
            Begun::Publishing(publisher, acks) => {
                Subscribed::begin(|readings| publisher.run(readings), acks, device, left)
            }
            Begun::Polling(fallback) => {
                let acks = Acks::new(self.receipts.clone());
                Subscribed::begin(|readings| fallback.run(readings), acks, device, left)
            }
        };
        let clock = self.clock.clone();
        Ok(OpcuaSession::subscribed(
            line.channel,
            subscribed,
            line.notes,
            clock,
            self.items.clone(),
            kept,
        ))
    }

    /// Goes on with the session before this one, or begins anew where the server does not have it any more.
    async fn go_on(&self, line: &Line, left: &mut Left) -> Result<Begun, SessionError> {
        let Some(retained) = left.session.take() else {
            return self.begin(line, Vec::new(), left).await;
        };
        let own = line.own.as_ref();
        match resume(&line.channel, &self.settings, own, retained, &line.notes).await {
            Outcome::Resumed(retained) => {
                self.kept(left).note(&retained.login);
                let acks = retained.acks.clone();
                let intake = std::mem::take(&mut left.intake);
                Ok(Begun::Publishing(
                    Box::new(Publisher::resumed(retained, intake)),
                    acks,
                ))
            }
            Outcome::Gone(missed) => self.begin(line, missed, left).await,
            Outcome::Broken(error, retained) => {
                left.session = Some(retained);
                Err(error)
            }
        }
    }

    /// `missed` is what could still be had of the session before.
    async fn begin(
        &self,
        line: &Line,
        missed: Vec<Batch>,
        left: &mut Left,
    ) -> Result<Begun, SessionError> {
        let login = self.log_in(line, left).await?;
        let (monitored, refused) = match self.monitor(line, left.alarms.clone()).await {
            Ok(monitored) => monitored,
            Err(Unmonitored::Refused(code)) => {
                return self.fall_back(line, login, code, left).await;
            }
            Err(Unmonitored::Broken(error)) => {
                let kept = self.kept(left);
                abandon(&line.channel, login, left, &kept).await;
                return Err(error);
            }
        };
        let mut intake = std::mem::take(&mut left.intake);
        let first = missed
            .into_iter()
            .filter_map(|batch| intake.take(batch, &monitored.notes))
            .collect();
        intake.begin(self.items.len(), self.settings.history);
        let acks = Acks::new(self.receipts.clone());
        let mut publisher = Publisher::new(login, monitored, acks.clone(), intake, first);
        publisher.take_first(Batch::unasked(refused));
        Ok(Begun::Publishing(Box::new(publisher), acks))
    }

    /// Reads where nothing can be subscribed.
    async fn fall_back(
        &self,
        line: &Line,
        login: Login,
        code: StatusCode,
        left: &mut Left,
    ) -> Result<Begun, SessionError> {
        line.notes.warn(&format!(
            "the server makes no subscription ({code}): each node is read at its interval"
        ));
        let by_interval = by_interval(&self.items);
        let intervals = by_interval.keys().copied().collect();
        match self.polled(line, by_interval.into_values().collect()).await {
            Ok(polled) => Ok(Begun::Polling(Fallback {
                login,
                alarms: left.alarms.clone(),
                polled,
                intervals,
                channel: line.channel.clone(),
                notes: line.notes.clone(),
                clock: self.clock.clone(),
            })),
            Err(error) => {
                let kept = self.kept(left);
                abandon(&line.channel, login, left, &kept).await;
                Err(error)
            }
        }
    }

    /// Of a session beside the first there are no `alarms`: events are told once.
    async fn monitor(
        &self,
        line: &Line,
        alarms: Option<Alarms>,
    ) -> Result<(Monitored, Vec<(usize, Sample)>), Unmonitored> {
        let server = self.ask(line).await.map_err(Unmonitored::Broken)?;
        let mut monitored = Monitored::new(
            line.channel.clone(),
            &self.settings,
            self.items.clone(),
            &server,
            line.notes.clone(),
            self.clock.clone(),
        );
        let monitoring = monitored.monitor((0..self.items.len()).collect()).await;
        let refused = monitoring.map_err(|error| match monitored.unsupported {
            Some(code) => Unmonitored::Refused(code),
            None => Unmonitored::Broken(error),
        })?;
        if let Some(alarms) = alarms {
            monitored.watch = Watch {
                notifiers: self.settings.events.clone(),
                severity_min: self.settings.events_severity,
                namespaces: server.namespaces,
                alarms,
            };
            let watched = monitored.watch_events().await;
            watched.map_err(Unmonitored::Broken)?;
        }
        Ok((monitored, refused))
    }

    /// Logs in, once no session of ours is left behind at the server.
    async fn log_in(&self, line: &Line, left: &mut Left) -> Result<Login, SessionError> {
        if let Some(orphan) = &left.orphan {
            let own = line.own.as_ref();
            match log_in_again(&line.channel, &self.settings, own, orphan).await {
                Ok(_) => {
                    close_session(&line.channel).await;
                }
                Err(error) if line.channel.is_cut() => return Err(error),
                Err(error) if error.is_refusal() && !orphan.is_of_another_run() => {
                    return Err(error);
                }
                // The server has closed it.
                Err(_) => {}
            }
            left.orphan = None;
            self.kept(left).forget();
        }
        let login = line.log_in(&self.settings, self.silence_max()).await?;
        self.kept(left).note(&login);
        Ok(login)
    }

    async fn ask(&self, line: &Line) -> Result<Server, SessionError> {
        let with_uris = self.items.iter().any(|item| item.node.needs_namespaces())
            || !self.settings.events.is_empty();
        let server = Server::ask(&line.channel, with_uris).await?;
        if let Some((time, took)) = &server.clock {
            line.notes.clock(time, *took);
        }
        Ok(server)
    }
}

/// How values come in.
enum Begun {
    Publishing(Box<Publisher>, Acks),
    Polling(Fallback),
}

/// Why nothing is monitored.
enum Unmonitored {
    /// The server makes no subscription.
    Refused(StatusCode),
    /// The session is broken.
    Broken(SessionError),
}

fn by_interval(items: &[Item]) -> BTreeMap<Duration, Vec<usize>> {
    let mut by_interval: BTreeMap<Duration, Vec<usize>> = BTreeMap::new();
    for (place, item) in items.iter().enumerate() {
        by_interval.entry(item.interval).or_default().push(place);
    }
    by_interval
}

/// The session that was begun on this channel serves nobody.
async fn abandon(channel: &Channel, login: Login, left: &mut Left, kept: &Kept) {
    if !channel.is_cut() && close_session(channel).await {
        kept.forget();
    } else {
        left.orphan = Some(login);
    }
}

/// What the last session left, put back when this is dropped: an attempt that is given up loses nothing of it.
struct Taken<'l> {
    from: &'l Mutex<Left>,
    left: Left,
}

impl<'l> Taken<'l> {
    fn from(from: &'l Mutex<Left>) -> Self {
        Self {
            left: std::mem::take(&mut *lock(from)),
            from,
        }
    }
}

impl std::ops::Deref for Taken<'_> {
    type Target = Left;

    fn deref(&self) -> &Left {
        &self.left
    }
}

impl std::ops::DerefMut for Taken<'_> {
    fn deref_mut(&mut self) -> &mut Left {
        &mut self.left
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *lock(self.from) = std::mem::take(&mut self.left);
    }
}

pub(super) fn lock(left: &Mutex<Left>) -> MutexGuard<'_, Left> {
    left.lock().unwrap_or_else(PoisonError::into_inner)
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
        let login = log_in(&self.channel, settings, self.own.as_ref(), silence_max).await;
        if login.as_ref().is_err_and(SessionError::is_refusal) {
            // It was created, and nobody will use it.
            close_session(&self.channel).await;
        }
        login
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
    line.log_in(&settings, settings.keep_alive).await?;
    super::session::say_goodbye(&line.channel).await;
    Ok(line.notes.lines())
}
