//! A recorded bus as a device: it answers what was asked with what was answered, faults and all.
//!
//! - The same request to the same unit gets the recorded replies in their order, each as late as it was. Noise, wrong
//!   checksums, silence and closed connections come again as they came. After the last of them the last good reply is
//!   given again and again.
//! - Over TCP a reply has the transaction of the request that is asked now; one that was stale stays stale.
//! - A read that was never asked is answered from what the tape has shown of its addresses so far, else refused as an
//!   illegal data address; so is any other request. A unit that is not on the tape is silent; over TCP a gateway says so.
//! - Requests are answered one after the other.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::frame::{Asked, Framing, Parsed};
use super::server::listen;
use super::{Listen, pty};
use crate::modbus::tape::{Record, Tape};
use crate::modbus::trace::Kind;
use crate::modbus::{ReadRequest, Request, Table, Way};

/// Bytes of an unfinished request are dropped after so long a silence.
const QUIET: Duration = Duration::from_millis(40);

/// After a connection that could not be had.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The exceptions of what is not on the tape.
const ILLEGAL_DATA_ADDRESS: u8 = 2;
const GATEWAY_TARGET: u8 = 11;

/// What was asked and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Reply {
    /// The transaction that it was asked with.
    transaction: u16,
    /// Bytes, and how long after the request they came.
    pieces: Vec<(Duration, Vec<u8>)>,
    /// The connection was closed.
    closes: bool,
}

/// The replies to one request, in order.
#[derive(Debug, Clone, Default)]
struct Replies {
    all: Vec<Reply>,
    next: usize,
    last_good: Option<usize>,
}

/// A tape, ready to answer.
#[derive(Debug, Clone)]
pub struct TapeDevice {
    framing: Framing,
    replies: HashMap<(u8, Vec<u8>), Replies>,
    units: BTreeSet<u8>,
    /// What the replies that were given so far have shown.
    shown: HashMap<(u8, Table, u16), u16>,
    counts: TapeCounts,
}

/// What was asked of a played tape.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TapeCounts {
    /// Requests.
    pub requests: u64,
    /// Those among them that are not on the tape.
    pub unknown: u64,
}

impl TapeDevice {
    /// Sorts the records into requests and their replies.
    pub fn new(tape: &Tape) -> Self {
        let framing = match tape.label.kind {
            Kind::Tcp => Framing::Tcp,
            Kind::Rtu => Framing::Rtu,
        };
        let mut sorter = Sorter {
            framing,
            replies: HashMap::new(),
            links: BTreeMap::new(),
        };
        for record in &tape.records {
            sorter.take(record);
        }
        let links = std::mem::take(&mut sorter.links);
        links
            .into_values()
            .for_each(|link| sorter.forget_unanswered(&link));
        let mut replies = sorter.replies;
        replies.retain(|_, replies| !replies.all.is_empty());
        for ((unit, pdu), replies) in &mut replies {
            let good = |reply: &Reply| is_good(framing, *unit, pdu, reply);
            replies.last_good = replies.all.iter().rposition(good);
        }
        Self {
            framing,
            units: replies.keys().map(|(unit, _)| *unit).collect(),
            replies,
            shown: HashMap::new(),
            counts: TapeCounts::default(),
        }
    }

