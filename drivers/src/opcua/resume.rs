//! Going on after a lost connection: the old session on a new channel (Part 4, 6.7).
//!
//! The server has kept the session, its subscriptions, and the notifications that we did not acknowledge.
//! Those that never reached us are asked for by Republish, then publishing goes on. Where the server has
//! forgotten any of it, a new session is made and the values in between are lost with the old one.

use std::sync::Arc;

use super::acks::Acks;
use super::channel::Channel;
use super::events::Alarms;
use super::intake::{Batch, Intake};
use super::login::{Login, log_in_again};
use super::notes::Notes;
use super::own::OwnCertificate;
use super::publish::republish;
use super::sequence::Sequence;
use super::session::close_session;
use super::settings::Settings;
use super::subscription::Monitored;
use crate::SessionError;

/// More than any server keeps; it bounds a server that always has one more.
const CATCH_UP_MAX: usize = 10_000;

/// What a session leaves to the next one.
#[derive(Default)]
pub(super) struct Left {
    /// The session itself, where the server may still have it.
    pub(super) session: Option<Retained>,
    /// A session that nobody goes on with, to be closed before there is another one.
    pub(super) orphan: Option<Login>,
    /// What was handed over.
    pub(super) intake: Intake,
    /// Conditions that are active; `None` of a session beside the device's first, which watches none.
    pub(super) alarms: Option<Alarms>,
}

/// What is left of a session whose connection was lost.
pub(super) struct Retained {
    pub(super) login: Login,
    pub(super) monitored: Monitored,
    pub(super) acks: Acks,
    /// What had been sent and had not arrived, once it was asked for again.
    pub(super) missed: Vec<Batch>,
}

/// How taking a session up ended.
pub(super) enum Outcome {
    /// It goes on.
    Resumed(Retained),
    /// The server does not have it any more; these readings could still be had.
    Gone(Vec<Batch>),
    /// The new connection broke, too; the session may still be there.
    Broken(SessionError, Retained),
}

/// Takes the session up on the new channel.
pub(super) async fn resume(
    channel: &Arc<Channel>,
    settings: &Settings,
    own: Option<&OwnCertificate>,
    mut retained: Retained,
    notes: &Notes,
) -> Outcome {
    match log_in_again(channel, settings, own, &retained.login).await {
        Ok(login) => retained.login = login,
        Err(error) => return stopped(channel, error, retained),
    }
    retained.monitored.go_on(channel.clone(), notes.clone());
    match catch_up(&mut retained).await {
        Ok(()) => Outcome::Resumed(retained),
        Err(error) => {
            let outcome = stopped(channel, error, retained);
            if matches!(outcome, Outcome::Gone(_)) {
                // The session is there, its subscriptions are not. One session at a time: this one goes first.
                close_session(channel).await;
            }
            outcome
        }
    }
}

/// A server that refuses the user keeps the session: it goes on when somebody has seen to the password.
fn stopped(channel: &Channel, error: SessionError, retained: Retained) -> Outcome {
    if channel.is_cut() || error.is_refusal() || matches!(error, SessionError::Timeout { .. }) {
        Outcome::Broken(error, retained)
    } else {
        Outcome::Gone(retained.missed)
    }
}

async fn catch_up(retained: &mut Retained) -> Result<(), SessionError> {
    let subscriptions: Vec<u32> = retained.monitored.sequences.keys().copied().collect();
    for id in subscriptions {
        while let Some(batch) = next_missed(retained, id).await? {
            retained.missed.push(batch);
        }
    }
    Ok(())
}

/// The notification that should have come next in this subscription, if the server has it.
async fn next_missed(retained: &mut Retained, id: u32) -> Result<Option<Batch>, SessionError> {
    let Retained {
        monitored, acks, ..
    } = retained;
    let Some(number) = monitored.sequences.get(&id).map(Sequence::next) else {
        return Ok(None);
    };
    if retained.missed.len() >= CATCH_UP_MAX {
        return Ok(None);
    }
    let batch = republish(monitored, acks, id, number).await?;
    if let (Some(_), Some(sequence)) = (&batch, monitored.sequences.get_mut(&id)) {
        sequence.notified(number);
    }
    Ok(batch)
}
