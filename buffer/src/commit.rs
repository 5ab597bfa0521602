//! What one commit adds to one log: batches become directory entries and columns.

use std::collections::HashMap;

use millrace_tags::{DropReason, Event, LogKind, Moment, Sample, StreamId};

use crate::chunk::{CHUNK_BYTES_MAX, Entry, Header, Packer, RECORDS_MAX, Records, Shared};
use crate::log::{Batch, Content, LineKey, Snapshot};
use crate::uplink::Directory;

/// A chunk, ready to be written.
pub(crate) struct Packed {
    pub(crate) directory: Directory,
    pub(crate) frame: Vec<u8>,
}

/// Consecutive numbers of one batch that go into one chunk.
#[derive(Clone, Copy)]
struct Piece<'a> {
    at: usize,
    batch: &'a Batch,
    first: u64,
    last: u64,
}

impl<'a> Piece<'a> {
    fn void(&self) -> Option<DropReason> {
        match self.batch.content {
            Content::Void(reason) => Some(reason),
            Content::Records(_) => None,
        }
    }

    fn records(&self) -> usize {
        match self.batch.content {
            Content::Void(_) => 0,
            Content::Records(_) => (self.last - self.first + 1) as usize,
        }
    }

    fn samples(&self) -> &'a [Sample] {
        match &self.batch.content {
            Content::Records(Shared::Samples(samples)) => {
                &samples[self.batch.positions(self.first, self.last)]
            }
            _ => &[],
        }
    }

    fn events(&self) -> &'a [Event] {
        match &self.batch.content {
            Content::Records(Shared::Events(events)) => {
                &events[self.batch.positions(self.first, self.last)]
            }
            _ => &[],
        }
    }

    fn newest(&self) -> Option<Moment> {
        let sample = self.samples().last().map(|s| s.gateway_time);
        sample.or_else(|| self.events().last().map(|e| e.at))
    }

    /// Whether `next` continues this piece so that both decode in one go.
    fn joins(&self, next: &Piece<'_>) -> bool {
        let in_order = match (self.samples().last(), next.samples().first()) {
            (Some(a), Some(b)) => (a.gateway_time, a.tag) <= (b.gateway_time, b.tag),
            _ => true,
        };
        self.batch.line == next.batch.line
            && self.last + 1 == next.first
            && self.void() == next.void()
            && in_order
    }
}

/// Turns the batches of a log into chunks.
pub(crate) struct Committer {
    packer: Packer,
    /// Records that are expected to fit into one chunk, learned from the last ones.
    records_max: usize,
}

impl Default for Committer {
    fn default() -> Self {
        Self {
            packer: Packer::default(),
            records_max: RECORDS_MAX,
        }
    }
}

/// One commit of one log in the making.
struct Work<'a> {
    kind: LogKind,
    streams: &'a [StreamId],
    limits: &'a HashMap<LineKey, u64>,
    now: Moment,
    next_number: u64,
    chunks: Vec<Packed>,
    /// The chunk of each batch's first number.
    chunk_of: Vec<u64>,
}

impl Committer {
    /// Packs a snapshot into chunks that are numbered from `next_number`.
    pub(crate) fn pack(
        &mut self,
        kind: LogKind,
        snapshot: &Snapshot,
        streams: &[StreamId],
        next_number: u64,
        now: Moment,
    ) -> (Vec<Packed>, Vec<u64>) {
        let mut work = Work {
            kind,
            streams,
            limits: &snapshot.limits,
            now,
            next_number,
            chunks: Vec::new(),
            chunk_of: vec![0; snapshot.batches.len()],
        };
        let mut pieces: Vec<Piece<'_>> = Vec::new();
        let mut records = 0;
        for (at, batch) in snapshot.batches.iter().enumerate() {
            let cut = pieces.last().is_some_and(|p| {
                p.batch.timebase != batch.timebase || p.batch.line.stream != batch.line.stream
            });
            if cut {
                self.chunk(&mut work, &mut pieces);
                records = 0;
            }
            let mut first = batch.first;
            while first <= batch.last {
                let mut piece = Piece {
                    at,
                    batch,
                    first,
                    last: batch.last,
                };
                if piece.records() > 0 {
                    let room = (self.records_max - records) as u64;
                    piece.last = batch.last.min(first + room - 1);
                }
                first = piece.last + 1;
                records += piece.records();
                pieces.push(piece);
                if records >= self.records_max {
                    self.chunk(&mut work, &mut pieces);
                    records = 0;
                }
            }
        }
        self.chunk(&mut work, &mut pieces);
        (work.chunks, work.chunk_of)
    }