    /// Units that were asked on the tape.
    pub fn units(&self) -> impl Iterator<Item = u8> + '_ {
        self.units.iter().copied()
    }

    /// What comes of this request now.
    fn answer(&mut self, asked: &Asked) -> Reply {
        self.counts.requests += 1;
        let key = (asked.unit, asked.pdu.clone());
        if let Some(replies) = self.replies.get_mut(&key) {
            let reply = replies.take();
            self.show(asked, &reply);
            return reply;
        }
        self.counts.unknown += 1;
        let exception = |code| vec![asked.pdu[0] | 0x80, code];
        let pdu = match (self.units.contains(&asked.unit), self.framing) {
            (true, _) => self
                .read_shown(asked)
                .unwrap_or_else(|| exception(ILLEGAL_DATA_ADDRESS)),
            (false, Framing::Tcp) => exception(GATEWAY_TARGET),
            (false, Framing::Rtu) => return Reply::default(),
        };
        let frame = self.framing.frame(asked.transaction, asked.unit, &pdu);
        Reply {
            transaction: asked.transaction,
            pieces: vec![(Duration::ZERO, frame)],
            closes: false,
        }
    }

    /// Remembers the values of a good reply to a read, and those of a write that was confirmed.
    fn show(&mut self, asked: &Asked, reply: &Reply) {
        let Some(pdu) = good_pdu(self.framing, asked.unit, &asked.pdu, reply) else {
            return;
        };
        let (table, start, values) = match Request::decode(&asked.pdu) {
            Some(Request::Read(read)) => (read.table, read.start, values_of(&read, &pdu[2..])),
            Some(Request::WriteRegister { address, value }) => {
                (Table::Holding, address, vec![value])
            }
            Some(Request::WriteRegisters { start, values }) => (Table::Holding, start, values),
            Some(Request::WriteCoil { address, on }) => (Table::Coil, address, vec![u16::from(on)]),
            _ => return,
        };
        for (value, at) in values.into_iter().zip(start..=u16::MAX) {
            self.shown.insert((asked.unit, table, at), value);
        }
    }

    fn read_shown(&self, asked: &Asked) -> Option<Vec<u8>> {
        let Some(Request::Read(read)) = Request::decode(&asked.pdu) else {
            return None;
        };
        let last = read.start.checked_add(read.count.checked_sub(1)?)?;
        let values = (read.start..=last).map(|at| self.shown.get(&(asked.unit, read.table, at)));
        let values: Vec<u16> = values.map(Option::<&u16>::copied).collect::<Option<_>>()?;
        let data: Vec<u8> = match read.table.is_bits() {
            true => values.chunks(8).map(pack).collect(),
            false => values
                .iter()
                .flat_map(|value| value.to_be_bytes())
                .collect(),
        };
        let count = u8::try_from(data.len()).ok()?;
        Some([&[asked.pdu[0], count], &data[..]].concat())
    }
}

fn pack(bits: &[u16]) -> u8 {
    let bits = bits.iter().enumerate();
    bits.fold(0, |byte, (i, bit)| byte | u8::from(*bit != 0) << i)
}

fn values_of(read: &ReadRequest, data: &[u8]) -> Vec<u16> {
    if read.table.is_bits() {
        let bit = |i: u16| {
            let byte = data.get(usize::from(i / 8))?;
            Some(u16::from(byte >> (i % 8) & 1))
        };
        return (0..read.count).map_while(bit).collect();
    }
    let words = data.chunks_exact(2);
    words
        .map(|two| u16::from_be_bytes([two[0], two[1]]))
        .collect()
}

impl Replies {
    fn take(&mut self) -> Reply {
        let at = match self.next < self.all.len() {
            true => self.next,
            // The list is never empty.
            false => self.last_good.unwrap_or(self.all.len() - 1),
        };
        self.next += 1;
        self.all[at].clone()
    }
}

/// The reply's PDU, where it came whole and answers the request; an exception does, too.
fn good_pdu(framing: Framing, unit: u8, asked: &[u8], reply: &Reply) -> Option<Vec<u8>> {
    let function = *asked.first()?;
    let of = |frame: &Vec<u8>| {
        let (transaction, of, pdu) = match framing {
            Framing::Tcp => {
                let pdu = frame.get(7..)?;
                let length = usize::from(u16::from_be_bytes([frame[4], frame[5]]));
                let transaction = u16::from_be_bytes([frame[0], frame[1]]);
                (length == pdu.len() + 1).then_some((transaction, frame[6], pdu))?
            }
            Framing::Rtu => {
                let (of, pdu) = crate::modbus::frame::rtu::decode(frame)?;
                (reply.transaction, of, pdu)
            }
        };
        let is_right = transaction == reply.transaction && of == unit && pdu.len() > 1;
        (is_right && pdu[0] == function).then(|| pdu.to_vec())
    };
    reply.pieces.iter().rev().find_map(|(_, frame)| of(frame))
}

