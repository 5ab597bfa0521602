//! One connection, with its own dice.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::wire::{self, Frame};
use super::{Script, Shared};

/// How long one look at the socket takes when nothing comes.
const LOOK: Duration = Duration::from_millis(1);
/// Bytes of one look at a fast link, and at a slow one.
const GULP: usize = 16 * 1024;
const SIP: usize = 64;
/// The reasons of MQTT 5 that mean "not now": quota, unspecified, the server's own trouble.
const NOT_NOW: [u8; 3] = [0x97, 0x80, 0x83];

/// How a connection ends.
enum End {
    /// By the script: counted as a cut.
    Cut,
    /// The client said goodbye, broke the protocol, or is gone.
    Closed,
}

struct Connection<'a> {
    stream: TcpStream,
    shared: &'a Shared,
    script: Script,
    dice: fastrand::Rng,
    era: u64,
    /// Bytes of either direction until it is cut.
    fuse: Option<u64>,
    slow: bool,
    stalls: bool,
    level: u8,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Ids whose PUBACK is due.
    due: Vec<u16>,
    /// Acknowledgements that come once more, later.
    late: Vec<u16>,
    /// So many are held before they go.
    batch: usize,
    /// What the client may have under way.
    window: Option<u16>,
    /// Ids that it has under way.
    open: Vec<u16>,
    heard: Instant,
}

/// Serves one connection until it ends.
pub fn serve(stream: TcpStream, number: u64, shared: &Shared) {
    let script = shared.script();
    // Neighbouring numbers must not draw alike.
    let seed = script.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut dice = fastrand::Rng::with_seed(seed);
    shared.count(|tally| tally.connections += 1);
    let ready = stream
        .set_read_timeout(Some(LOOK))
        .and_then(|()| stream.set_nodelay(true));
    if ready.is_err() {
        return;
    }
    let slow = drawn(&mut dice, script.slow_one_in);
    let stalls = drawn(&mut dice, script.stall_one_in);
    if slow {
        shared.count(|tally| tally.slow += 1);
    }
    let fuse = (script.cut_bytes_max > 0).then(|| dice.u64(1..=script.cut_bytes_max));
    // From 64 down to 1 and again: what one connection allowed, the next need not.
    let window = script.shrink_window.then(|| 64 >> (number % 7) as u16);
    let mut connection = Connection {
        era: shared.era.load(Ordering::SeqCst),
        batch: 1,
        stream,
        shared,
        script,
        dice,
        fuse,
        slow,
        stalls,
        level: 0,
        input: Vec::new(),
        output: Vec::new(),
        due: Vec::new(),
        late: Vec::new(),
        window,
        open: Vec::new(),
        heard: Instant::now(),
    };
    if let Err(End::Cut) = connection.run() {
        shared.count(|tally| tally.cuts += 1);
    }
}

fn drawn(dice: &mut fastrand::Rng, one_in: u32) -> bool {
    one_in > 0 && dice.u32(0..one_in) == 0
}

