//! A serial line without wires, at the pace of one: a pseudo-terminal whose far end keeps the time of every byte.
//!
//! A request is there when its bytes would have crossed the line; the unit keeps t3.5, and each byte of the reply is written
//! when its last bit would have come. What the client takes longer than that is its own, and this machine's.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use millrace_drivers::modbus::frame::rtu::{self, RequestLength};
use millrace_drivers::modbus::{Pace, Parity, SerialSettings};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

/// The line looks up this often whether it is still wanted.
const LOOK_UP_MS: u16 = 100;

/// A line and the units on it: each answers reads and writes of any register.
pub(super) struct Wire {
    pub(super) settings: SerialSettings,
    /// When a write had arrived with its last byte.
    pub(super) written: Receiver<Instant>,
    /// Time that frames and silences took so far, nanoseconds.
    busy: Arc<AtomicU64>,
    /// How much later than they should the last bytes of replies were written, nanoseconds.
    late: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    unit: Option<JoinHandle<()>>,
}

impl Wire {
    /// A line of 8N1.
    pub(super) fn open(baud: u32) -> Result<Self> {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let mut settings = SerialSettings::new(ptsname_r(&master)?);
        (settings.baud, settings.parity) = (baud, Parity::None);
        let mut far = tcgetattr(&master)?;
        cfmakeraw(&mut far);
        tcsetattr(&master, SetArg::TCSANOW, &far)?;
        let (busy, late, stop): (Arc<AtomicU64>, Arc<AtomicU64>, Arc<AtomicBool>) =
            Default::default();
        let (written, writes) = channel();
        let mut units = Units {
            port: master,
            pace: settings.pace(),
            registers: HashMap::new(),
            busy: Arc::clone(&busy),
            late: Arc::clone(&late),
            stop: Arc::clone(&stop),
            written,
        };
        let unit = thread::spawn(move || {
            // Sleeps end when they are told to, as far as this machine can.
            let _ = nix::sys::prctl::set_timerslack(1);
            // The client has gone.
            let _ = units.run();
        });
        Ok(Self {
            settings,
            written: writes,
            busy,
            late,
            stop,
            unit: Some(unit),
        })
    }

    /// What the frames and silences of all exchanges took of the line so far, had nobody been late.
    pub(super) fn busy(&self) -> Duration {
        Duration::from_nanos(self.busy.load(Ordering::Relaxed))
    }

    /// How late the far end itself was so far: this machine's part, and none of the driver's.
    pub(super) fn late(&self) -> Duration {
        Duration::from_nanos(self.late.load(Ordering::Relaxed))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(unit) = self.unit.take() {
            // One that panicked is as quiet as one that ended.
            let _ = unit.join();
        }
    }
}

/// The far end.
struct Units {
    port: PtyMaster,
    pace: Pace,
    registers: HashMap<(u8, u16), u16>,
    busy: Arc<AtomicU64>,
    late: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    written: Sender<Instant>,
}

impl Units {
    fn run(&mut self) -> io::Result<()> {
        loop {
            let Some((request, begun)) = self.request()? else {
                return Ok(());
            };
            let arrived = begun + self.pace.bytes(request.len());
            let Some((unit, pdu)) = rtu::decode(&request) else {
                continue;
            };
            let Some(reply) = self.answer(unit, pdu, arrived) else {
                continue;
            };
            let reply = rtu::encode(unit, &reply);
            let begin = arrived + self.pace.silence;
            self.send(&reply, begin)?;
            let late = begin.elapsed().saturating_sub(self.pace.bytes(reply.len()));
            let late = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
            self.late.fetch_add(late, Ordering::Relaxed);
            let exchange = self.pace.exchange(request.len(), reply.len());
            let nanos = u64::try_from(exchange.as_nanos()).unwrap_or(u64::MAX);
            self.busy.fetch_add(nanos, Ordering::Relaxed);
        }
    }

    /// The next request, and when its first byte was sent; `None` at the end.
    fn request(&mut self) -> io::Result<Option<(Vec<u8>, Instant)>> {
        let (mut request, mut begun) = (Vec::new(), Instant::now());
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let mut ready = [PollFd::new(self.port.as_fd(), PollFlags::POLLIN)];
            poll(&mut ready, PollTimeout::from(LOOK_UP_MS))?;
            let events = ready[0].revents().unwrap_or(PollFlags::empty());
            if !events.contains(PollFlags::POLLIN) {
                if events.contains(PollFlags::POLLHUP) {
                    // Nobody has the near end open.
                    thread::sleep(Duration::from_millis(1));
                }
                continue;
            }
            if request.is_empty() {
                begun = Instant::now();
            }
            let mut bytes = [0; rtu::FRAME_BYTES_MAX];
            let count = nix::unistd::read(&self.port, &mut bytes)?;
            request.extend_from_slice(&bytes[..count]);
            match rtu::request_bytes(&request) {
                RequestLength::Bytes(length) if request.len() >= length => {
                    return Ok(Some((request, begun)));
                }
                RequestLength::ForeignFunction => request.clear(),
                RequestLength::Bytes(_) | RequestLength::Unknown => {}
            }
        }
    }

    /// Registers are worth their place until they are written.
    fn answer(&mut self, unit: u8, pdu: &[u8], arrived: Instant) -> Option<Vec<u8>> {
        let [function, a, b, c, d, rest @ ..] = pdu else {
            return None;
        };
        let (start, count) = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
        match function {
            3 => {
                let mut reply = vec![3, (count * 2) as u8];
                let worth = |at: u16| self.registers.get(&(unit, at)).copied().unwrap_or(at);
                reply.extend((start..start + count).flat_map(|at| worth(at).to_be_bytes()));
                return Some(reply);
            }
            6 => drop(self.registers.insert((unit, start), count)),
            16 => {
                let words = rest.get(1..)?.chunks_exact(2);
                let values = words.map(|word| u16::from_be_bytes([word[0], word[1]]));
                self.registers
                    .extend((start..).map(|at| (unit, at)).zip(values));
            }
            // It has no such function, and says so.
            _ => return Some(vec![function | 0x80, 1]),
        }
        // Whoever measures may have gone.
        let _ = self.written.send(arrived);
        Some(pdu[..5].to_vec())
    }

    /// Writes each byte when its last bit would have come; what is due already goes at once.
    fn send(&self, reply: &[u8], begin: Instant) -> io::Result<()> {
        let byte = self.pace.byte;
        let mut sent = 0;
        while sent < reply.len() {
            let next = begin + byte * (sent as u32 + 1);
            thread::sleep(next.saturating_duration_since(Instant::now()));
            let since = Instant::now().saturating_duration_since(begin);
            let due = (since.as_nanos() / byte.as_nanos().max(1)) as usize;
            let due = due.clamp(sent + 1, reply.len());
            sent += nix::unistd::write(&self.port, &reply[sent..due])?;
        }
        Ok(())
    }
}
