//! A feed that speaks as an edge node of Sparkplug: births before data, deaths of devices that are lost, the word of the
//! primary host, writes of hosts, and what was sent until it may count as delivered.
//!
//! Nothing goes out before the clock is known and, where one is named, the primary host is online. Where there are several
//! endpoints, the next one is tried when it goes offline, or does not come online for a while. A device is *absent*
//! while its session is lost or paused, and when it is not configured any more: the host is told by DDEATH, its values
//! of before go as historical between a DBIRTH and the next DDEATH, and what has no value is not sent.
//!
//! QoS 0 has no acknowledgement. What the broker has read (see `SessionSettings::unacked`) is held for `settle_after`
//! on an unbroken connection before it settles; a connection that ends earlier sends it again as historical. See
//! docs/decisions/0010-sparkplug-delivery.md.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use millrace_buffer::OfferId;
use millrace_tags::{Clock, Command, Moment, Parcel, Reply, ReplyStatus, ReplyTo, ValueType};
use millrace_uplink::codec::sparkplug::{EdgeNode, HostCommand, HostNews, PrimaryHost};
use millrace_uplink::profile::EncodeError;
use millrace_uplink::{Message, Parting, Profile, Refusal};
use serde_json::json;

use super::bd_seq::BdSeq;
use crate::device::{Device, chain};
use crate::live::{LiveTable, value_json};
use crate::report::DeviceState;

/// Several hosts that ask for births at once get them once.
const REBIRTH_PAUSE: Duration = Duration::from_secs(1);

/// How long after a refusal births are tried again.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// How long after its last data a device that is absent is told dead: what it said before it was lost comes first.
const LINGER: Duration = Duration::from_millis(500);

/// How often the devices are looked at.
const SURVEY_INTERVAL: Duration = Duration::from_millis(200);

/// A clock that is corrected by less than this is not set back.
const CLOCK_STEP_NS: i64 = 1_000_000_000;

/// How long a connection waits for the primary host, where there is another endpoint that it may be at: one of which
/// nothing is heard may be slow to connect,
const SILENT_HOST_PATIENCE: Duration = Duration::from_secs(30);
/// and one that is said to be offline may just have begun anew.
const OFFLINE_HOST_PATIENCE: Duration = Duration::from_secs(5);

/// Offers that may wait to be settled; beyond that the backlog waits, too.
const HELD_MAX: usize = 8_192;

/// A write takes its reply with it; one whose reply never comes must not stay for ever.
const WRITES_MAX: usize = 256;

/// A tag of a device.
pub(crate) struct PlantTag {
    pub(crate) device: String,
    pub(crate) name: String,
    pub(crate) value_type: ValueType,
}

/// What there is to be born.
pub(crate) struct Plant {
    /// Last values.
    pub(crate) live: Arc<LiveTable>,
    /// The devices that run and that this uplink sends.
    pub(crate) devices: BTreeMap<String, Arc<Device>>,
    /// Their tags, by full name.
    pub(crate) tags: HashMap<String, PlantTag>,
    /// Models are never absent.
    pub(crate) models: Vec<String>,
}

impl Plant {
    fn is_absent(&self, source: &str) -> bool {
        match self.devices.get(source) {
            Some(device) => matches!(device.state().0, DeviceState::Offline | DeviceState::Paused),
            None => !self.models.iter().any(|model| model == source),
        }
    }
}

/// What a feed does next.
pub(super) enum Turn {
    /// Nothing may be sent.
    Wait,
    /// These first.
    Send(Vec<Message>),
    /// What the store has.
    Data,
}

/// A host's write that is under way.
struct Write {
    source: String,
    tag: String,
    /// It runs, or ran.
    begun: bool,
}

/// When something of a device that is absent was last sent, or when it was found to be absent.
type Absences = BTreeMap<String, Moment>;

