//! Presets for kinds of cloud cores: topics, codec, login, limits and commands.
//!
//! A [`Definition`] is data, a TOML file: those that come with the program are built in, a person may add their own
//! in a directory, so that a new core needs no release. Joined to a gateway and the variables of an uplink it is
//! a [`Profile`], which turns parcels, events and gaps into messages and messages into commands.
//!
//! Names become topic parts as [`crate::topic`] says. A topic that breaks a rule of the core is never
//! published: the record is refused, with the rule.

mod builtin;
mod definition;
mod limits;
mod packing;
mod reader;
#[cfg(test)]
mod round_trip;
mod setup;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use millrace_tags::{Command, Gap, Parcel, Records, Reply, ReplyTo, StreamId, Timebase, Timestamp};
use serde_json::{Map, Value};

use crate::codec::sparkplug::{EdgeNode, PrimaryHost};
use crate::codec::{Codec, Piece, Room, Sheet, json, payload_limit};
use crate::command::way::Way;
use crate::command::{self, Garbled, Incoming};
use crate::message::{Message, Properties};
use crate::secret::Secret;
use crate::topic::BoundTopic;

pub use crate::codec::{BACKLOG_MESSAGE_BYTES, EncodeError};
pub use builtin::{builtin_names, find, find_with};
pub use definition::{
    Compression, Definition, DeliveryClass, Need, Rates, Sequence, Variable, parse,
};
pub use limits::CoreLimits;
pub use packing::SealError;
pub use reader::{ProfileError, ProfileProblem};
pub use setup::SetupError;

use packing::{SEAL_BYTES, Sealer};

/// What the numbers of records take as user properties: three names and lengths, 32 digits of the stream, two numbers.
const SEQUENCE_BYTES: usize = 3 + 3 * 5 + 23 + 32 + 20 + 20;
/// What an expiry takes, with a longer length of the properties.
const EXPIRY_BYTES: usize = 3 + 5;

/// A profile, for one gateway and one uplink.
#[derive(Debug)]
pub struct Profile {
    definition: Arc<Definition>,
    gateway: String,
    vars: BTreeMap<String, String>,
    codec: Codec,
    topics: Topics,
    /// Where commands come from.
    ways: Vec<Way>,
    /// Topic and payload of each message of the greeting, before compression and seal.
    greeting: Vec<Piece>,
    compression: Option<Compression>,
    /// Payloads are sealed; without a key none leaves.
    sealed: bool,
    sealer: RwLock<Option<Arc<Sealer>>>,
}

#[derive(Debug)]
struct Topics {
    data: BoundTopic,
    event: Option<BoundTopic>,
    gap: Option<String>,
    status: Option<String>,
    clock: Option<String>,
}

impl Profile {
    /// Gives the key that payloads are sealed with: 32 bytes as hexadecimal digits or base64. It takes the place of the one
    /// before.
    ///
    /// # Errors
    /// When it is no key; the one before stays.
    pub fn unlock(&self, key: &Secret) -> Result<(), SealError> {
        let sealer = Arc::new(Sealer::new(key)?);
        *self.sealer.write().unwrap_or_else(PoisonError::into_inner) = Some(sealer);
        Ok(())
    }

    /// Compresses and seals. `None`: it is to be sealed and cannot be.
    fn pack(&self, piece: Piece, stream: Option<StreamId>) -> Option<Message> {
        let properties = stream.and_then(|stream| self.properties(stream, piece.range));
        let mut payload = piece.payload;
        if let Some(compression) = self.compression {
            payload = packing::compress(compression, payload);
        }
        if self.sealed {
            let sealer = self
                .sealer
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()?;
            payload = sealer.seal(&piece.topic, stream, piece.range, payload)?;
        }
        Some(Message {
            properties,
            ..Message::new(piece.topic, payload)
        })
    }

