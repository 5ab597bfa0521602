//! Poll groups: many nodes in few Read requests.

use std::sync::Arc;

use millrace_tags::{Clock, Reading, Reason, Sample};
use opcua::types::NodeId;

use super::channel::Channel;
use super::notes::Notes;
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
}

impl Polled {
    /// One sample for each tag of the group, stamped with the arrival of its own reply.
    pub(super) async fn read(
        &self,
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
        for chunk in known.chunks(self.reads_max.max(1)) {
            let nodes = chunk
                .iter()
                .filter_map(|&place| self.nodes[place].clone())
                .collect();
            let values = server::read(channel, nodes).await?;
            let now = clock.now();
            let context = channel.context().read();
            for (&place, data) in chunk.iter().zip(values) {
                self.note(place, &data, notes);
                let tag = self.items[place].tag;
                samples.push(decode::sample(tag, data, now, &context));
            }
        }
        for place in unknown {
            let item = &self.items[place];
            notes.refused(place, item, "the server does not have its namespace");
            samples.push(Sample::bad(item.tag, Reason::IllegalAddress, clock.now()));
        }
        Ok(Reading {
            samples,
            receipt: None,
        })
    }

    fn note(&self, place: usize, data: &opcua::types::DataValue, notes: &Notes) {
        match data.status {
            Some(status) if status.is_bad() => {
                notes.refused(place, &self.items[place], &status.to_string());
            }
            _ => notes.accepted(place),
        }
    }
}
