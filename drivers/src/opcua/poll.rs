//! Poll groups: many nodes in few Read requests.

use std::sync::Arc;

use millrace_tags::{Clock, Moment, Reading, Reason, Sample};
use opcua::types::{DataValue, NodeId, ReadValueId, TimestampsToReturn};

use super::channel::Channel;
use super::notes::Notes;
use super::server::is_too_many;
use super::types::Types;
use super::{Item, decode, server};
use crate::SessionError;

/// What is read, and how much at once.
pub(super) struct Polled {
    pub(super) items: Arc<[Item]>,
    /// `None` where the server lacks the item's namespace.
    pub(super) nodes: Vec<Option<NodeId>>,
    /// Places in `items`, for each poll group.
    pub(super) members: Vec<Vec<usize>>,
    pub(super) reads_max: usize,
    /// Which times are asked for. Those of the server cost a third of a read, and are only needed where it has no others.
    pub(super) times: TimestampsToReturn,
    pub(super) types: Types,
}

impl Polled {
    /// One sample for each tag of the group, stamped with the arrival of its own reply.
    pub(super) async fn read(
        &mut self,
        group: usize,
        channel: &Channel,
        notes: &Notes,
        clock: &dyn Clock,
    ) -> Result<Reading, SessionError> {
        let places = self.members.get(group).map_or(&[][..], Vec::as_slice);
        let mut samples = Vec::with_capacity(places.len());
        let (known, unknown): (Vec<usize>, Vec<usize>) = places
            .iter()
            .partition(|&&place| self.nodes[place].is_some());
        let mut rest = known.as_slice();
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at(self.reads_max.clamp(1, rest.len()));
            let wanted = chunk.iter().filter_map(|&place| {
                Some(ReadValueId {
                    index_range: self.items[place].node.numeric_range(),
                    ..server::value_of(self.nodes[place].clone()?)
                })
            });
            let read = server::try_read_values(channel, wanted.collect(), self.times);
            let values = match read.await {
                Ok(values) if self.times == TimestampsToReturn::Source && lack_time(&values) => {
                    self.times = TimestampsToReturn::Both;
                    continue;
                }
                Ok(values) => values,
                // A server that does not tell its limit: it is found once, and kept.
                Err(error) if is_too_many(error.status()) && chunk.len() > 1 => {
                    self.reads_max = chunk.len() / 2;
                    continue;
                }
                Err(error) => return Err(channel.asked("Read").failed(&error)),
            };
            rest = later;
            let now = clock.now();
            let healed = notes.has_refused();
            for (&place, data) in chunk.iter().zip(&values) {
                self.note(place, data, healed, notes, now);
            }
            let origin = decode::Origin {
                channel,
                types: &self.types,
                items: &self.items,
                nodes: &self.nodes,
            };
            let values = chunk.iter().copied().zip(values).collect();
            let read = decode::samples(origin, values, now).await?;
            samples.extend(read.into_iter().map(|(_, sample)| sample));
        }
        for place in unknown {
            let item = &self.items[place];
            notes.refused(
                place,
                item,
                "the server does not have its namespace, or nothing at its path",
                clock.now(),
            );
            samples.push(Sample::bad(item.tag, Reason::IllegalAddress, clock.now()));
        }
        Ok(Reading {
            samples,
            ..Reading::default()
        })
    }

    /// `healed`: what is good now may have been bad before.
    fn note(&self, place: usize, data: &DataValue, healed: bool, notes: &Notes, now: Moment) {
        match data.status {
            Some(status) if status.is_bad() => {
                let item = &self.items[place];
                notes.refused(place, item, &status.to_string(), now);
                notes.retry_at(now + item.interval);
            }
            _ if healed => notes.accepted(place),
            _ => {}
        }
    }
}

/// Whether a value has none of the times that were asked for.
fn lack_time(values: &[DataValue]) -> bool {
    let mut valued = values.iter().filter(|data| data.value.is_some());
    valued.any(|data| data.source_timestamp.is_none())
}
