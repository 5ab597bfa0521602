//! A feed around another one, which holds every acknowledgement against what the broker really took.
//!
//! The tests of `agent` compile this file, too.

#![allow(dead_code, reason = "neither crate uses all of it")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millrace_uplink::{
    ConnectionReport, Consignment, Feed, Inbound, Listening, Message, Parting, Reason, Refusal,
    SessionState, Window,
};
use tokio::sync::Notify;

use super::fault_broker::Custody;

/// What the wrapper has seen.
#[derive(Clone, Default)]
pub(crate) struct Account(Arc<Counts>);

#[derive(Default)]
struct Counts {
    offered: AtomicU64,
    acked: AtomicU64,
    false_acks: AtomicU64,
}

impl Account {
    /// Messages that the session took, copies too.
    pub(crate) fn offered(&self) -> u64 {
        self.0.offered.load(Ordering::SeqCst)
    }

    /// Messages of consignments that the session called acknowledged.
    pub(crate) fn acked(&self) -> u64 {
        self.0.acked.load(Ordering::SeqCst)
    }

    /// Of these, such that the broker never took.
    pub(crate) fn false_acks(&self) -> u64 {
        self.0.false_acks.load(Ordering::SeqCst)
    }
}

/// The wrapper.
pub(crate) struct Checked<F> {
    inner: F,
    custody: Custody,
    account: Account,
    under_way: HashMap<u64, Vec<Message>>,
}

impl<F: Feed> Checked<F> {
    pub(crate) fn new(inner: F, custody: Custody) -> Self {
        Self {
            inner,
            custody,
            account: Account::default(),
            under_way: HashMap::new(),
        }
    }

    pub(crate) fn account(&self) -> Account {
        self.account.clone()
    }
}

impl<F: Feed> Feed for Checked<F> {
    fn greeting(&mut self) -> Vec<Message> {
        self.under_way.clear();
        self.inner.greeting()
    }

    fn next(&mut self, window: Window) -> Option<Consignment> {
        let consignment = self.inner.next(window)?;
        let messages = consignment.messages.clone();
        let count = messages.len() as u64;
        self.account.0.offered.fetch_add(count, Ordering::SeqCst);
        self.under_way.insert(consignment.token, messages);
        Some(consignment)
    }

    fn acked(&mut self, token: u64) {
        let messages = self.under_way.remove(&token).unwrap_or_default();
        let taken = messages
            .iter()
            .filter(|message| self.custody.holds(&message.topic, &message.payload))
            .count();
        let (count, taken) = (messages.len() as u64, taken as u64);
        self.account.0.acked.fetch_add(count, Ordering::SeqCst);
        let missing = count - taken;
        self.account
            .0
            .false_acks
            .fetch_add(missing, Ordering::SeqCst);
        self.inner.acked(token);
    }

    fn refused(&mut self, token: u64, why: Refusal) {
        self.under_way.remove(&token);
        self.inner.refused(token, why);
    }

    fn postponed(&mut self, token: u64) {
        self.under_way.remove(&token);
        self.inner.postponed(token);
    }

    fn connected(&mut self, report: &ConnectionReport) {
        self.inner.connected(report);
    }

    fn subscribed(&mut self, refused: &[(String, Reason)]) {
        self.inner.subscribed(refused);
    }

    fn received(&mut self, message: Inbound) {
        self.inner.received(message);
    }

    fn listening(&mut self) -> Option<Listening> {
        self.inner.listening()
    }

    fn listens(&mut self, filter: &str, granted: bool) {
        self.inner.listens(filter, granted);
    }

    fn state(&mut self, state: &SessionState) {
        self.inner.state(state);
    }

    fn connecting(&mut self) -> impl Future<Output = Option<Parting>> + Send {
        self.inner.connecting()
    }

    fn hangs_up(&self) -> bool {
        self.inner.hangs_up()
    }

    fn pause(&self) -> Option<Duration> {
        self.inner.pause()
    }

    fn searches(&self) -> bool {
        self.inner.searches()
    }

    fn ready(&self) -> Arc<Notify> {
        self.inner.ready()
    }
}