    /// What goes with records in MQTT 5.
    fn properties(&self, stream: StreamId, (first, last): (u64, u64)) -> Option<Box<Properties>> {
        let in_properties = self.definition.sequence == Sequence::Property;
        let user = match in_properties {
            true => vec![
                ("stream".to_owned(), stream.to_string()),
                ("first_seq".to_owned(), first.to_string()),
                ("last_seq".to_owned(), last.to_string()),
            ],
            false => Vec::new(),
        };
        let properties = Properties {
            expiry_s: self.definition.message_expiry,
            user,
            ..Properties::default()
        };
        (properties != Properties::default()).then(|| Box::new(properties))
    }

    /// A message without records.
    fn message(&self, topic: &str, payload: Vec<u8>) -> Option<Message> {
        let piece = Piece {
            topic: topic.to_owned(),
            payload,
            range: (0, 0),
        };
        self.pack(piece, None)
    }

    /// What the codec may fill.
    fn room(&self, max_message: usize) -> usize {
        let seal = match self.sealed {
            true => SEAL_BYTES,
            false => 0,
        };
        let numbers = match self.definition.sequence {
            Sequence::Property => SEQUENCE_BYTES,
            Sequence::Payload | Sequence::None => 0,
        };
        let expiry = self.definition.message_expiry.map_or(0, |_| EXPIRY_BYTES);
        max_message.saturating_sub(seal + numbers + expiry)
    }

    /// What its file says.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// The gateway's id, as it is.
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    /// The user to log in as, where the uplink names none.
    pub fn username(&self) -> Option<String> {
        let template = self.definition.username.as_ref()?;
        let rules = crate::topic::TopicRules::default();
        Some(
            template
                .bind(&self.gateway, &self.vars, &rules)
                .render("", "", ""),
        )
    }

    /// Where commands come from.
    pub fn command_filters(&self) -> impl Iterator<Item = &str> {
        self.ways.iter().map(|way| way.filter.as_str())
    }

    /// All there is to subscribe: where commands come from, and what an edge node waits for.
    pub fn subscriptions(&self) -> Vec<String> {
        let mut filters: Vec<String> = self.command_filters().map(str::to_owned).collect();
        if let Some((node, host)) = self.edge_node() {
            filters.extend(node.subscriptions());
            filters.extend(host.iter().flat_map(PrimaryHost::subscriptions));
        }
        filters.extend(self.limits_filter().map(str::to_owned));
        filters
    }

    /// The edge node that speaks for the gateway, and the host that it waits for; `None` where the profile has
    /// messages of its own.
    pub fn edge_node(&self) -> Option<(EdgeNode, Option<PrimaryHost>)> {
        let Codec::Sparkplug = self.codec else {
            return None;
        };
        let var = |name: &str| self.vars.get(name).map(String::as_str).unwrap_or_default();
        let host = Some(var("primary_host")).filter(|id| !id.is_empty());
        Some((
            EdgeNode::new(var("group"), var("node")),
            host.map(PrimaryHost::new),
        ))
    }

    /// The parcel as messages, each no larger on the wire than `max_message` (backlog:
    /// [`BACKLOG_MESSAGE_BYTES`], unless one record alone takes more). A parcel of samples becomes as few messages as
    /// the codec allows; the ranges of numbers that they carry follow each other without a hole. Of events
    /// each gets its own message.
    ///
    /// # Errors
    /// When a record cannot be encoded; it names the record.
    pub fn encode_parcel(
        &self,
        parcel: &Parcel,
        max_message: usize,
    ) -> Result<Vec<Message>, EncodeError> {
        let room = Room::of(parcel, self.room(max_message));
        let pieces = match &parcel.records {
            Records::Samples(_) => {
                self.codec
                    .samples(&self.sheet(&self.topics.data), parcel, room)?
            }
            Records::Events(_) => self.events(parcel, room.most)?,
        };
        let packed = pieces.into_iter().map(|piece| {
            let seq = piece.range.0;
            self.pack(piece, Some(parcel.stream))
                .ok_or_else(|| EncodeError::Unsealed {
                    source_name: parcel.source.to_string(),
                    seq,
                })
        });
        packed.collect()
    }

    fn sheet<'a>(&'a self, topic: &'a BoundTopic) -> Sheet<'a> {
        Sheet {
            gateway: &self.gateway,
            topic,
            time: self.definition.time,
            vars: &self.vars,
        }
    }

