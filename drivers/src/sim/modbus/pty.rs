//! A serial line without wires: a pseudo-terminal whose far end clients open as they would a port.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{ControlFlags, SetArg, cfmakeraw, tcgetattr, tcsetattr};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::modbus::{Parity, SerialSettings, ioctl};

/// While nobody has opened the far end, it is looked at this often.
const CLOSED_PAUSE: Duration = Duration::from_millis(10);

/// The device's end.
pub(super) struct Pty {
    master: AsyncFd<OwnedFd>,
    path: PathBuf,
    /// Runs while the far end is closed.
    closed: Option<Pin<Box<Sleep>>>,
    /// Bytes at other settings are not understood.
    settings: Option<SerialSettings>,
}

impl Pty {
    /// Opens one, raw: bytes go through as they are.
    ///
    /// # Errors
    /// The system has none left.
    pub(super) fn open(settings: Option<SerialSettings>) -> io::Result<Self> {
        let master =
            posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let path = PathBuf::from(ptsname_r(&master)?);
        // The settings are those of the far end, and stay while this end is open.
        let mut far = tcgetattr(&master)?;
        cfmakeraw(&mut far);
        tcsetattr(&master, SetArg::TCSANOW, &far)?;
        // Its successor is unsafe for the sake of types that let go of their descriptor; this one does not.
        #[allow(deprecated)]
        let master = AsyncFd::new(OwnedFd::from(master))?;
        Ok(Self {
            master,
            path,
            closed: None,
            settings,
        })
    }

    /// Whether the far end is set as the device is. A pseudo-terminal keeps rate, stop bits and odd parity; even
    /// parity it forgets.
    fn is_understood(&self) -> bool {
        let Some(wanted) = &self.settings else {
            return true;
        };
        let Ok(far) = tcgetattr(self.master.get_ref()) else {
            return false;
        };
        let flags = far.control_flags;
        ioctl::baud(self.master.get_ref()).is_ok_and(|baud| baud == wanted.baud)
            && flags.contains(ControlFlags::PARODD) == (wanted.parity == Parity::Odd)
            && flags.contains(ControlFlags::CSTOPB) == (wanted.stop_bits == 2)
    }

    /// What clients open.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl AsyncRead for Pty {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if let Some(pause) = &mut self.closed {
                ready!(pause.as_mut().poll(context));
                self.closed = None;
            }
            let mut guard = ready!(self.master.poll_read_ready(context))?;
            let read =
                guard.try_io(|fd| Ok(nix::unistd::read(fd.as_fd(), buffer.initialize_unfilled())?));
            match read {
                Ok(Ok(0)) => return Poll::Ready(Ok(())),
                Ok(Ok(count)) => {
                    if !self.is_understood() {
                        continue;
                    }
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // Nobody has the far end open. The system does not say when somebody does.
                Ok(Err(error)) if error.raw_os_error() == Some(nix::errno::Errno::EIO as i32) => {
                    self.closed = Some(Box::pin(tokio::time::sleep(CLOSED_PAUSE)));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Pty {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.master.poll_write_ready(context))?;
            match guard.try_io(|fd| Ok(nix::unistd::write(fd.as_fd(), bytes)?)) {
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
