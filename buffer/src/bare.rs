//! Chunks without a store, so that a bench can put the very same frames into another one.

use millrace_tags::{LogKind, Moment, Sample, SourceId, StreamId, Timebase};
use uuid::Uuid;

use crate::chunk::{Entry, Frame, Header, Packer, Records, Run, unpack};

/// Packs samples of one source as chunks.
#[derive(Default)]
pub struct Encoder {
    packer: Packer,
    number: u64,
    last: u64,
}

impl Encoder {
    /// The frame of a chunk that holds the samples, which are in the order of the line.
    pub fn frame(&mut self, samples: &[&Sample], timebase: Timebase) -> Vec<u8> {
        self.packer.begin();
        self.packer.run(Records::Samples(samples));
        let count = samples.len() as u64;
        self.number += 1;
        let header = Header {
            log: LogKind::Data,
            number: self.number,
            span: 1,
            stream: StreamId(Uuid::nil()),
            timebase,
            newest: samples.last().map_or(Moment(0), |s| s.gateway_time),
        };
        let entry = Entry {
            source: SourceId(0),
            first: self.last + 1,
            count,
            ahead: 0,
            void: None,
        };
        self.last += count;
        self.packer.finish(&header, &[entry])
    }
}

/// Hands out the samples of a chunk, at most `records` at a time; `None` where it is damaged.
pub fn decode(frame: &[u8], records: usize, mut each: impl FnMut(Vec<Sample>)) -> Option<()> {
    for run in unpack(&Frame::parse(frame).ok()?).ok()? {
        let Run::Samples(rows) = run else { continue };
        for from in (0..rows.len()).step_by(records) {
            each(rows.cut(from..rows.len().min(from + records))?);
        }
    }
    Some(())
}