    fn events(&self, parcel: &Parcel, limit: usize) -> Result<Vec<Piece>, EncodeError> {
        let (Some(topic), Records::Events(events)) = (&self.topics.event, &parcel.records) else {
            return Ok(Vec::new());
        };
        let sheet = self.sheet(topic);
        let mut pieces = Vec::with_capacity(events.len());
        for (seq, event) in (parcel.first_seq..).zip(events) {
            let Some(payload) = self.codec.event(&sheet, parcel, seq, event)? else {
                continue;
            };
            let piece = Piece {
                topic: topic.of_parcel(parcel, None)?,
                payload,
                range: (seq, seq),
            };
            if piece.wire_bytes() > limit {
                return Err(EncodeError::TooLarge {
                    source_name: parcel.source.to_string(),
                    seq,
                    bytes: piece.wire_bytes(),
                    limit,
                });
            }
            pieces.push(piece);
        }
        Ok(pieces)
    }

    /// The gap as messages, each no larger than `max_message`: it is split by holes where it must be. None where
    /// the profile has no place for gaps.
    pub fn encode_gap(&self, gap: &Gap, max_message: usize) -> Vec<Message> {
        let Some(topic) = &self.topics.gap else {
            return Vec::new();
        };
        let limit = payload_limit(topic, self.room(max_message));
        self.codec
            .gap(&self.sheet(&self.topics.data), gap, limit)
            .into_iter()
            .filter_map(|payload| self.message(topic, payload))
            .collect()
    }

    /// Whether the gateway is there. `facts` is what the agent tells about itself, as far as the codec has
    /// room for it; a key `online` in it is overwritten.
    pub fn status(&self, online: bool, facts: &Map<String, Value>) -> Option<Message> {
        let topic = self.topics.status.as_ref()?;
        let payload = self
            .codec
            .status(&self.gateway, &self.vars, online, facts)?;
        let mut message = self.message(topic, payload)?;
        message.retain = self.definition.retain_status;
        Some(message)
    }

    /// What the gateway says when it leaves.
    pub fn offline(&self) -> Option<Message> {
        self.status(false, &Map::new())
    }

    /// What the broker says for a gateway that vanished.
    pub fn will(&self) -> Option<Message> {
        self.definition.will.then(|| self.offline()).flatten()
    }

    /// What is sent at each connect ahead of all data: the status, then what the profile adds.
    pub fn greeting(&self, facts: &Map<String, Value>) -> Vec<Message> {
        self.status(true, facts)
            .into_iter()
            .chain(
                self.greeting
                    .iter()
                    .filter_map(|piece| self.pack(piece.clone(), None)),
            )
            .collect()
    }

    /// Where the boot stands in UTC; `None` while that is not known, or where the profile has no place for it.
    pub fn clock(&self, timebase: &Timebase) -> Option<Message> {
        let topic = self.topics.clock.as_ref()?;
        self.message(topic, json::clock(timebase)?)
    }

    /// Whether the core may ask something.
    pub fn takes_commands(&self) -> bool {
        !self.ways.is_empty()
    }

    /// The commands of a message; `None` where none come on this topic.
    pub fn commands(&self, incoming: &Incoming<'_>) -> Option<Vec<Result<Command, Garbled>>> {
        let mut ways = self.ways.iter();
        ways.find_map(|way| way.decode(incoming, &self.gateway))
    }

    /// The answer to a command; `None` where nobody waits for one. `now` is for formats that want a time.
    pub fn reply(&self, reply: &Reply, to: &ReplyTo, now: Option<Timestamp>) -> Option<Message> {
        let (topic, payload) = command::encode_reply(reply, to, now)?;
        let mut message = self.message(&topic, payload)?;
        if let Some(correlation) = command::correlation(to) {
            message.properties_mut().correlation = Some(correlation.into());
        }
        Some(message)
    }

    /// What tells the core that a command has begun, where its format has that.
    pub fn begun(&self, to: &ReplyTo) -> Option<Message> {
        let (topic, payload) = command::encode_begun(to)?;
        self.message(&topic, payload)
    }
}