fn is_good(framing: Framing, unit: u8, asked: &[u8], reply: &Reply) -> bool {
    !reply.closes && good_pdu(framing, unit, asked, reply).is_some()
}

/// A request of a link that more bytes may belong to.
struct Open {
    key: (u8, Vec<u8>),
    /// Its number among the replies of this key.
    nth: usize,
    transaction: u16,
    at: Duration,
}

/// Sorts records by requests.
struct Sorter {
    framing: Framing,
    replies: HashMap<(u8, Vec<u8>), Replies>,
    links: BTreeMap<u64, VecDeque<Open>>,
}

/// Requests of a connection whose replies are waited for.
const OPEN_MAX: usize = 64;

impl Sorter {
    fn take(&mut self, record: &Record) {
        if record.missed > 0 {
            // Whose reply comes next is not known.
            let links = std::mem::take(&mut self.links);
            links
                .into_values()
                .for_each(|link| self.forget_unanswered(&link));
        }
        let open = self.links.entry(record.link).or_default();
        match record.way {
            Way::Sent => {
                let Parsed::Whole(asked) = self.framing.parse(&record.bytes) else {
                    return;
                };
                let key = (asked.unit, asked.pdu);
                let replies = self.replies.entry(key.clone()).or_default();
                replies.all.push(Reply {
                    transaction: asked.transaction,
                    ..Reply::default()
                });
                if open.len() == OPEN_MAX {
                    open.pop_front();
                }
                open.push_back(Open {
                    nth: replies.all.len() - 1,
                    transaction: asked.transaction,
                    at: record.since,
                    key,
                });
            }
            Way::Received => {
                let transaction = record.bytes.first_chunk().map(|id| u16::from_be_bytes(*id));
                let same = |open: &&Open| {
                    self.framing == Framing::Tcp && Some(open.transaction) == transaction
                };
                let of = open.iter().rev().find(same).or(open.back());
                let reply = of
                    .and_then(|of| Some((of, self.replies.get_mut(&of.key)?.all.get_mut(of.nth)?)));
                if let Some((of, reply)) = reply {
                    let after = record.since.saturating_sub(of.at);
                    reply.pieces.push((after, record.bytes.clone()));
                }
            }
            Way::Lost => {
                let of = open.back();
                let reply = of.and_then(|of| self.replies.get_mut(&of.key)?.all.get_mut(of.nth));
                if let Some(reply) = reply {
                    reply.closes = true;
                }
                self.links.remove(&record.link);
            }
        }
    }

    /// A request whose reply may not have been recorded says nothing.
    fn forget_unanswered(&mut self, link: &VecDeque<Open>) {
        if let Some(last) = link.back()
            && let Some(replies) = self.replies.get_mut(&last.key)
            && replies.all.len() == last.nth + 1
            && replies.all[last.nth].pieces.is_empty()
        {
            replies.all.pop();
        }
    }
}

