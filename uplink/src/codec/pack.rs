//! Fills messages with items, as many as fit.

use super::rows::Row;
use super::{EncodeError, Piece, Room, payload_limit};

/// Makes a payload of the items' bytes and the number of records in them.
pub(crate) type Wrap<'a> = &'a dyn Fn(&[u8], usize) -> Vec<u8>;

/// Writes rows as one item and says how many records it has.
pub(crate) type Write<'a> = &'a dyn Fn(&[Row<'_>], &mut Vec<u8>) -> usize;

/// A message in the making.
pub(crate) struct Packer<'a> {
    source: &'a str,
    topic: String,
    /// For the items alone.
    room: usize,
    most: usize,
    separator: &'a [u8],
    wrap: Wrap<'a>,
    items: Vec<u8>,
    records: usize,
    range: Option<(u64, u64)>,
    pieces: Vec<Piece>,
}

impl<'a> Packer<'a> {
    /// `overhead`: what `wrap` adds to the items at most.
    pub(crate) fn new(
        source: &'a str,
        topic: String,
        room: Room,
        overhead: usize,
        separator: &'a [u8],
        wrap: Wrap<'a>,
    ) -> Self {
        let limit = payload_limit(&topic, room.wanted).saturating_sub(overhead);
        Self {
            source,
            topic,
            room: limit,
            most: room.most,
            separator,
            wrap,
            items: Vec::new(),
            records: 0,
            range: None,
            pieces: Vec::new(),
        }
    }

    /// Adds rows that belong into one item; into several where they do not fit into a message.
    pub(crate) fn push(&mut self, rows: &[Row<'_>], write: Write<'_>) -> Result<(), EncodeError> {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            return Ok(());
        };
        let (first, last) = (first.seq, last.seq);
        let mut item = Vec::new();
        let records = write(rows, &mut item);
        if records == 0 {
            // Nothing to tell; the message beside it answers for the numbers.
            self.range = Some((self.range.map_or(first, |range| range.0), last));
            return Ok(());
        }
        if item.len() > self.room {
            if rows.len() > 1 {
                let (left, right) = rows.split_at(rows.len() / 2);
                self.push(left, write)?;
                return self.push(right, write);
            }
            self.flush();
            return self.alone(first, &item, records);
        }
        if self.records > 0 && self.items.len() + self.separator.len() + item.len() > self.room {
            self.flush();
        }
        if self.records > 0 {
            self.items.extend_from_slice(self.separator);
        }
        self.items.extend_from_slice(&item);
        self.records += records;
        self.range = Some((self.range.map_or(first, |range| range.0), last));
        Ok(())
    }

    /// A record that is larger than messages should be.
    fn alone(&mut self, seq: u64, item: &[u8], records: usize) -> Result<(), EncodeError> {
        let piece = Piece {
            topic: self.topic.clone(),
            payload: (self.wrap)(item, records),
            range: (seq, seq),
        };
        if piece.wire_bytes() > self.most {
            return Err(EncodeError::TooLarge {
                source_name: self.source.to_owned(),
                seq,
                bytes: piece.wire_bytes(),
                limit: self.most,
            });
        }
        self.pieces.push(piece);
        Ok(())
    }

    fn flush(&mut self) {
        let range = self.range.take();
        if self.records == 0 {
            return;
        }
        self.pieces.push(Piece {
            topic: self.topic.clone(),
            payload: (self.wrap)(&self.items, self.records),
            range: range.unwrap_or_default(),
        });
        self.items.clear();
        self.records = 0;
    }

    /// What was packed.
    pub(crate) fn finish(mut self) -> Vec<Piece> {
        self.flush();
        self.pieces
    }
}
