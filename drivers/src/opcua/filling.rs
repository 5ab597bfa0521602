//! Asking history for what gaps need, and sorting in what it says.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use millrace_tags::{Reading, Sample};
use opcua::types::{DataValue, Error};
use tokio::time::Instant;

use super::backfill::Request;
use super::decode;
use super::history::{self, Asked, Page, Span};
use super::intake::Intake;
use super::publish::is_connection_loss;
use super::server::is_too_many;
use super::subscription::Monitored;
use crate::SessionError;

/// A server that fails a request for history is busy, or its database is.
const FAILED_PAUSE: Duration = Duration::from_secs(2);

/// The answer to one request.
pub(super) struct Filled {
    span: Span,
    places: Vec<usize>,
    answer: Result<Vec<(usize, Page)>, Error>,
}

/// Sends the request.
pub(super) fn ask(
    monitored: &Monitored,
    request: Request,
) -> Pin<Box<dyn Future<Output = Filled> + Send>> {
    let channel = monitored.channel.clone();
    let span = request.span;
    let places = request.places.iter().map(|(place, ..)| *place).collect();
    let wanted = request.places.into_iter();
    let asked = wanted.filter_map(|(place, continuation, known)| {
        let read = monitored.value_id(place)?;
        Some(Asked {
            place,
            node: read.node_id,
            range: read.index_range,
            continuation,
            known,
        })
    });
    let asked: Vec<Asked> = asked.collect();
    Box::pin(async move {
        Filled {
            span,
            places,
            answer: history::read_page(&channel, asked, span).await,
        }
    })
}

/// The answer to the request that is under way; pending where there is none.
pub(super) async fn next(
    filling: &mut Option<Pin<Box<dyn Future<Output = Filled> + Send>>>,
) -> Filled {
    match filling {
        Some(filling) => filling.await,
        None => std::future::pending().await,
    }
}

/// The time to look again for something to ask.
pub(super) async fn wake(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Filled {
    /// Hands the answer to the gaps; returns what they set free.
    pub(super) async fn sort_in(
        self,
        monitored: &mut Monitored,
        intake: &mut Intake,
    ) -> Result<Option<Reading>, SessionError> {
        let mut answers = intake.answers();
        match self.answer {
            Ok(pages) => {
                for (place, page) in pages {
                    match page {
                        Page::Values(values, continuation) => {
                            let values = samples(monitored, place, values).await?;
                            answers.values(place, values, self.span, continuation);
                        }
                        Page::NoHistory => answers.nothing(place),
                        Page::Failed => answers.not_yet(place, FAILED_PAUSE),
                    }
                }
            }
            Err(error) if is_connection_loss(error.status()) => {
                answers.again();
                return Err(monitored.channel.asked("HistoryRead").failed(&error));
            }
            Err(error) if history::is_unsupported(error.status()) => answers.none_at_all(),
            Err(error) if is_too_many(error.status()) && self.places.len() > 1 => {
                monitored.histories_max = self.places.len() / 2;
                answers.again();
            }
            Err(_) => {
                for place in self.places {
                    answers.not_yet(place, FAILED_PAUSE);
                }
            }
        }
        Ok(answers.end(&monitored.notes))
    }
}

async fn samples(
    monitored: &Monitored,
    place: usize,
    values: Vec<DataValue>,
) -> Result<Vec<Sample>, SessionError> {
    let values = values.into_iter().map(|data| (place, data)).collect();
    let now = monitored.clock.now();
    let samples = decode::samples(monitored.origin(), values, now).await?;
    Ok(samples.into_iter().map(|(_, sample)| sample).collect())
}