/// A played tape behind an address; it ends when this is dropped.
pub struct PlayedTape {
    address: String,
    device: Arc<Mutex<TapeDevice>>,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

fn lock(device: &Mutex<TapeDevice>) -> MutexGuard<'_, TapeDevice> {
    // Whole between any two statements that could panic.
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PlayedTape {
    /// Listens. `at_once` leaves out the time that the device took.
    ///
    /// # Errors
    /// The port, or a pseudo-terminal, cannot be had; or frames of this tape do not go that way.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start(listen_on: &Listen, device: TapeDevice, at_once: bool) -> io::Result<Self> {
        let is_tcp = device.framing == Framing::Tcp;
        let device = Arc::new(Mutex::new(device));
        let stop = CancellationToken::new();
        let player = Player {
            device: Arc::clone(&device),
            at_once,
        };
        let (address, server) = match listen_on {
            Listen::Tcp(address) if is_tcp => serve(address, player, &stop)?,
            Listen::RtuOverTcp(address) if !is_tcp => serve(address, player, &stop)?,
            #[cfg(unix)]
            Listen::Pty if !is_tcp => {
                let pty = pty::Pty::open(None)?;
                let address = pty.path().display().to_string();
                let stop = stop.clone();
                let playing = async move {
                    let _ = stop.run_until_cancelled(player.play(pty, true)).await;
                };
                (address, tokio::spawn(playing))
            }
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(Self {
            address,
            device,
            stop,
            server,
        })
    }

    /// Where it is found: `host:port`, or the path of a pseudo-terminal.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What was asked so far.
    pub fn counts(&self) -> TapeCounts {
        lock(&self.device).counts
    }

    /// Closes the port and all connections.
    pub async fn shutdown(self) {
        self.stop.cancel();
        // A server that panicked is as closed as one that ended.
        let _ = self.server.await;
    }
}

fn serve(
    address: &str,
    player: Player,
    stop: &CancellationToken,
) -> io::Result<(String, JoinHandle<()>)> {
    let listener = TcpListener::from_std(listen(address)?)?;
    let bound: SocketAddr = listener.local_addr()?;
    let stop = stop.clone();
    let serving = async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            };
            // A reply that waits for more to come would be late.
            let _ = stream.set_nodelay(true);
            let (player, stop) = (player.clone(), stop.clone());
            tokio::spawn(async move {
                // A connection ends when its client goes; there is nobody to tell.
                let _ = stop.run_until_cancelled(player.play(stream, false)).await;
            });
        }
    };
    Ok((bound.to_string(), tokio::spawn(serving)))
}

#[derive(Clone)]
struct Player {
    device: Arc<Mutex<TapeDevice>>,
    at_once: bool,
}

impl Player {
    /// Answers until the client goes, or the tape says that the connection was closed, which a line never is.
    async fn play(
        self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        is_line: bool,
    ) -> io::Result<()> {
        let framing = lock(&self.device).framing;
        let mut inbox = Vec::new();
        loop {
            let asked = next_request(&mut stream, framing, &mut inbox).await?;
            let begun = Instant::now();
            let reply = lock(&self.device).answer(&asked);
            for (after, mut bytes) in reply.pieces {
                if !self.at_once {
                    tokio::time::sleep_until(begun + after).await;
                }
                if framing == Framing::Tcp
                    && let Some(id) = bytes.first_chunk_mut::<2>()
                {
                    let off = u16::from_be_bytes(*id).wrapping_sub(reply.transaction);
                    *id = asked.transaction.wrapping_add(off).to_be_bytes();
                }
                stream.write_all(&bytes).await?;
            }
            if reply.closes && !is_line {
                return Ok(());
            }
        }
    }
}

async fn next_request(
    stream: &mut (impl AsyncRead + Unpin),
    framing: Framing,
    inbox: &mut Vec<u8>,
) -> io::Result<Asked> {
    loop {
        match framing.parse(inbox) {
            Parsed::Whole(asked) => {
                inbox.drain(..asked.bytes);
                return Ok(asked);
            }
            Parsed::Noise if framing == Framing::Tcp => {
                return Err(io::ErrorKind::InvalidData.into());
            }
            _ => {}
        }
        let is_begun = framing == Framing::Rtu && !inbox.is_empty();
        let receiving = stream.read_buf(inbox);
        let received = match is_begun {
            true => match tokio::time::timeout(QUIET, receiving).await {
                Ok(received) => received?,
                Err(_) => {
                    inbox.clear();
                    continue;
                }
            },
            false => receiving.await?,
        };
        if received == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

#[cfg(test)]
mod tests;
