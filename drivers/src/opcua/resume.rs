//! Going on after a lost connection: the old session on a new channel (Part 4, 6.7).
//!
//! The server has kept the session, its subscriptions, and the notifications that we did not acknowledge.
//! Those that never reached us are asked for by Republish, then publishing goes on. Where the server has
//! forgotten any of it, a new session is made and the values in between are lost with the old one.

use std::sync::Arc;

use millrace_tags::Reading;
use opcua::types::{CloseSessionRequest, CloseSessionResponse};

use super::acks::Acks;
use super::channel::Channel;
use super::login::{Login, log_in_again};
use super::notes::Notes;
use super::publish::republish;
use super::settings::Settings;
use super::subscription::Monitored;
use super::trust::OwnCertificate;
use crate::SessionError;

/// More than any server keeps; it bounds a server that always has one more.
const CATCH_UP_MAX: usize = 10_000;

/// What is left of a session whose connection was lost.
pub(super) struct Retained {
    pub(super) login: Login,
    pub(super) monitored: Monitored,
    pub(super) acks: Acks,
}

/// A session that goes on.
pub(super) struct Resumed {
    pub(super) retained: Retained,
    /// What had been sent and had not arrived.
    pub(super) missed: Vec<Reading>,
}

/// Takes the session up on the new channel; `None` where the server does not have it any more.
pub(super) async fn resume(
    channel: &Arc<Channel>,
    settings: &Settings,
    own: Option<&OwnCertificate>,
    mut retained: Retained,
    notes: &Notes,
) -> Option<Resumed> {
    retained.login = log_in_again(channel, settings, own, retained.login)
        .await
        .ok()?;
    retained.monitored.go_on(channel.clone(), notes.clone());
    match catch_up(&mut retained).await {
        Ok(missed) => Some(Resumed { retained, missed }),
        Err(_) => {
            // The session is there, its subscriptions are not. One session at a time: this one goes first.
            let _: Result<CloseSessionResponse, _> = channel
                .request("CloseSession", |request_header| CloseSessionRequest {
                    request_header,
                    delete_subscriptions: true,
                })
                .await;
            None
        }
    }
}

async fn catch_up(retained: &mut Retained) -> Result<Vec<Reading>, SessionError> {
    let mut missed = Vec::new();
    let subscriptions: Vec<u32> = retained.monitored.sequences.keys().copied().collect();
    for id in subscriptions {
        while missed.len() < CATCH_UP_MAX {
            let Some(sequence) = retained.monitored.sequences.get(&id) else {
                break;
            };
            let number = sequence.next();
            let Some(reading) = republish(&retained.monitored, &retained.acks, id, number).await?
            else {
                break;
            };
            missed.push(reading);
            if let Some(sequence) = retained.monitored.sequences.get_mut(&id) {
                sequence.notified(number);
            }
        }
    }
    Ok(missed)
}
