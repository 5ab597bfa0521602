//! The way to one unit: a connection of its own, or a seat on a shared line.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use millrace_tags::Clock;

use super::link::{Link, Peer, Transport};
use super::reply::Reply;
use super::request::Request;
use crate::SessionError;

/// Sends requests to one unit and brings its answers.
pub(crate) trait Exchange: Send {
    /// One request.
    fn exchange(
        &mut self,
        request: &Request,
    ) -> impl Future<Output = Result<Reply<'_>, SessionError>> + Send;

    /// Each request in turn, or several at once where the way allows it; `take` gets each answer with
    /// the number of its request.
    fn exchange_all(
        &mut self,
        requests: &[&Request],
        take: &mut (dyn FnMut(usize, Reply<'_>) + Send),
    ) -> impl Future<Output = Result<(), SessionError>> + Send {
        async move {
            for (index, request) in requests.iter().enumerate() {
                take(index, self.exchange(request).await?);
            }
            Ok(())
        }
    }

    /// From now on, whether the requests belong to a write, which goes ahead of reads.
    fn hurry(&mut self, _writing: bool) {}

    /// What went wrong with the unit, by name.
    fn faults(&self) -> BTreeMap<String, u64>;

    /// What an operator should know of the way: one line each.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }

    /// Says goodbye.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

/// A connection that is one unit's alone.
pub(crate) struct Wire {
    pub(crate) link: Link<Box<dyn Transport>>,
    pub(crate) peer: Peer,
    /// Requests in flight.
    pub(crate) depth: usize,
    pub(crate) clock: Arc<dyn Clock>,
    /// What was found out when it was opened.
    pub(crate) remarks: Vec<String>,
}

impl Exchange for Wire {
    async fn exchange(&mut self, request: &Request) -> Result<Reply<'_>, SessionError> {
        self.link.exchange(&self.peer, request, &*self.clock).await
    }

    async fn exchange_all(
        &mut self,
        requests: &[&Request],
        take: &mut (dyn FnMut(usize, Reply<'_>) + Send),
    ) -> Result<(), SessionError> {
        self.link
            .exchange_all(&self.peer, requests, self.depth, &*self.clock, take)
            .await
    }

    fn faults(&self) -> BTreeMap<String, u64> {
        self.link.faults().of_unit(self.peer.unit)
    }

    fn remarks(&self) -> Vec<String> {
        self.remarks.clone()
    }

    async fn close(&mut self) {
        self.link.shutdown().await;
    }
}
