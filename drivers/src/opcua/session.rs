//! A live session, subscribed or polled.

use std::sync::Arc;

use async_trait::async_trait;
use millrace_tags::{Clock, Reading, Receipt};
use opcua::types::{CloseSessionRequest, CloseSessionResponse};

use super::channel::Channel;
use super::notes::Notes;
use super::poll::Polled;
use super::subscription::Subscribed;
use crate::{Session, SessionError};

pub(super) struct OpcuaSession {
    channel: Arc<Channel>,
    collecting: Collecting,
    notes: Notes,
    clock: Arc<dyn Clock>,
}

enum Collecting {
    Subscribed(Subscribed),
    Polled(Polled),
    Closed,
}

impl OpcuaSession {
    pub(super) fn subscribed(
        channel: Arc<Channel>,
        subscribed: Subscribed,
        notes: Notes,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            channel,
            collecting: Collecting::Subscribed(subscribed),
            notes,
            clock,
        }
    }

    pub(super) fn polled(
        channel: Arc<Channel>,
        polled: Polled,
        notes: Notes,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            channel,
            collecting: Collecting::Polled(polled),
            notes,
            clock,
        }
    }
}

#[async_trait]
impl Session for OpcuaSession {
    async fn read(&mut self, group: usize) -> Result<Reading, SessionError> {
        match &mut self.collecting {
            Collecting::Polled(polled) => {
                polled
                    .read(group, &self.channel, &self.notes, &*self.clock)
                    .await
            }
            // There are no groups then, so nobody asks.
            Collecting::Subscribed(_) | Collecting::Closed => Ok(Reading::default()),
        }
    }

    async fn notified(&mut self) -> Result<Reading, SessionError> {
        match &mut self.collecting {
            Collecting::Subscribed(subscribed) => subscribed.next().await,
            Collecting::Polled(_) | Collecting::Closed => std::future::pending().await,
        }
    }

    fn settle(&mut self, receipt: Receipt) {
        if let Collecting::Subscribed(subscribed) = &self.collecting {
            subscribed.settle(receipt);
        }
    }

    fn remarks(&self) -> Vec<String> {
        self.notes.lines()
    }

    async fn close(&mut self) {
        self.collecting = Collecting::Closed;
        say_goodbye(&self.channel).await;
    }
}

/// Closes session and channel. Failing is no error: the server notices in its own time.
pub(super) async fn say_goodbye(channel: &Channel) {
    let closed: Result<CloseSessionResponse, _> = channel
        .request("CloseSession", |request_header| CloseSessionRequest {
            request_header,
            delete_subscriptions: true,
        })
        .await;
    if closed.is_ok() {
        channel.close().await;
    }
}