/// An edge node.
pub(super) struct Node {
    node: EdgeNode,
    host: Option<PrimaryHost>,
    plant: Plant,
    clock: Arc<dyn Clock>,
    bd_seq: BdSeq,
    settle_after: Duration,
    /// Where the boot stood in UTC at the last look.
    offset_ns: Option<i64>,
    /// The births of this connection, or the last rebirth.
    born: Option<Moment>,
    /// A host has asked for births.
    rebirth: bool,
    /// When births were refused, and why.
    refused: Option<(Moment, String)>,
    /// The connection is to be ended: the host is offline.
    hangs_up: bool,
    /// There are further endpoints, where the host may be.
    walks: bool,
    /// When the connection was made.
    connected: Option<Moment>,
    /// The next connection goes to the next endpoint.
    walks_on: bool,
    /// What was not settled is to be sent again.
    sends_again: bool,
    absences: Absences,
    surveyed: Option<Moment>,
    writes: HashMap<String, Write>,
    /// Values that were written and are to be told: device, tag, value.
    told: VecDeque<(String, String, serde_json::Value)>,
    /// What the broker has read: since when, and how many records it is.
    held: VecDeque<(Moment, OfferId, u64)>,
}

impl Node {
    /// The edge node of a profile; `None` where it has none.
    pub(super) fn new(
        profile: &Profile,
        plant: Plant,
        bd_seq: BdSeq,
        settle_after: Duration,
        clock: Arc<dyn Clock>,
    ) -> Option<Self> {
        let (mut node, host) = profile.edge_node()?;
        for device in plant.devices.keys() {
            let tags = plant.tags.values().filter(|tag| tag.device == *device);
            node.add(device, tags.map(|tag| (tag.name.as_str(), tag.value_type)));
        }
        Some(Self {
            node,
            host,
            plant,
            clock,
            bd_seq,
            settle_after,
            offset_ns: None,
            born: None,
            rebirth: false,
            refused: None,
            hangs_up: false,
            walks: false,
            connected: None,
            walks_on: false,
            sends_again: false,
            absences: Absences::new(),
            surveyed: None,
            writes: HashMap::new(),
            told: VecDeque::new(),
            held: VecDeque::new(),
        })
    }

    /// There are further endpoints: where the primary host stays offline, the next one is tried.
    pub(super) fn walks(mut self, walks: bool) -> Self {
        self.walks = walks;
        self
    }

    /// A connection was made.
    pub(super) fn connected(&mut self) {
        self.connected = Some(self.clock.now());
    }

    /// Whether the next connection goes to the next endpoint.
    pub(super) fn walks_on(&mut self) -> bool {
        std::mem::take(&mut self.walks_on)
    }

    /// An attempt to connect begins: its will and its farewell are NDEATH under a number of its own, on disk before the
    /// CONNECT.
    pub(super) async fn connecting(&mut self) -> Parting {
        let number = self.bd_seq.next();
        let saved = tokio::task::spawn_blocking(self.bd_seq.save()).await;
        if let Ok(Err(error)) = saved {
            tracing::error!(
                error = chain(&error),
                "a restart will repeat numbers of connections"
            );
        }
        let will = self.node.connecting(number);
        self.connection_ended();
        Parting {
            farewell: vec![will.clone()],
            will: Some(will),
        }
    }

    /// No CONNECT was sent: its number is the next one's.
    pub(super) fn unheard(&mut self) {
        self.bd_seq.take_back();
    }

    /// Nothing of the last connection counts.
    pub(super) fn connection_ended(&mut self) {
        if let Some(host) = &mut self.host {
            host.forget();
        }
        self.born = None;
        self.rebirth = false;
        self.refused = None;
        self.hangs_up = false;
        self.sends_again = false;
        self.absences.clear();
        self.held.clear();
        // Births tell what is now; a value that was read back before them may be none of that any more.
        self.writes.clear();
        self.told.clear();
    }

    /// Whether everything that is not settled is to be offered again now, after births: the host may have missed it.
    pub(super) fn sends_again(&mut self) -> bool {
        let again = std::mem::take(&mut self.sends_again);
        if again {
            self.held.clear();
            self.rebirth = true;
        }
        again
    }

    /// Whether the connection is to be ended.
    pub(super) fn hangs_up(&self) -> bool {
        self.hangs_up
    }

    /// What births and data wait for, for people.
    pub(super) fn waits_for(&self) -> Option<String> {
        if let Some((_, why)) = &self.refused {
            return Some(why.clone());
        }
        let host = self.host.as_ref().filter(|host| !host.is_online())?;
        Some(format!("the primary host {} is not online", host.id()))
    }

    /// A birth cannot be sent as it is: tried again now and then, since nothing can be sent without it.
    pub(super) fn refused(&mut self, why: &Refusal) {
        let why = format!(
            "its births cannot be sent: {why}; divide the device, or let the broker take more"
        );
        tracing::error!(error = why, "births are refused");
        self.refused = Some((self.clock.now(), why));
        self.born = None;
    }

