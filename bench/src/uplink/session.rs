//! The session with a feed that always has the next message.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use millrace_tags::Lane;
use millrace_uplink::{
    Consignment, Feed, Inbound, Message, Refusal, SessionSettings, SessionState, Window, run,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{INFLIGHT, Load};

struct Endless {
    message: Message,
    next: u64,
    acked: u64,
    all: u64,
    done: CancellationToken,
    ready: Arc<Notify>,
}

impl Feed for Endless {
    fn greeting(&mut self) -> Vec<Message> {
        self.next = self.acked;
        Vec::new()
    }

    fn next(&mut self, _: Window) -> Option<Consignment> {
        if self.next == self.all {
            return None;
        }
        self.next += 1;
        Some(Consignment {
            token: self.next,
            lane: Lane::Live,
            messages: vec![self.message.clone()],
        })
    }

    fn acked(&mut self, _: u64) {
        self.acked += 1;
        if self.acked == self.all {
            self.done.cancel();
        }
    }

    fn refused(&mut self, _: u64, why: Refusal) {
        unreachable!("{why}");
    }

    fn postponed(&mut self, token: u64) {
        unreachable!("mosquitto postpones nothing, also not {token}");
    }

    fn received(&mut self, _: Inbound) {}

    fn state(&mut self, _: &SessionState) {}

    fn ready(&self) -> Arc<Notify> {
        Arc::clone(&self.ready)
    }
}

/// Publishes the messages of a load; with the directory of certificates over TLS.
pub(super) fn publish(url: &str, files: Option<&Path>, load: Load) -> Result<()> {
    let mut settings = SessionSettings::new(url.parse().context("a URL")?, "session");
    settings.max_inflight = INFLIGHT;
    if let Some(files) = files {
        settings.tls.ca_file = Some(files.join("ca.pem"));
        settings.tls.cert_file = Some(files.join("client.pem"));
        settings.tls.key_file = Some(files.join("client.key"));
    }
    let done = CancellationToken::new();
    let feed = Endless {
        message: Message::new("bench/session", vec![b'x'; load.bytes]),
        next: 0,
        acked: 0,
        all: load.messages,
        done: done.clone(),
        ready: Arc::default(),
    };
    // As many threads as the agent has; the session is one task.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async { tokio::spawn(run(settings, feed, done)).await })?;
    Ok(())
}
