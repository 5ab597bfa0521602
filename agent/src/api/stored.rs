//! What is stored, streamed: `buffer peek` and `buffer export` of a running agent.

use std::io;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use millrace_buffer::Archive;
use tokio::sync::mpsc;

use super::routes::{Door, Refusal};
use crate::cli::OUTCOME;
use crate::stored::{self, ChunksRequest, Outcome};

/// Bytes that are sent in one go.
const PIECE_BYTES: usize = 64 * 1024;

/// Pieces that wait for a slow reader.
const PIECES_WAITING: usize = 4;

/// `GET /v1/buffer/records`.
pub(super) async fn records(
    State(door): State<Door>,
    Query(request): Query<stored::Request>,
) -> Result<Response, Refusal> {
    let archive = open(&door)?;
    Ok(stream(move |out| {
        stored::write(&archive, &request, out, |_, _| {})
    }))
}

/// `GET /v1/buffer/chunks`.
pub(super) async fn chunks(
    State(door): State<Door>,
    Query(request): Query<ChunksRequest>,
) -> Result<Response, Refusal> {
    let archive = open(&door)?;
    Ok(stream(move |out| {
        stored::write_chunks(&archive, &request, out)
    }))
}

fn open(door: &Door) -> Result<Archive, Refusal> {
    let dir = door.get().config.buffer_dir();
    Archive::open(&dir).map_err(|error| {
        let error = crate::device::chain(&error);
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, error)
    })
}

/// Streams what `write` writes, on a thread of its own; the last thing is the outcome, as a trailer.
/// Without it the answer is not complete.
fn stream(write: impl FnOnce(&mut Pieces) -> io::Result<Outcome> + Send + 'static) -> Response {
    let (pieces, waiting) = mpsc::channel(PIECES_WAITING);
    tokio::task::spawn_blocking(move || {
        let mut out = Pieces {
            pieces,
            bytes: Vec::new(),
        };
        // The only error is that nobody reads any more.
        if let Ok(outcome) = write(&mut out).and_then(|outcome| out.hand_over().map(|()| outcome)) {
            let outcome = serde_json::to_string(&outcome).unwrap_or_default();
            let mut trailers = HeaderMap::new();
            if let Ok(outcome) = HeaderValue::from_str(&outcome) {
                trailers.insert(OUTCOME, outcome);
            }
            let _ = out.pieces.blocking_send(Frame::trailers(trailers));
        }
    });
    let frames = stream::unfold(waiting, async |mut waiting| {
        let frame = waiting.recv().await?;
        Some((Ok::<_, io::Error>(frame), waiting))
    });
    let body = Body::new(StreamBody::new(frames));
    ([("trailer", OUTCOME)], body).into_response()
}

/// Writes into a bounded channel, so that a slow reader slows the reading of the store.
struct Pieces {
    pieces: mpsc::Sender<Frame<Bytes>>,
    bytes: Vec<u8>,
}

impl Pieces {
    fn hand_over(&mut self) -> io::Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let piece = Frame::data(Bytes::from(std::mem::take(&mut self.bytes)));
        let sent = self.pieces.blocking_send(piece);
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= PIECE_BYTES {
            self.hand_over()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hand_over()
    }
}
