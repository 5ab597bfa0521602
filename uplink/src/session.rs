//! The MQTT session: one task owns the socket, connects for ever, and pulls what there is to send.
//!
//! It has no queue of its own: what was in flight when a connection ended is forgotten here and
//! offered again by the [`Feed`], because the log is the only retry queue. A consignment is acked when
//! each of its messages got its PUBACK, and not before. Packet ids go round the whole ring, so that a
//! late or repeated PUBACK does not settle another message; one that nobody waits for is counted.
//!
//! A PUBACK is custody at the broker, not delivery to anybody behind it.

mod alias;
mod clocks;
mod counters;
mod feed;
mod flight;
mod live;
mod pace;
mod recall;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::atomic::Ordering;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::{Backoff, Failure};
use crate::connect::{self, chain};
use crate::endpoint::Endpoint;

pub use counters::SessionCounters;
pub use feed::{Consignment, Feed, Listening, Parting, Refusal, SessionState, Window};
pub use live::LostError;
pub use settings::{
    INFLIGHT_BYTES_MAX, INFLIGHT_DEFAULT, INFLIGHT_MAX, KEEP_ALIVE_DEFAULT, KEEP_ALIVE_MIN,
    MESSAGE_BYTES_DEFAULT, ProtocolChoice, SessionSettings,
};

/// What an attempt to connect takes of a link: names, the handshake of TCP, CONNECT and its answer.
const CONNECT_BYTES: u64 = 800;
/// What a TLS handshake with certificates takes.
const TLS_BYTES: u64 = 6_000;

/// One connection may break at a bad moment; so many in a row, each before the first ack, have a cause.
const REBUFFS_TOLD: u32 = 3;
const REBUFF_HINT: &str = "; it is closed each time before the first message is acknowledged: \
    the broker may refuse our topic, or messages of this size (max_message)";

/// Runs the session until `shutdown`: connects, sends, connects again after any failure. On shutdown it
/// waits a little for acks, says the farewell, and disconnects.
pub async fn run(settings: SessionSettings, mut feed: impl Feed, shutdown: CancellationToken) {
    let mut backoff = Backoff::new(settings.reconnect);
    let mut journal = Journal::default();
    let mut ids = flight::PacketIds::default();
    let mut pace = pace::Pace::default();
    let mut rebuffs = 0u32;
    let mut memory = connect::Memory::default();
    let mut recall = recall::Recall::default();
    loop {
        feed.state(&SessionState::Connecting);
        settings.counters.count_traffic(CONNECT_BYTES);
        let parting = feed.connecting().await.unwrap_or_else(|| Parting {
            will: settings.will.clone(),
            farewell: settings.farewell.clone(),
        });
        let files = recall::Files::of(&settings);
        let opened = tokio::select! {
            opened = connect::open(&settings, &mut memory, parting.will.as_ref()) => opened,
            () = shutdown.cancelled() => return,
        };
        let down = match opened {
            Err(error) => {
                if !error.is_after_connect() {
                    feed.unheard();
                }
                let failure = match error.is_refusal() {
                    true => Failure::Refused,
                    false => Failure::Transient,
                };
                (chain(&error), failure, false, false)
            }
            Ok(opened) => {
                settings.counters.connects.fetch_add(1, Ordering::Relaxed);
                if opened.report.tls.is_some() {
                    settings.counters.count_traffic(TLS_BYTES);
                }
                journal.up(&opened.report);
                let started = Instant::now();
                feed.connected(&opened.report);
                let terms = &opened.report.terms;
                let token = CancellationToken::new();
                let live = live::Live::new(opened.link, terms, &settings, &mut feed, ids, pace)
                    .say_at_the_end(parting.farewell)
                    .ends_after(opened.good_for)
                    .recalled_by(token.clone());
                let (outcome, summary) = {
                    let home = memory.away_from(&settings);
                    let mut life = std::pin::pin!(live.run(&shutdown));
                    tokio::select! {
                        ended = &mut life => ended,
                        why = recall.wait(&settings, files, home) => {
                            tracing::info!(?why, "the connection is made anew");
                            memory.come_back();
                            token.cancel();
                            life.await
                        }
                    }
                };
                (ids, pace) = (summary.ids, summary.pace);
                let Err(error) = outcome else { return };
                if feed.walks_on() {
                    memory.walk_on(&settings);
                }
                if token.is_cancelled() || matches!(error, LostError::TokenEnds) {
                    // Nothing went wrong: the next connection is made at once.
                    continue;
                }
                let proven = started.elapsed() >= settings.reconnect.proven;
                // Two clients of one name throw each other out for ever: each time more slowly.
                if summary.acked && (proven || feed.searches()) && !summary.taken_over {
                    backoff.reset();
                }
                rebuffs = match summary.closed && !summary.acked {
                    true => rebuffs + 1,
                    false => 0,
                };
                let mut text = chain(&error);
                if rebuffs >= REBUFFS_TOLD {
                    text.push_str(REBUFF_HINT);
                }
                (text, Failure::Transient, summary.closed, summary.oversize)
            }
        };
        let (error, failure, closed, oversize) = down;
        let next_try = backoff.pause(failure, fastrand::f64());
        journal.down(&settings, &error);
        feed.state(&SessionState::Down {
            error,
            refused: failure == Failure::Refused,
            closed,
            oversize,
            next_try,
        });
        tokio::select! {
            () = tokio::time::sleep(next_try) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Logs changes of state once, not every attempt.
#[derive(Default)]
struct Journal {
    last_error: Option<String>,
    /// The endpoint of the connection that is up.
    at: Option<Endpoint>,
}

impl Journal {
    fn up(&mut self, report: &connect::ConnectionReport) {
        self.last_error = None;
        self.at = Some(report.endpoint.clone());
        tracing::info!(
            endpoint = %report.endpoint,
            address = %report.address,
            protocol = %report.terms.protocol,
            tls = report.tls.as_deref().unwrap_or("none"),
            "connected to the broker"
        );
    }

    fn down(&mut self, settings: &SessionSettings, error: &str) {
        let at = self.at.take();
        if self.last_error.as_deref() != Some(error) {
            let endpoint = at.as_ref().unwrap_or(&settings.endpoint);
            tracing::warn!(%endpoint, error, "no connection to the broker");
            self.last_error = Some(error.to_owned());
        }
    }
}
