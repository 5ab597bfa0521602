//! Listening in: what goes over a link, for whoever wants to see it.
//!
//! A tap that nobody listens to costs one load of an atomic a frame. Each listener has a queue with an end: where it
//! is full, what comes is dropped and counted. Polling never waits for a listener.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millrace_tags::{Clock, Moment};
use tokio::sync::mpsc;

/// Pieces that wait for a listener: some seconds of a fast line, 300 kB at most.
const PIECES_WAITING_MAX: usize = 1024;

/// Listeners of one tap.
const LISTENERS_MAX: usize = 8;

/// Which way bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// From us to the device: one whole frame.
    Sent,
    /// From the device to us, as the system handed them over.
    Received,
    /// Neither: the connection broke, or the device closed it.
    Lost,
}

/// What went over a link at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// When it was sent, or had arrived.
    pub at: Moment,
    /// Which connection; a new one has a higher number.
    pub link: u64,
    /// Which way.
    pub way: Way,
    /// The bytes.
    pub bytes: Box<[u8]>,
    /// So many pieces before this one were dropped, since the listener was too slow.
    pub missed: u64,
}

/// A place to listen at: a device's connection, or a line. Clones are the same tap.
#[derive(Clone)]
pub struct Tap(Arc<Shared>);

struct Shared {
    clock: Arc<dyn Clock>,
    is_heard: AtomicBool,
    links: AtomicU64,
    listeners: Mutex<Vec<Listener>>,
}

struct Listener {
    pieces: mpsc::Sender<Piece>,
    /// Dropped since the last piece that went through.
    missed: u64,
    missed_total: Arc<AtomicU64>,
}

/// Somebody who listens; stops with its drop.
pub struct Ear {
    pieces: mpsc::Receiver<Piece>,
    missed_total: Arc<AtomicU64>,
}

/// The tap of one connection.
pub(crate) struct TappedLink {
    tap: Tap,
    number: u64,
}

impl Tap {
    /// A tap that nobody listens to yet; pieces are stamped by this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Shared {
            clock,
            is_heard: AtomicBool::new(false),
            links: AtomicU64::new(0),
            listeners: Mutex::default(),
        }))
    }

    /// From now on hears every piece. `None` where too many listen already.
    pub fn listen(&self) -> Option<Ear> {
        let mut listeners = self.listeners();
        listeners.retain(|listener| !listener.pieces.is_closed());
        if listeners.len() >= LISTENERS_MAX {
            return None;
        }
        let (sender, pieces) = mpsc::channel(PIECES_WAITING_MAX);
        let missed_total = Arc::new(AtomicU64::new(0));
        listeners.push(Listener {
            pieces: sender,
            missed: 0,
            missed_total: Arc::clone(&missed_total),
        });
        self.0.is_heard.store(true, Ordering::Relaxed);
        Some(Ear {
            pieces,
            missed_total,
        })
    }

    /// The tap of a connection that was just made.
    pub(crate) fn link(&self) -> TappedLink {
        TappedLink {
            tap: self.clone(),
            number: self.0.links.fetch_add(1, Ordering::Relaxed),
        }
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Listener>> {
        // Whole between any two statements that could panic.
        self.0
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, link: u64, way: Way, bytes: &[u8]) {
        let mut listeners = self.listeners();
        let at = self.0.clock.now();
        listeners.retain_mut(|listener| listener.take(at, link, way, bytes));
        if listeners.is_empty() {
            self.0.is_heard.store(false, Ordering::Relaxed);
        }
    }
}

impl TappedLink {
    pub(crate) fn tell(&self, way: Way, bytes: &[u8]) {
        if self.tap.0.is_heard.load(Ordering::Relaxed) {
            self.tap.tell(self.number, way, bytes);
        }
    }
}

impl Listener {
    /// False once it is gone.
    fn take(&mut self, at: Moment, link: u64, way: Way, bytes: &[u8]) -> bool {
        let slot = match self.pieces.try_reserve() {
            Ok(slot) => slot,
            Err(mpsc::error::TrySendError::Full(())) => {
                self.missed += 1;
                self.missed_total.fetch_add(1, Ordering::Relaxed);
                return true;
            }
            Err(mpsc::error::TrySendError::Closed(())) => return false,
        };
        slot.send(Piece {
            at,
            link,
            way,
            bytes: bytes.into(),
            missed: std::mem::take(&mut self.missed),
        });
        true
    }
}

impl Ear {
    /// Waits for pieces, and takes up to `most` of them. None at all: the tap is gone.
    ///
    /// # Cancel safety
    /// What was not taken is taken by the next call.
    pub async fn hear(&mut self, most: usize) -> Vec<Piece> {
        let mut pieces = Vec::new();
        self.pieces.recv_many(&mut pieces, most).await;
        pieces
    }

    /// How many pieces were dropped so far.
    pub fn missed(&self) -> u64 {
        self.missed_total.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_tags::SystemClock;

    fn tap() -> Tap {
        Tap::new(Arc::new(SystemClock::new()))
    }

    #[tokio::test]
    async fn every_listener_hears_what_comes_after_it() {
        let tap = tap();
        let link = tap.link();
        link.tell(Way::Sent, &[1]);
        let mut first = tap.listen().unwrap();
        link.tell(Way::Sent, &[2]);
        let mut second = tap.listen().unwrap();
        tap.link().tell(Way::Received, &[3]);
        let heard = first.hear(9).await;
        let bytes: Vec<u8> = heard.iter().map(|piece| piece.bytes[0]).collect();
        assert_eq!(bytes, [2, 3]);
        assert_eq!((heard[0].link, heard[1].link), (0, 1));
        assert_eq!(second.hear(9).await.len(), 1);
        drop((first, second));
        link.tell(Way::Lost, &[]);
        assert!(!tap.0.is_heard.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_slow_listener_misses_and_is_told_where() {
        let tap = tap();
        let link = tap.link();
        let mut ear = tap.listen().unwrap();
        for _ in 0..PIECES_WAITING_MAX + 5 {
            link.tell(Way::Sent, &[1]);
        }
        assert_eq!(ear.missed(), 5);
        assert_eq!(ear.hear(usize::MAX).await.len(), PIECES_WAITING_MAX);
        link.tell(Way::Sent, &[2]);
        link.tell(Way::Sent, &[3]);
        let heard = ear.hear(2).await;
        assert_eq!((heard[0].missed, heard[1].missed), (5, 0));
        drop((tap, link));
        assert!(ear.hear(1).await.is_empty(), "the tap is gone");
    }

    #[test]
    fn listeners_are_few() {
        let tap = tap();
        let mut ears: Vec<Ear> = (0..LISTENERS_MAX).map(|_| tap.listen().unwrap()).collect();
        assert!(tap.listen().is_none());
        ears.pop();
        assert!(tap.listen().is_some());
    }
}
