//! A live session, subscribed or polled.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use millrace_tags::{Clock, Reading, Receipt, TagId, Value};
use opcua::types::{CloseSessionRequest, CloseSessionResponse, NodeId};
use tokio::sync::watch;

use super::NodeAddress;
use super::channel::Channel;
use super::driver::lock;
use super::locate::locate;
use super::login::Login;
use super::notes::Notes;
use super::poll::Polled;
use super::resume::Left;
use super::server::Server;
use super::settings::Item;
use super::subscribed::Subscribed;
use super::types::Types;
use super::write::{Given, Writing};
use crate::{Exclusion, Session, SessionError, WriteError, WriteReport};

pub(super) struct OpcuaSession {
    channel: Arc<Channel>,
    collecting: Collecting,
    notes: Notes,
    clock: Arc<dyn Clock>,
    items: Arc<[Item]>,
    types: Types,
    behind: Option<Behind>,
    kept: Kept,
}

/// The session that an agent after this one may find at the server, for it to close; of a session beside the device's
/// first, nothing.
#[derive(Clone, Default)]
pub(super) struct Kept(pub(super) Option<Arc<watch::Sender<Option<String>>>>);

impl Kept {
    /// The session is at the server, and this is the way into it.
    pub(super) fn note(&self, login: &Login) {
        if let Some(kept) = &self.0 {
            kept.send_replace(Some(login.to_text()));
        }
    }

    /// The server has none of ours.
    pub(super) fn forget(&self) {
        if let Some(kept) = &self.0 {
            kept.send_replace(None);
        }
    }
}

/// What a polled session leaves behind when its connection is lost.
pub(super) struct Behind {
    login: Login,
    left: Arc<Mutex<Left>>,
}

impl Behind {
    pub(super) fn new(login: Login, left: Arc<Mutex<Left>>) -> Self {
        Self { login, left }
    }
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
        items: Arc<[Item]>,
        kept: Kept,
    ) -> Self {
        Self {
            channel,
            collecting: Collecting::Subscribed(subscribed),
            notes,
            clock,
            items,
            types: Types::default(),
            behind: None,
            kept,
        }
    }

    pub(super) fn polled(
        channel: Arc<Channel>,
        polled: Polled,
        notes: Notes,
        clock: Arc<dyn Clock>,
        items: Arc<[Item]>,
        behind: Behind,
        kept: Kept,
    ) -> Self {
        Self {
            channel,
            collecting: Collecting::Polled(polled),
            notes,
            clock,
            items,
            types: Types::default(),
            behind: Some(behind),
            kept,
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

    async fn write(&mut self, tag: TagId, value: &Value) -> Result<WriteReport, WriteError> {
        let item = self.items.iter().find(|item| item.tag == tag);
        let address = &item.ok_or(WriteError::UnknownTag)?.node;
        let node = resolved(&self.channel, address).await?;
        let node = node.ok_or_else(|| WriteError::Refused {
            address: address.to_string(),
            message: "the server does not have its namespace".to_owned(),
        })?;
        let writing = Writing {
            channel: &self.channel,
            types: &self.types,
            node: &node,
            address: address.to_string(),
        };
        writing.write(Given::Value(value)).await
    }

    fn settle(&mut self, receipt: Receipt) {
        if let Collecting::Subscribed(subscribed) = &self.collecting {
            subscribed.settle(receipt);
        }
    }

    fn remarks(&self) -> Vec<String> {
        self.notes.lines()
    }

    fn excluded(&self) -> Vec<Exclusion> {
        self.notes.excluded()
    }

    async fn close(&mut self) {
        self.collecting = Collecting::Closed;
        if say_goodbye(&self.channel).await {
            self.kept.forget();
        } else if let Some(behind) = self.behind.take() {
            lock(&behind.left).orphan = Some(behind.login);
        }
    }
}

/// The node of an address, by the server's namespaces of this moment; `None` where it lacks the address's.
pub(super) async fn resolved(
    channel: &Channel,
    address: &NodeAddress,
) -> Result<Option<NodeId>, SessionError> {
    let namespaces = match address.needs_namespaces() {
        true => Server::ask(channel, true).await?.namespaces,
        false => Vec::new(),
    };
    let nodes = locate(channel, &namespaces, &[address]).await?;
    Ok(nodes.into_iter().next().flatten())
}

/// Closes session and channel, and says whether the server has heard it. Where not, it notices in its own time.
pub(super) async fn say_goodbye(channel: &Channel) -> bool {
    let closed = close_session(channel).await;
    if closed {
        channel.close().await;
    }
    closed
}

/// Closes the session, if the server hears it.
pub(super) async fn close_session(channel: &Channel) -> bool {
    let closed: Result<CloseSessionResponse, _> = channel
        .request("CloseSession", |request_header| CloseSessionRequest {
            request_header,
            delete_subscriptions: true,
        })
        .await;
    closed.is_ok()
}
