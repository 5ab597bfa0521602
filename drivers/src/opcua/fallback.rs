//! Polling in place of a subscription that the server refuses: every node at its own interval.

use std::sync::Arc;
use std::time::Duration;

use millrace_tags::{Clock, Reading};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::channel::Channel;
use super::events::Alarms;
use super::intake::Intake;
use super::login::Login;
use super::notes::Notes;
use super::poll::Polled;
use super::resume::Left;
use super::subscribed::Ended;
use crate::SessionError;

/// Reads in turns, and hands over what it reads as if the server had sent it.
pub(super) struct Fallback {
    pub(super) login: Login,
    /// For the next session, which may watch them again.
    pub(super) alarms: Option<Alarms>,
    pub(super) polled: Polled,
    /// Of each group.
    pub(super) intervals: Vec<Duration>,
    pub(super) channel: Arc<Channel>,
    pub(super) notes: Notes,
    pub(super) clock: Arc<dyn Clock>,
}

impl Fallback {
    /// Reads until the session breaks; the last thing sent says why.
    pub(super) async fn run(mut self, readings: mpsc::Sender<Result<Reading, Ended>>) {
        let error = self.read(&readings).await;
        self.channel.cut();
        let left = Left {
            session: None,
            orphan: Some(self.login),
            intake: Intake::default(),
            alarms: self.alarms,
        };
        // Nobody listens any more, where this fails.
        let _ = readings.send(Err(Ended { error, left })).await;
    }

    async fn read(&mut self, readings: &mpsc::Sender<Result<Reading, Ended>>) -> SessionError {
        let mut due = vec![Instant::now(); self.intervals.len()];
        loop {
            let next = due.iter().enumerate().min_by_key(|(_, at)| **at);
            let Some((group, &at)) = next else {
                // A device without tags.
                return std::future::pending().await;
            };
            tokio::time::sleep_until(at).await;
            // What was missed is not caught up with.
            due[group] = (at + self.intervals[group]).max(Instant::now());
            let (channel, notes) = (&self.channel, &self.notes);
            let read = self.polled.read(group, channel, notes, &*self.clock).await;
            let taken = match read {
                Ok(reading) => readings.send(Ok(reading)).await,
                Err(error) => return error,
            };
            if taken.is_err() {
                return channel.asked("Read").unfit("nobody who listens");
            }
        }
    }
}
