//! A way to a broker that breaks when it is told to.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;

/// Carries connections on loopback to another port; ends with its drop, and they with it.
pub struct Cutter {
    /// Where it listens, on loopback.
    pub port: u16,
    open: Arc<Mutex<Vec<TcpStream>>>,
    ended: Arc<AtomicBool>,
}

impl Cutter {
    /// To what listens on port `to`.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(to: u16) -> Result<Cutter> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let cutter = Cutter {
            port: listener.local_addr()?.port(),
            open: Arc::default(),
            ended: Arc::default(),
        };
        let (open, ended) = (Arc::clone(&cutter.open), Arc::clone(&cutter.ended));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ended.load(Ordering::Acquire) {
                    break;
                }
                // A broker that is away: the client is hung up on.
                let _ = join(client, to, &open);
            }
        });
        Ok(cutter)
    }

    /// Ends every connection amid whatever it carries; returns how many there were.
    pub fn cut(&self) -> usize {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Each has two ends.
        let ends = open
            .drain(..)
            .filter(|end| end.shutdown(Shutdown::Both).is_ok());
        ends.count() / 2
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // Wakes the listener.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        self.cut();
    }
}

fn join(client: TcpStream, to: u16, open: &Mutex<Vec<TcpStream>>) -> std::io::Result<()> {
    let broker = TcpStream::connect(("127.0.0.1", to))?;
    for (from, into) in [(&client, &broker), (&broker, &client)] {
        let (from, into) = (from.try_clone()?, into.try_clone()?);
        std::thread::spawn(move || carry(from, into));
    }
    let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
    open.extend([client, broker]);
    Ok(())
}

fn carry(mut from: TcpStream, mut into: TcpStream) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if into.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // Where one end is gone, so is the other.
    let _ = (from.shutdown(Shutdown::Both), into.shutdown(Shutdown::Both));
}