    /// What comes before data now.
    pub(super) fn turn(&mut self) -> Turn {
        let now = self.clock.now();
        let Some(now_ms) = self.unix_ms(now) else {
            return Turn::Wait;
        };
        let retry = |(since, _): &(Moment, String)| now.since(*since) < REFUSED_PAUSE;
        self.refused = self.refused.take().filter(retry);
        self.look_for_host(now);
        if self.hangs_up || self.waits_for().is_some() {
            return Turn::Wait;
        }
        self.heed_clock();
        match self.born {
            None => return Turn::Send(self.births(now, now_ms)),
            Some(born) if self.rebirth => {
                // No data in between: what the host asked for comes first.
                return match now.since(born) >= REBIRTH_PAUSE {
                    true => Turn::Send(self.births(now, now_ms)),
                    false => Turn::Wait,
                };
            }
            Some(_) => {}
        }
        while let Some((source, tag, value)) = self.told.pop_front() {
            if let Some(message) = self.node.written(&source, &tag, &value, now_ms) {
                return Turn::Send(vec![message]);
            }
        }
        let due = self
            .surveyed
            .is_none_or(|at| now.since(at) >= SURVEY_INTERVAL);
        if due {
            self.surveyed = Some(now);
            let changes = self.survey(now, now_ms);
            if !changes.is_empty() {
                return Turn::Send(changes);
            }
        }
        Turn::Data
    }

    /// A host that does not come online here may be at another endpoint.
    fn look_for_host(&mut self, now: Moment) {
        let Some(host) = self.host.as_ref().filter(|host| !host.is_online()) else {
            return;
        };
        let patience = match host.was_heard() {
            true => OFFLINE_HOST_PATIENCE,
            false => SILENT_HOST_PATIENCE,
        };
        let waited = self.connected.map(|since| now.since(since));
        if self.walks && !self.hangs_up && waited >= Some(patience) {
            tracing::warn!(
                host = host.id(),
                "the primary host is not online here: the next endpoint is tried"
            );
            (self.hangs_up, self.walks_on) = (true, true);
        }
    }

    /// Values after the clock was set back would be older than those before it, and count as history: births begin anew.
    fn heed_clock(&mut self) {
        let offset_ns = self.clock.timebase().offset_ns;
        let before = std::mem::replace(&mut self.offset_ns, offset_ns);
        if let (Some(before), Some(now)) = (before, offset_ns)
            && now < before - CLOCK_STEP_NS
        {
            self.node.clock_set_back();
            self.rebirth = true;
        }
    }

    fn unix_ms(&self, at: Moment) -> Option<u64> {
        let utc = self.clock.timebase().utc(at)?;
        u64::try_from(utc.0 / 1_000_000).ok()
    }

    fn births(&mut self, now: Moment, now_ms: u64) -> Vec<Message> {
        self.born = Some(now);
        self.rebirth = false;
        self.absences.clear();
        self.see(|_| true);
        let plant = &self.plant;
        self.node.births(now_ms, |source| plant.is_absent(source))
    }

    /// Takes the last values of these devices, for their births.
    fn see(&mut self, which: impl Fn(&str) -> bool) {
        let timebase = self.clock.timebase();
        let Self { node, plant, .. } = self;
        plant.live.each(|full_name, sample| {
            let tag = plant.tags.get(full_name).filter(|tag| which(&tag.device));
            let time = sample
                .source_time
                .or_else(|| timebase.utc(sample.gateway_time));
            let ms = time.and_then(|time| u64::try_from(time.0 / 1_000_000).ok());
            if let (Some(tag), Some(ms)) = (tag, ms) {
                node.see(&tag.device, &tag.name, sample, ms);
            }
        });
    }