impl Connection<'_> {
    fn draws(&mut self, one_in: u32) -> bool {
        drawn(&mut self.dice, one_in)
    }

    fn run(&mut self) -> Result<(), End> {
        loop {
            if self.era != self.shared.era.load(Ordering::SeqCst) {
                return Err(End::Closed);
            }
            if self.stalls && self.dice.u32(0..6) == 0 {
                self.shared.count(|tally| tally.stalls += 1);
                std::thread::sleep(Duration::from_millis(self.dice.u64(5..100)));
            }
            let came = self.read()?;
            while let Some(frame) = wire::take_frame(&mut self.input).map_err(|()| End::Closed)? {
                self.handle(&frame)?;
            }
            if !came || self.due.len() >= self.batch {
                self.release();
            }
            self.write()?;
            let idle = Duration::from_millis(self.script.idle_cut_ms);
            if !idle.is_zero() && self.level > 0 && self.heard.elapsed() > idle {
                return Err(End::Cut);
            }
        }
    }

    /// Takes what has come, up to the cut. Whether anything had.
    fn read(&mut self) -> Result<bool, End> {
        // Of any size, so that acknowledgements go between what comes as one.
        let mut room = 1 << self.dice.u32(5..=GULP.ilog2());
        if self.slow {
            room = room.min(SIP);
        }
        if let Some(fuse) = self.fuse {
            room = room.min(usize::try_from(fuse).unwrap_or(room));
        }
        if room == 0 {
            return Err(End::Cut);
        }
        if self.slow {
            std::thread::sleep(LOOK);
        }
        let mut bytes = [0; GULP];
        match self.stream.read(&mut bytes[..room]) {
            Ok(0) => Err(End::Closed),
            Ok(count) => {
                self.input.extend_from_slice(&bytes[..count]);
                self.heard = Instant::now();
                self.burn(count);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(false)
            }
            Err(_) => Err(End::Closed),
        }
    }

    fn burn(&mut self, bytes: usize) {
        if let Some(fuse) = &mut self.fuse {
            *fuse = fuse.saturating_sub(bytes as u64);
        }
    }

    /// Sends what is there, up to the cut, which may lie in the middle of a packet.
    fn write(&mut self) -> Result<(), End> {
        while !self.output.is_empty() {
            let mut count = self.output.len();
            if self.slow {
                count = count.min(3);
                std::thread::sleep(LOOK);
            }
            if let Some(fuse) = self.fuse {
                count = count.min(usize::try_from(fuse).unwrap_or(count));
            }
            if count == 0 {
                return Err(End::Cut);
            }
            let piece: Vec<u8> = self.output.drain(..count).collect();
            self.stream.write_all(&piece).map_err(|_| End::Closed)?;
            self.burn(count);
        }
        Ok(())
    }

    fn handle(&mut self, frame: &Frame) -> Result<(), End> {
        let kind = frame.head >> 4;
        if self.level == 0 {
            return match kind {
                1 => self.on_connect(frame),
                _ => Err(End::Closed),
            };
        }
        match kind {
            3 => self.on_publish(frame),
            8 => {
                let (id, count) = wire::filters(frame, self.level, true).ok_or(End::Closed)?;
                self.output.extend(wire::suback(self.level, id, count));
                Ok(())
            }
            10 => {
                let (id, count) = wire::filters(frame, self.level, false).ok_or(End::Closed)?;
                self.output.extend(wire::unsuback(self.level, id, count));
                Ok(())
            }
            12 => {
                self.output.extend([0xD0, 0]);
                Ok(())
            }
            _ => Err(End::Closed),
        }
    }

    fn on_connect(&mut self, frame: &Frame) -> Result<(), End> {
        let level = wire::connect_level(&frame.body).ok_or(End::Closed)?;
        if level == 5 && self.script.only_v4 {
            // As brokers of 3.1.1 do: return code 1, and the end.
            let _ = self
                .stream
                .write_all(&wire::connack(4, false, 1, None, None));
            return Err(End::Closed);
        }
        if self.draws(self.script.slam_one_in) {
            self.shared.count(|tally| tally.refused += 1);
            return Err(End::Closed);
        }
        if self.draws(self.script.refuse_one_in) {
            self.shared.count(|tally| tally.refused += 1);
            // The service is unavailable; with MQTT 5 the server is busy.
            let code = if level == 5 { 0x89 } else { 3 };
            let _ = self
                .stream
                .write_all(&wire::connack(level, false, code, None, None));
            return Err(End::Closed);
        }
        self.level = level;
        let session = self.draws(self.script.false_session_one_in);
        let packet_max = self.script.message_bytes_max.map(|most| most as u32);
        let connack = wire::connack(level, session, 0, self.window, packet_max);
        self.output.extend(connack);
        Ok(())
    }

    fn on_publish(&mut self, frame: &Frame) -> Result<(), End> {
        let Some(message) = wire::publish(frame, self.level) else {
            self.shared.count(|tally| tally.violations += 1);
            return Err(End::Closed);
        };
        if self
            .script
            .message_bytes_max
            .is_some_and(|most| frame.bytes > most)
        {
            let told = u64::from(self.level == 5);
            self.shared.count(|tally| {
                tally.oversize += 1;
                tally.violations += told;
            });
            return Err(End::Cut);
        }
        if message.qos == 0 {
            self.shared.take(&message.topic, &message.payload);
            return Ok(());
        }
        if self.open.contains(&message.id) {
            self.shared.count(|tally| tally.violations += 1);
        }
        self.open.push(message.id);
        if self.level == 5
            && self
                .window
                .is_some_and(|most| self.open.len() > usize::from(most))
        {
            self.shared.count(|tally| tally.violations += 1);
        }
        if self.draws(self.script.swallow_one_in) {
            self.shared.count(|tally| tally.swallowed += 1);
            return Ok(());
        }
        if self.level == 5 && self.draws(self.script.reason_one_in) {
            self.shared.count(|tally| tally.reasons += 1);
            let reason = NOT_NOW[self.dice.usize(..NOT_NOW.len())];
            self.close(message.id);
            self.output.extend(wire::puback(message.id, reason));
            return Ok(());
        }
        self.shared.take(&message.topic, &message.payload);
        if self.draws(self.script.lose_ack_one_in) {
            self.shared.count(|tally| tally.lost_acks += 1);
            return Ok(());
        }
        self.due.push(message.id);
        Ok(())
    }

    /// The id is free again for the client.
    fn close(&mut self, id: u16) {
        if let Some(at) = self.open.iter().position(|open| *open == id) {
            self.open.swap_remove(at);
        }
    }

    /// Writes the PUBACKs that are due, and what else seems fit.
    fn release(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        if self.script.reorder && due.len() > 1 {
            self.dice.shuffle(&mut due);
            self.shared.count(|tally| tally.reorders += 1);
        }
        if self.dice.u8(0..4) == 0 {
            for id in std::mem::take(&mut self.late) {
                self.shared.count(|tally| tally.duplicates += 1);
                self.output.extend(wire::puback(id, 0));
            }
        }
        for id in due {
            self.close(id);
            self.output.extend(wire::puback(id, 0));
            if self.draws(self.script.duplicate_one_in) {
                if self.dice.bool() {
                    self.shared.count(|tally| tally.duplicates += 1);
                    self.output.extend(wire::puback(id, 0));
                } else {
                    self.late.push(id);
                }
            }
            if self.draws(self.script.stray_one_in) {
                self.shared.count(|tally| tally.strays += 1);
                // Far from those that are in use.
                self.output
                    .extend(wire::puback(id.wrapping_add(30_000).max(1), 0));
            }
        }
        self.batch = match self.script.reorder {
            true => self.dice.usize(1..=12),
            false => 1,
        };
    }
}
