//! A session's place on a line.

use std::collections::BTreeMap;

use tokio::sync::oneshot;
use tokio::time::Instant;

use millrace_tags::Reason;

use super::{Answered, Job, Kind, Line, WRITE_WITHIN};
use crate::SessionError;
use crate::modbus::exchange::Exchange;
use crate::modbus::link::Peer;
use crate::modbus::reply::{Answer, Reply};
use crate::modbus::request::Request;

/// The session is broken after so many requests without an answer in a row. One alone may be noise: it
/// spoils its own tags.
const SILENT_MAX: u32 = 2;

/// A place on a line, for one unit.
pub(crate) struct Seat {
    line: Line,
    id: u64,
    peer: Peer,
    writing: bool,
    silent: u32,
    /// The data of the last answer.
    data: Vec<u8>,
}

impl Seat {
    pub(super) fn new(line: Line, id: u64, peer: Peer) -> Self {
        Self {
            line,
            id,
            peer,
            writing: false,
            silent: 0,
            data: Vec::new(),
        }
    }

    async fn ask(&self, request: &Request) -> Result<Answered, SessionError> {
        let (done, answered) = oneshot::channel();
        let job = Job {
            peer: self.peer.clone(),
            request: request.clone(),
            writing: self.writing,
            until: self.writing.then(|| Instant::now() + WRITE_WITHIN),
            done,
        };
        self.line.submit(self.id, job);
        answered.await.unwrap_or_else(|_| Err(self.line.gone()))
    }
}

impl Exchange for Seat {
    async fn exchange(&mut self, request: &Request) -> Result<Reply<'_>, SessionError> {
        let spoilt = |reason: Reason, line: &Line| Reply {
            answer: Answer::Spoilt(reason),
            at: line.0.clock.now(),
        };
        match self.ask(request).await {
            Ok(Answered { data, kind, at }) => {
                self.silent = 0;
                self.data = data;
                let answer = match kind {
                    Kind::Data => Answer::Data(&self.data),
                    Kind::Written => Answer::Written,
                    Kind::Exception(code) => Answer::Exception(code),
                };
                Ok(Reply { answer, at })
            }
            Err(SessionError::Protocol { .. }) => {
                self.silent = 0;
                Ok(spoilt(Reason::InvalidReply, &self.line))
            }
            Err(error @ SessionError::Timeout { .. }) => {
                self.silent += 1;
                if self.silent < SILENT_MAX && !self.writing {
                    return Ok(spoilt(Reason::Timeout, &self.line));
                }
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    fn hurry(&mut self, writing: bool) {
        self.writing = writing;
    }

    fn faults(&self) -> BTreeMap<String, u64> {
        self.line.faults().of_unit(self.peer.unit)
    }

    async fn close(&mut self) {
        // The line goes on; the seat is given up with the session.
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.line.leave(self.id);
    }
}