    fn chunk(&mut self, work: &mut Work<'_>, pieces: &mut Vec<Piece<'_>>) {
        if !pieces.is_empty() {
            self.chunk_of_pieces(work, pieces);
            pieces.clear();
        }
    }

    /// Packs the pieces as one chunk, or as two halves where they do not fit.
    fn chunk_of_pieces(&mut self, work: &mut Work<'_>, pieces: &[Piece<'_>]) {
        let number = work.next_number;
        let mut sorted = pieces.to_vec();
        sorted.sort_by_key(|p| (p.batch.line, p.first));
        let entries = self.fill(work, &sorted);
        let header = Header {
            log: work.kind,
            number,
            span: 1,
            stream: work.streams[pieces[0].batch.line.stream as usize],
            timebase: pieces[0].batch.timebase,
            newest: pieces
                .iter()
                .filter_map(Piece::newest)
                .max()
                .unwrap_or(work.now),
        };
        let frame = self.packer.finish(&header, &entries);
        let records: usize = pieces.iter().map(Piece::records).sum();
        if frame.len() > CHUNK_BYTES_MAX {
            let halves = split(pieces);
            if halves.iter().all(|half| !half.is_empty()) {
                self.records_max = (records / 2).max(1);
                for half in &halves {
                    self.chunk_of_pieces(work, half);
                }
                return;
            }
        } else if frame.len() < CHUNK_BYTES_MAX / 2 && records >= self.records_max {
            self.records_max = (self.records_max * 2).min(RECORDS_MAX);
        }
        work.next_number += 1;
        for piece in pieces {
            if work.chunk_of[piece.at] == 0 {
                work.chunk_of[piece.at] = number;
            }
        }
        let stream = pieces[0].batch.line.stream;
        let line = |entry: &Entry| LineKey {
            stream,
            source: entry.source,
        };
        let directory = Directory {
            number,
            last: number,
            entries: entries
                .iter()
                .map(|e| (line(e), e.first, e.last(), e.void))
                .collect(),
        };
        work.chunks.push(Packed { directory, frame });
    }

    /// Gives the packer one run for each stretch of pieces that join, and returns the directory.
    fn fill(&mut self, work: &Work<'_>, pieces: &[Piece<'_>]) -> Vec<Entry> {
        self.packer.begin();
        let mut entries = Vec::new();
        let mut samples: Vec<&Sample> = Vec::new();
        let mut events: Vec<&Event> = Vec::new();
        for stretch in pieces.chunk_by(|a, b| a.joins(b)) {
            let (head, tail) = (&stretch[0], &stretch[stretch.len() - 1]);
            let line = head.batch.line;
            // What may have been published once this commit is durable, seen from this entry.
            let limit = work.limits.get(&line).copied().unwrap_or(tail.last);
            entries.push(Entry {
                source: line.source,
                first: head.first,
                count: tail.last - head.first + 1,
                ahead: limit.saturating_sub(tail.last),
                void: head.void(),
            });
            if head.void().is_some() {
                continue;
            }
            match work.kind {
                LogKind::Data => {
                    samples.clear();
                    samples.extend(stretch.iter().flat_map(Piece::samples));
                    self.packer.run(Records::Samples(&samples));
                }
                LogKind::Alarm => {
                    events.clear();
                    events.extend(stretch.iter().flat_map(Piece::events));
                    self.packer.run(Records::Events(&events));
                }
            }
        }
        entries
    }
}

/// Two halves of about the same number of records (or, where there are none, of pieces).
fn split<'a>(pieces: &[Piece<'a>]) -> [Vec<Piece<'a>>; 2] {
    let total: usize = pieces.iter().map(|p| p.records().max(1)).sum();
    let mut halves = [Vec::new(), Vec::new()];
    let mut sum = 0;
    for piece in pieces {
        let records = piece.records().max(1);
        let room = (total / 2).saturating_sub(sum);
        sum += records;
        if records <= room {
            halves[0].push(*piece);
        } else if room == 0 || piece.records() <= 1 {
            halves[1].push(*piece);
        } else {
            let middle = piece.first + room as u64;
            halves[0].push(Piece {
                last: middle - 1,
                ..*piece
            });
            halves[1].push(Piece {
                first: middle,
                ..*piece
            });
        }
    }
    halves
}
