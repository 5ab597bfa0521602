//! A Modbus TCP device that does nothing but answer, on a thread for each connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

const HEADER_BYTES: usize = 7;

/// Header, function, start and count of a read.
const READ_BYTES: usize = HEADER_BYTES + 5;

/// Where it listens, and when what was asked. Its threads end with the process.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) asked: Receiver<Asked>,
}

/// A read that came.
pub(super) struct Asked {
    pub(super) at: Instant,
    pub(super) start: u16,
}

/// What a device does besides answering.
#[derive(Clone, Copy)]
pub(super) enum Manner {
    /// It answers at once.
    Prompt,
    /// It says when it was asked.
    Noting,
    /// It takes so long for each reply, and works on all of them at the same time.
    Concurrent(Duration),
}

impl Server {
    pub(super) fn start(manner: Manner) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (noted, asked) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let noted = noted.clone();
                // A conversation ends when the client goes.
                thread::spawn(move || drop(converse(stream, manner, &noted)));
            }
        });
        Ok(Self { address, asked })
    }
}

fn converse(mut stream: TcpStream, manner: Manner, noted: &Sender<Asked>) -> Result<()> {
    stream.set_nodelay(true)?;
    let later = match manner {
        Manner::Concurrent(delay) => Some(reply_later(stream.try_clone()?, delay)),
        Manner::Prompt | Manner::Noting => None,
    };
    let (mut received, mut free) = ([0; 64 * READ_BYTES], 0);
    let mut replies = Vec::new();
    loop {
        let count = stream.read(&mut received[free..])?;
        let at = Instant::now();
        if count == 0 {
            return Ok(());
        }
        free += count;
        let whole = free / READ_BYTES * READ_BYTES;
        for request in received[..whole].chunks(READ_BYTES) {
            if matches!(manner, Manner::Noting) {
                let start = u16::from_be_bytes([request[8], request[9]]);
                noted.send(Asked { at, start })?;
            }
            match &later {
                Some(later) => {
                    let mut reply = Vec::new();
                    answer(request, &mut reply);
                    later.send((at, reply))?;
                }
                None => answer(request, &mut replies),
            }
        }
        received.copy_within(whole..free, 0);
        free -= whole;
        stream.write_all(&replies)?;
        replies.clear();
    }
}

/// Replies in the order of the requests, each so long after its own.
fn reply_later(mut stream: TcpStream, delay: Duration) -> Sender<(Instant, Vec<u8>)> {
    let (later, due) = channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        for (asked, reply) in due {
            thread::sleep((asked + delay).saturating_duration_since(Instant::now()));
            if stream.write_all(&reply).is_err() {
                return;
            }
        }
    });
    later
}

/// Appends the reply to a read of registers: each is worth its place.
fn answer(request: &[u8], replies: &mut Vec<u8>) {
    let start = u16::from_be_bytes([request[8], request[9]]);
    let count = u16::from_be_bytes([request[10], request[11]]);
    let data_bytes = count * 2;
    replies.extend_from_slice(&request[..4]);
    replies.extend_from_slice(&(data_bytes + 3).to_be_bytes());
    replies.extend_from_slice(&request[6..8]);
    replies.push(data_bytes as u8);
    replies.extend((start..start.saturating_add(count)).flat_map(u16::to_be_bytes));
}