    /// Births and deaths of devices that came and went.
    fn survey(&mut self, now: Moment, now_ms: u64) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut sources: Vec<String> = self.plant.devices.keys().cloned().collect();
        let strangers = self
            .absences
            .keys()
            .filter(|source| !self.plant.devices.contains_key(*source));
        sources.extend(strangers.cloned());
        for source in sources {
            if !self.plant.is_absent(&source) {
                self.absences.remove(&source);
                if !self.node.is_born(&source) {
                    self.see(|name| name == source);
                    messages.extend(self.node.back(&source, now_ms));
                }
                continue;
            }
            if !self.node.is_born(&source) {
                continue;
            }
            let since = *self.absences.entry(source.clone()).or_insert(now);
            if now.since(since) >= LINGER {
                self.absences.remove(&source);
                messages.extend(self.node.lost(&source, now_ms));
            }
        }
        messages
    }

    /// The messages of a parcel.
    pub(super) fn encode(
        &mut self,
        parcel: &Parcel,
        max_message: usize,
    ) -> Result<Vec<Message>, EncodeError> {
        let now = self.clock.now();
        // The clock was known at the births.
        let now_ms = self.unix_ms(now).unwrap_or_default();
        let source: &str = &parcel.source;
        let is_absent = self.plant.is_absent(source);
        if !self.node.is_born(source) {
            self.see(|name| name == source);
        }
        let messages = self.node.encode(parcel, max_message, now_ms, is_absent)?;
        if is_absent && !messages.is_empty() {
            self.absences.insert(source.to_owned(), now);
        }
        Ok(messages)
    }

    /// A message of this session will not arrive: births make hosts whole again.
    pub(super) fn stumbled(&mut self) {
        self.rebirth = true;
    }

    /// Takes a message of a host; commands are for whoever may run them.
    pub(super) fn received(&mut self, topic: &str, payload: &[u8], retained: bool) -> Vec<Command> {
        if let Some(host) = &mut self.host
            && host.subscriptions().iter().any(|of_host| of_host == topic)
        {
            match host.take(topic, payload) {
                HostNews::None => {}
                HostNews::Offline => {
                    tracing::warn!(
                        host = host.id(),
                        "the primary host is offline: data wait for it"
                    );
                    (self.hangs_up, self.walks_on) = (true, true);
                }
                HostNews::Renewed => self.sends_again = true,
            }
            return Vec::new();
        }
        if retained {
            tracing::warn!(
                topic,
                "a retained command was ignored: commands must not be retained"
            );
            return Vec::new();
        }
        let asked = self.node.commands(topic, payload);
        asked
            .into_iter()
            .filter_map(|command| match command {
                HostCommand::Rebirth => {
                    tracing::info!("a host asks for births");
                    self.rebirth = true;
                    None
                }
                HostCommand::Write {
                    id,
                    source,
                    tag,
                    value,
                } => {
                    let value = value.as_ref().map(value_json);
                    let args = json!({"tag": format!("{source}/{tag}"), "value": value});
                    if self.writes.len() < WRITES_MAX {
                        let write = Write {
                            source,
                            tag,
                            begun: false,
                        };
                        self.writes.entry(id.clone()).or_insert(write);
                    }
                    Some(Command {
                        reply_to: ReplyTo {
                            id: id.clone(),
                            ..ReplyTo::default()
                        },
                        id,
                        op: "write".to_owned(),
                        args,
                        ..Command::default()
                    })
                }
            })
            .collect()
    }

    /// A write has begun: it is no repetition of one that was answered already, whose value says nothing of now.
    pub(super) fn begun(&mut self, id: &str) {
        if let Some(write) = self.writes.get_mut(id) {
            write.begun = true;
        }
    }

    /// What became of a command. Sparkplug's answer to a write is the value; it has none to one that failed.
    pub(super) fn replied(&mut self, reply: &Reply) {
        let Some(Write { source, tag, begun }) = self.writes.remove(&reply.id) else {
            return;
        };
        if !begun || reply.status != ReplyStatus::Done {
            return;
        }
        let result = reply.result.as_ref();
        let of = |key: &str| result?.get(key).filter(|value| !value.is_null());
        if let Some(value) = of("read_back").or_else(|| of("value")) {
            self.told.push_back((source, tag, value.clone()));
        }
    }

    /// The broker has read this offer.
    pub(super) fn hold(&mut self, id: OfferId, records: u64) {
        self.held.push_back((self.clock.now(), id, records));
    }

    /// The next offer that was held long enough.
    pub(super) fn ripe(&mut self) -> Option<(OfferId, u64)> {
        let (since, id, records) = *self.held.front()?;
        if self.clock.now().since(since) < self.settle_after {
            return None;
        }
        self.held.pop_front();
        Some((id, records))
    }

    /// Whether more may be held.
    pub(super) fn has_room(&self) -> bool {
        self.held.len() < HELD_MAX
    }
}
