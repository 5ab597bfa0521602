use millrace_drivers::modbus::frame::rtu::crc;
use millrace_drivers::modbus::tape::{Recorder, Tape};
use millrace_drivers::modbus::trace::{Cutter, Frame, Meaning};
use millrace_tags::Moment;

/// Tapes from anybody, once as they are and once with lines whose checksums are right: what is read can be shown, and
/// says the same when it is written again; what is not has a hint.
pub fn tape(data: &[u8]) {
    read(data);
    read(&with_checksums(data));
}

fn read(bytes: &[u8]) {
    let tape = match Tape::read(bytes) {
        Ok(tape) => tape,
        Err(error) => {
            assert!(!error.hint().is_empty(), "{error}");
            return;
        }
    };
    let mut cutter = Cutter::new(tape.label.kind);
    for piece in tape.pieces() {
        for frame in cutter.take(&piece) {
            let _ = Meaning::of(tape.label.kind, &frame);
        }
    }
    let again = Tape::read(&written(&tape)[..]).expect("what was written can be read");
    assert_eq!(again.label, tape.label);
    let kept = |tape: &Tape| {
        let records = tape.records.iter();
        let kept = records.map(|r| (r.link, r.way, r.bytes.clone(), r.missed));
        kept.collect::<Vec<_>>()
    };
    assert_eq!(kept(&again), kept(&tape));
    assert!(!again.is_cut_off);
}

fn written(tape: &Tape) -> Vec<u8> {
    let mut out = Vec::new();
    let mut recorder = Recorder::new(&mut out, &tape.label).expect("memory takes all");
    for record in &tape.records {
        let frame = Frame {
            at: Moment(0) + record.since,
            link: record.link,
            way: record.way,
            bytes: record.bytes.clone(),
            missed: record.missed,
            asked: None,
            is_answer: false,
        };
        recorder.record(&frame).expect("memory takes all");
    }
    recorder.finish().expect("memory takes all");
    out
}

/// The same lines, each but the first with its checksum in place of its last word.
fn with_checksums(data: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(data);
    let mut signed = String::from("millrace-tape 1\n");
    let mut sum = String::new();
    for line in text.lines().skip(1) {
        let content = line.rsplit_once(' ').map_or(line, |(content, _)| content);
        sum = format!("{:04X}", crc(format!("{sum}{content}").as_bytes()));
        signed.push_str(&format!("{content} {sum}\n"));
    }
    signed.into_bytes()
}
